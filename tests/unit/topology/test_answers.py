"""What graphs, placements, partitions and mixing rules of installed packages may answer, and how they are refused."""

from typing import Literal

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array

import topology
from topology.arrays import all_pairs
from topology.graphs import GraphLinks
from topology.mixing import gossip_weights
from topology.partition import task_mixture
from topology.placement import place
from topology.tables import GRAPHS, MIXINGS, PARTITIONS, PLACEMENTS

AREA = (10.0, 20.0)
LINE = [[0, 1], [1, 2], [2, 3]]


def rng():
    return np.random.default_rng(0)


@pytest.fixture
def named(monkeypatch):
    """Puts an object under the name `own` of a table."""
    return lambda table, found: monkeypatch.setitem(table._loaded, "own", found)


def built(**options):
    return topology.build(
        "own", positions_m=rng().random((4, 2)), mixture=np.ones((4, 1)), candidate_pairs=all_pairs(4),
        airtime_s_per_mb=np.ones(6), mean_snr_db=np.ones(6), rng=rng(), options=options,
    )  # fmt: skip


def test_options_may_have_the_names_of_what_the_project_gives(named):
    def graph(
        inputs, *, kind: Literal["a", "b"] = "a", reach: int = 1, rng: int = 2, positions_m: float = 0.0
    ):
        return GraphLinks(np.array([[0, {"a": 1, "b": 2}[kind]], [reach, rng]]))

    named(GRAPHS, graph)
    assert built(kind="b", reach=3, rng=1, positions_m=4.0).edges.tolist() == [[0, 2], [1, 3]]
    named(PLACEMENTS, lambda count, *, area_m, rng, kind=1.0: np.full((count, 2), kind))
    assert place("own", 2, area_m=AREA, rng=rng(), kind=3.0).tolist() == [[3, 3], [3, 3]]
    named(PARTITIONS, lambda devices, tasks, *, rng, kind=0: np.eye(tasks)[np.full(devices, kind)])
    assert task_mixture("own", 2, 2, rng=rng(), kind=1).tolist() == [[0, 1], [0, 1]]


def test_plain_lists_and_whole_numbers_are_taken(named):
    named(GRAPHS, lambda inputs: GraphLinks(LINE))
    assert built().edges.tolist() == LINE
    named(GRAPHS, lambda inputs: GraphLinks(np.array([[0.0, 1.0]]), relays=((-1, [1, 0, 3]),)))
    assert built().relay_hops.tolist() == [1, 0, 3]
    named(PLACEMENTS, lambda count, *, area_m, rng: [(1, 2)] * count)
    assert place("own", 2, area_m=AREA, rng=rng()).dtype == np.float64
    named(PARTITIONS, lambda devices, tasks, *, rng: np.ones((devices, tasks), dtype=bool))
    assert task_mixture("own", 1, 4, rng=rng()).tolist() == [[0.25] * 4]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "gave NoneType; expected topology.graphs.GraphLinks"),
        (np.array(LINE), "gave ndarray; expected"),
        (GraphLinks(np.array([0, 1, 2])), r"edges: expected an array of shape \(E, 2\), got \(3,\)"),
        (GraphLinks(np.array([[0, 4]])), r"edges: device numbers must lie in 0\.\.3"),
        (GraphLinks(np.array([[0.5, 1.0]])), "edges: expected whole numbers of devices, got 0.5"),
        (GraphLinks(np.array([["a", "b"]])), "edges gave no array of numbers"),
        (GraphLinks(LINE, hops=np.array([[1, 1]])), "hops: device 1 is linked to itself"),
        (GraphLinks(LINE, cluster=np.zeros(3)), r"labels of shape \(3,\); expected \(4,\)"),
        (GraphLinks(LINE, relays=((0, np.array([0, 1, 9])),)), "relays over devices 0 to 9; expected 0 to 3"),
        (GraphLinks(LINE, relays=((0, np.array([0])),)), "a relay over fewer than two devices"),
        (GraphLinks(LINE, relays=(3,)), "relays that are no"),
    ],
)
def test_a_graph_that_answers_no_links_is_named(named, answer, said):
    named(GRAPHS, lambda inputs: answer)
    with pytest.raises(ValueError, match=f"the graph 'own'.*{said}"):
        built()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.ones((3, 2)), r"positions of shape \(3, 2\); expected \(4, 2\)"),
        (
            np.full((4, 2), np.nan),
            r"gave device 0 the place \[nan, nan\]; expected a place within 10 m x 20 m",
        ),
        ([[1, 1], [1, 1], [11, 1], [1, 1]], r"gave device 2 the place \[11.0, 1.0\]"),
        (None, r"gave positions of shape \(\)"),
        ("here", "gave no array of numbers but str"),
    ],
)
def test_a_placement_that_gives_no_places_is_named(named, answer, said):
    named(PLACEMENTS, lambda count, *, area_m, rng: answer)
    with pytest.raises(ValueError, match=f"placement 'own' .*{said}"):
        place("own", 4, area_m=AREA, rng=rng())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.ones((2, 3)), r"weights of shape \(2, 3\); expected \(3, 2\)"),
        ([[1, 0], [0, 0], [1, 1]], "gave device 1 no task"),
        ([[1, 0], [2, -1], [1, 1]], r"gave device 1 the weights \[2.0, -1.0\]"),
        ([[1, 0], [1, 0], [np.nan, 1]], "gave device 2 the weights"),
    ],
)
def test_a_partition_that_gives_no_shares_is_named(named, answer, said):
    named(PARTITIONS, lambda devices, tasks, *, rng: answer)
    with pytest.raises(ValueError, match=f"partition 'own' .*{said}"):
        task_mixture("own", 3, 2, rng=rng())


