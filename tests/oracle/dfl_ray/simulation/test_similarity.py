"""Groups found from what devices tell of their data are the tasks nobody has named."""

from __future__ import annotations

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.privacy import privacy_notes
from dfl_ray.errors import InputError
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.experiment import build_experiment
from topology.clustering import adjusted_rand_index, by_similarity

WORDS = ("topology.by=similarity", "tasks.train_rows=300", "tasks.test_rows=20", "rounds=2")


@pytest.fixture(scope="module")
def built():
    """Ten devices with two of the six embedded tasks each."""
    return build_experiment(load_config(None, [*WORDS]))


def test_the_embedded_tasks_are_recovered_without_their_names(built):
    sketches = built.sketches
    assert len(sketches.device) == 20
    label = by_similarity(sketches.values, kind="features")
    assert adjusted_rand_index(label, sketches.task) >= 0.9
    (note,) = [n for n in built.notes if "adjusted Rand index" in n]
    assert f"are {label.max() + 1} clusters of the sketches of 20" in note


def test_the_graph_is_the_one_of_the_declared_tasks(built):
    """Where the groups found are the tasks, the optimisation has the same input up to the groups' order."""
    found, declared = built.topology, build_experiment(load_config(None, [*WORDS[1:]])).topology
    for task in range(found.tasks):
        holders, edges = found.holders(task), found.task_edges(task)
        assert len(holders) > 1 and set(edges.ravel().tolist()) == set(holders.tolist())
    assert abs(found.airtime_s_per_mb.sum() / declared.airtime_s_per_mb.sum() - 1) < 0.2


def test_the_plan_has_the_runs_graph(built):
    planned = dry_run(load_config(None, [*WORDS])).outline
    assert planned.deployment.topology.edges.tolist() == built.topology.edges.tolist()
    assert any("adjusted Rand index" in note for note in planned.notes)


def test_groups_of_moving_devices_stay(tmp_path):
    """The graph is built anew from the same sketches when links have changed."""
    words = (*WORDS, "devices.mobility=random_waypoint", "devices.mobility.speed_max_mps=900",
             "devices.mobility.rebuild_share=0", "devices.class_figures={phone: {frequency_hz: 1e7}}")  # fmt: skip
    played = dry_run(load_config(None, [*words])).played
    assert played[2].moved.rebuilt


@pytest.mark.parametrize("mechanism", ["updates", "examples"])
def test_a_private_run_shares_no_sketches_of_its_rows(mechanism, tmp_path):
    """Epsilon counts noisy messages alone: what a file tells of the data is told to be left out."""
    private = ("method=dlora", f"privacy.mechanism={mechanism}")
    with pytest.raises(InputError, match=r"topology\.by: similarity.*topology\.by=tasks"):
        load_config(None, [*private, "topology.type=clustered", "topology.by=similarity"])
    assert privacy_notes((tasks := load_config(None, [*private])).privacy, tasks.topology) == ()
    given = load_config(
        None, [*private, "topology.by=similarity", f"topology.features_path={tmp_path}/f.npy"]
    )
    (note,) = privacy_notes(given.privacy, given.topology)
    assert "does not count what `topology.features_path`" in note
