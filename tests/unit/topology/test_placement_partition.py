"""Placement of devices and partition of tasks and rows: behaviour and refusals."""

import numpy as np
import pytest
from scipy.stats import chisquare

from topology.partition import split_rows, task_mixture
from topology.placement import place


def rng(seed=0):
    return np.random.default_rng(seed)


def test_uniform_is_uniform_inside_the_area():
    points = place("uniform", 20_000, area_m=(400.0, 100.0), rng=rng())
    counts, _, _ = np.histogram2d(*points.T, bins=(8, 4), range=((0, 400), (0, 100)))
    assert points.dtype == np.float64 and points.shape == (20_000, 2)
    assert counts.sum() == 20_000
    assert chisquare(counts.ravel()).pvalue > 1e-3


def test_poisson_given_the_count_is_the_uniform_law():
    a = place("poisson", 50, area_m=(10.0, 10.0), rng=rng(3))
    assert np.array_equal(a, place("uniform", 50, area_m=(10.0, 10.0), rng=rng(3)))


def test_hotspots_cluster_and_stay_inside():
    points = place("hotspots", 4_000, area_m=(100.0, 100.0), rng=rng(1), hotspots=4, spread_m=3.0)
    assert points.min() >= 0 and points.max() <= 100
    counts, _, _ = np.histogram2d(*points.T, bins=10, range=((0, 100), (0, 100)))
    # A uniform draw would have a variance-to-mean ratio near 1.
    assert counts.var() / counts.mean() > 20


def test_hotspots_background_is_spread_out():
    kwargs = {"area_m": (100.0, 100.0), "hotspots": 1, "spread_m": 0.5}
    dense = place("hotspots", 2_000, rng=rng(2), **kwargs)
    mixed = place("hotspots", 2_000, rng=rng(2), background=0.5, **kwargs)
    centre = np.median(dense, axis=0)
    far = np.hypot(*(mixed - centre).T) > 5
    assert 0.45 < far.mean() < 0.55
    assert not (np.hypot(*(dense - centre).T) > 5).any()


def test_a_spread_that_leaves_nobody_inside_is_refused_and_a_wide_one_on_a_road_is_not():
    with pytest.raises(
        ValueError, match=r"spread_m is 1e\+06 for an area of 300 m × 300 m: .* lower spread_m, or"
    ):
        place("hotspots", 10, area_m=(300.0, 300.0), rng=rng(1), spread_m=1e6)
    for area, spread in (((2000.0, 30.0), 400.0), ((300.0, 300.0), 3000.0)):
        points = place("hotspots", 50, area_m=area, rng=rng(1), spread_m=spread)
        assert ((points >= 0) & (points <= area)).all()


def test_minimum_separation_is_kept_or_refused():
    points = place("uniform", 60, area_m=(100.0, 100.0), rng=rng(5), min_separation_m=5.0)
    gaps = np.hypot(*(points[:, None] - points[None]).T)
    assert gaps[np.triu_indices(60, 1)].min() > 5.0
    with pytest.raises(ValueError, match="min_separation_m"):
        place("uniform", 60, area_m=(10.0, 10.0), rng=rng(5), min_separation_m=5.0)


def test_positions_from_csv_and_npy(tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_text("device,x_m,y_m\n1,3,4\n0,1,2\n")
    assert place("file", 2, area_m=(10.0, 10.0), rng=rng(), path=csv).tolist() == [[1, 2], [3, 4]]
    npy = tmp_path / "p.npy"
    np.save(npy, np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert place("file", 2, area_m=(10.0, 10.0), rng=rng(), path=npy).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x_m,z\n1,2\n3,4\n", "expected columns"),
        ("x_m,y_m\n1,2\n3,four\n", "line 3"),
        ("x_m,y_m\n1,2\n30,4\n", "outside the area"),
        ("x_m,y_m\n1,2\n", "shape"),
        ("device,x_m,y_m\n0,1,2\n0,3,4\n", "once each"),
    ],
)
def test_bad_position_files_are_refused(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        place("file", 2, area_m=(10.0, 10.0), rng=rng(), path=path)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "circle"},
        {"count": 0},
        {"area_m": (0.0, 5.0)},
        {"kind": "file"},
        {"kind": "hotspots", "hotspots": 0},
        {"kind": "hotspots", "spread_m": "wide"},
        {"kind": "uniform", "min_separation_m": None},
    ],
)
def test_bad_placements_are_refused(change):
    arguments = {"kind": "uniform", "count": 3, "area_m": (5.0, 5.0), **change}
    with pytest.raises(ValueError):
        place(arguments.pop("kind"), arguments.pop("count"), rng=rng(), **arguments)