def test_what_is_raised_names_the_thing(named):
    named(GRAPHS, lambda inputs: {}["x"])
    named(PLACEMENTS, lambda count, *, area_m, rng: {}["x"])
    named(PARTITIONS, lambda devices, tasks, *, rng: {}["x"])
    named(MIXINGS, lambda edges, nodes: {}["x"])
    with pytest.raises(ValueError, match="the graph 'own' with no options failed: KeyError: 'x'"):
        built()
    with pytest.raises(ValueError, match="placement 'own' failed: KeyError: 'x'"):
        place("own", 4, area_m=AREA, rng=rng())
    with pytest.raises(ValueError, match="partition 'own' failed: KeyError: 'x'"):
        task_mixture("own", 3, 2, rng=rng())
    with pytest.raises(ValueError, match="mixing rule 'own' failed: KeyError: 'x'"):
        gossip_weights("own", LINE, 4)


def test_built_in_weights_pass_as_they_are():
    drawn = rng()
    for nodes, share in ((1, 0.0), (4, 0.5), (30, 0.0), (30, 0.2), (60, 1.0)):
        pairs = all_pairs(nodes)
        pairs = pairs[drawn.random(len(pairs)) < share]
        for name in MIXINGS.own:
            found, wanted = gossip_weights(name, pairs, nodes), MIXINGS[name](pairs, nodes)
            for part in ("data", "indices", "indptr"):
                assert np.array_equal(getattr(found, part), getattr(wanted, part)), (name, nodes, share)


def good():
    return topology.mixing.metropolis_hastings(LINE, 4).toarray()


def changed(**entries):
    found = good()
    for place_, value in entries.items():
        found[int(place_[1]), int(place_[2])] = value
    return found


def test_weights_may_be_dense_and_name_a_link_twice(named):
    named(MIXINGS, lambda edges, nodes: good())
    assert np.array_equal(gossip_weights("own", LINE, 4).toarray(), good())
    whole = csr_array(good())
    halves = np.r_[whole.data, whole.data] / 2, np.r_[whole.indices, whole.indices]
    row = np.repeat(np.arange(4), np.diff(whole.indptr))
    named(MIXINGS, lambda edges, nodes: coo_array((halves[0], (np.r_[row, row], halves[1])), shape=(4, 4)))
    assert np.allclose(gossip_weights("own", LINE, 4).tocoo().data, whole.data)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.eye(3), r"of shape \(3, 3\)"),
        (np.full((4, 4), np.nan), "no finite real numbers"),
        (changed(_00=0.9), "whose row 0 sums to"),
        (changed(_01=0.7, _00=0.3), "a weight and its counterpart differ by"),
        (changed(_01=-0.1, _10=-0.1, _00=1.1, _11=0.8), "with a weight of -0.1"),
        (np.full((4, 4), 0.25), "between devices 0 and 2, which have no link"),
        (None, "no matrix: "),
    ],
)
def test_a_mixing_rule_that_gives_no_weights_is_named(named, answer, said):
    named(MIXINGS, lambda edges, nodes: answer)
    with pytest.raises(ValueError, match=f"mixing rule 'own' gave .*{said}"):
        gossip_weights("own", LINE, 4)