def test_default_run_has_two_tasks_each_and_three_holders():
    for seed in range(30):
        mixture = task_mixture("balanced", 10, 6, rng=rng(seed))
        held = mixture > 0
        assert (held.sum(axis=1) == 2).all() and held.sum(axis=0).min() >= 3
        assert set(np.unique(mixture)) == {0.0, 0.5}


def test_balanced_draws_reach_every_pair_of_tasks():
    held = task_mixture("balanced", 3_000, 6, rng=rng(8)) > 0
    _, counts = np.unique(held, axis=0, return_counts=True)
    # 15 pairs of 6 tasks, 200 expected each: the trades must have broken up the cyclic deal.
    assert len(counts) == 15
    assert chisquare(counts).pvalue > 1e-4


def test_impossible_balance_names_the_knobs():
    with pytest.raises(ValueError, match=r"raise devices to 9, raise tasks_per_device, or lower min_holders"):
        task_mixture("balanced", 8, 6, rng=rng())
    assert (task_mixture("balanced", 9, 6, rng=rng()) > 0).sum(axis=0).tolist() == [3] * 6


def test_one_each():
    mixture = task_mixture("one_each", 20, 6, rng=rng(1))
    assert sorted((mixture > 0).sum(axis=0).tolist()) == [3, 3, 3, 3, 4, 4]
    assert (mixture.max(axis=1) == 1).all()


def test_dirichlet_concentration_sets_tasks_per_device():
    few = (task_mixture("dirichlet", 400, 6, rng=rng(1), alpha=0.05) > 0).sum(axis=1).mean()
    many = (task_mixture("dirichlet", 400, 6, rng=rng(1), alpha=10.0) > 0).sum(axis=1).mean()
    assert few < 1.7 and many > 4.5


def test_mixture_from_file(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("device,task,weight\n0,0,3\n0,1,1\n1,1,2\n")
    assert task_mixture("file", 2, 2, rng=rng(), min_holders=1, path=path).tolist() == [[0.75, 0.25], [0, 1]]


def test_all_problems_of_a_mixture_file_come_at_once(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("device,task,weight\n0,0,1\n0,0,1\n9,0,1\n0,1,-1\n0,x,1\n")
    with pytest.raises(ValueError) as caught:
        task_mixture("file", 2, 2, rng=rng(), min_holders=1, path=path)
    for part in ("line 3", "line 4", "line 5", "line 6", "device 1 holds no task", "task 1 has 0 holders"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "random"},
        {"devices": 0},
        {"tasks_per_device": 7},
        {"kind": "dirichlet", "alpha": 0.0},
        {"kind": "dirichlet", "alpha": float("nan")},
        {"kind": "dirichlet", "min_holders": 11},
        {"kind": "dirichlet", "min_weight": 0.5},
        {"kind": "dirichlet", "alpha": "x"},
        {"kind": "balanced", "tasks_per_device": 1.5},
        {"kind": "file"},
    ],
)
def test_bad_mixtures_are_refused(change):
    arguments = {"kind": "balanced", "devices": 10, "tasks": 6, **change}
    with pytest.raises(ValueError):
        task_mixture(
            arguments.pop("kind"), arguments.pop("devices"), arguments.pop("tasks"), rng=rng(), **arguments
        )


def test_rows_follow_the_mixture():
    mixture = np.array([[0.75, 0.25], [0.25, 0.75]])
    parts = split_rows([1000, 2000], mixture, rng=rng())
    assert [[len(part[task]) for task in (0, 1)] for part in parts] == [[750, 500], [250, 1500]]


def test_equal_sizes_differ_by_at_most_one_row():
    mixture = task_mixture("one_each", 7, 1, rng=rng())
    sizes = [len(part[0]) for part in split_rows([100], mixture, rng=rng())]
    assert sum(sizes) == 100 and max(sizes) - min(sizes) <= 1


def test_lognormal_sizes_have_the_asked_spread():
    mixture = np.ones((4_000, 1))
    parts = split_rows([4_000_000], mixture, rng=rng(), sizes="lognormal", lognormal_sigma=0.5)
    assert np.std(np.log([len(part[0]) for part in parts])) == pytest.approx(0.5, abs=0.02)


def test_too_few_rows_are_refused_or_reused():
    mixture = np.ones((5, 1))
    with pytest.raises(ValueError, match="3 rows for 5 holders"):
        split_rows([3], mixture, rng=rng())
    parts = split_rows([3], mixture, rng=rng(), reuse=True)
    assert {int(part[0][0]) for part in parts} == {0, 1, 2}


@pytest.mark.parametrize(
    "change", [{"sizes": "zipf"}, {"row_counts": [3]}, {"lognormal_sigma": -1.0, "sizes": "lognormal"}]
)
def test_bad_splits_are_refused(change):
    arguments = {"row_counts": [9, 9], **change}
    with pytest.raises(ValueError):
        split_rows(arguments.pop("row_counts"), np.full((2, 2), 0.5), rng=rng(), **arguments)
