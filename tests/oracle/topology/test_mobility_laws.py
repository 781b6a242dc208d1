"""Movement against the laws it must obey."""

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import chisquare, kstest

from topology import mobility
from topology.mobility.draws import fold, unit_draws

AREA = (300.0, 200.0)


def cells(points, shape=(6, 4)):
    return np.histogram2d(*points.T, bins=shape, range=((0, AREA[0]), (0, AREA[1])))[0].ravel()


def uniform_start(nodes, seed=0):
    return np.random.default_rng(seed).random((nodes, 2)) * AREA


def test_draws_are_uniform_and_independent_of_company():
    devices = np.arange(20_000)
    numbers = unit_draws(12345, devices, np.full(20_000, 7), 3)
    for column in numbers.T:
        assert kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.vstack([numbers.T, unit_draws(12345, devices, np.full(20_000, 8), 1).T]))
    assert np.abs(correlation - np.eye(4)).max() < 0.03
    assert np.array_equal(unit_draws(12345, np.array([17]), np.array([7]), 3)[0], numbers[17])
    assert not np.array_equal(unit_draws(12346, devices[:5], np.full(5, 7), 3), numbers[:5])


def test_fold_is_a_mirror():
    # A step beyond the right border comes back by as much; two widths later it is the same place.
    points = np.array([[305.0, -10.0], [605.0, 410.0], [-605.0, 190.0]])
    inside, sign = fold(points, AREA)
    assert inside.tolist() == [[295.0, 10.0], [5.0, 10.0], [5.0, 190.0]]
    # One turn for every border met: odd numbers reverse the velocity.
    assert sign.tolist() == [[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]


@pytest.mark.parametrize("kind", ["random_direction", "gauss_markov"])
def test_uniform_devices_stay_uniform(kind):
    options = {
        "random_direction": {"speed_max_mps": 10.0, "mean_leg_s": 20.0},
        "gauss_markov": {"mean_speed_mps": 5.0},
    }
    model = mobility.create(
        kind, uniform_start(24_000), area_m=AREA, rng=np.random.default_rng(4), **options[kind]
    )
    start = model.positions_m
    for _ in range(6):
        points = model.step(37.0)
        assert chisquare(cells(points)).pvalue > 1e-3
    # They did move: the test would pass on static devices.
    assert np.median(np.hypot(*(points - start).T)) > 50


def test_mean_distance_in_a_rectangle():
    assert mobility.mean_distance_m(1, 1) == pytest.approx(0.521405433, abs=1e-9)

    # E|Δ| with independent triangular densities 2(1 − t) of |Δx|/w and |Δy|/h.
    for w, h in ((300.0, 200.0), (1000.0, 10.0)):
        by_integral, _ = dblquad(
            lambda v, u, w=w, h=h: 4 * (1 - u) * (1 - v) * np.hypot(u * w, v * h), 0, 1, 0, 1, epsabs=1e-6
        )
        assert mobility.mean_distance_m(w, h) == pytest.approx(by_integral, rel=1e-6)


def waypoint(nodes, seed=1, **options):
    return mobility.create(
        "random_waypoint", uniform_start(nodes), area_m=AREA, rng=np.random.default_rng(seed), **options
    )


def test_random_waypoint_speeds_begin_and_stay_in_the_steady_law():
    low, high = 1.0, 10.0
    model = waypoint(20_000, speed_min_mps=low, speed_max_mps=high)

    def law(speed):
        # Density in proportion to 1/v on [low, high].
        return np.log(np.clip(speed, low, high) / low) / np.log(high / low)

    for _ in range(4):
        speed = np.hypot(*model.snapshot()["velocity_mps"].T)
        assert kstest(speed, law).pvalue > 1e-3
        model.step(31.0)
    given = waypoint(20_000, speed_min_mps=low, speed_max_mps=high, start="given")
    given.step(0.01)
    first = np.hypot(*given.snapshot()["velocity_mps"].T)
    assert kstest(first, law).pvalue < 1e-6


def test_random_waypoint_pauses_with_the_steady_chance():
    low, high, pause = 2.0, 8.0, 20.0
    model = waypoint(20_000, speed_min_mps=low, speed_max_mps=high, pause_s=pause)
    travel = mobility.mean_distance_m(*AREA) * np.log(high / low) / (high - low)
    expected = pause / (pause + travel)
    for _ in range(4):
        moving = np.hypot(*model.snapshot()["velocity_mps"].T) > 0
        assert 1 - moving.mean() == pytest.approx(
            expected, abs=4 * np.sqrt(expected * (1 - expected) / 20_000)
        )
        model.step(29.0)


def test_random_waypoint_positions_begin_where_they_end():
    """The steady state is not uniform; what counts is that the first moment looks like any later one."""
    model = waypoint(40_000, speed_min_mps=2.0, speed_max_mps=8.0)
    first = cells(model.positions_m)
    late = cells(waypoint(40_000, seed=2, speed_min_mps=2.0, speed_max_mps=8.0, start="given").step(4_000.0))
    assert chisquare(first, first.sum() / 24 * np.ones(24)).pvalue < 1e-12
    both = np.vstack([first, late])
    expected = both.sum(axis=0) / 2
    statistic = ((both - expected) ** 2 / expected).sum()
    # 23 degrees of freedom: 49.7 is the 99.9 % point.
    assert statistic < 49.7
    # Along one axis of a leg drawn by length the middle is favoured: more than a third in the middle third.
    assert first.reshape(6, 4)[2:4].sum() / first.sum() > 0.38


def test_gauss_markov_velocity_forgets_at_the_stated_rate():
    model = mobility.create(
        "gauss_markov",
        np.full((20_000, 2), 5e5),
        area_m=(1e6, 1e6),
        rng=np.random.default_rng(3),
        mean_speed_mps=0.0,
        sigma_mps=2.0,
        memory_s=10.0,
    )
    before = model.snapshot()["velocity_mps"]
    model.step(7.0)
    after = model.snapshot()["velocity_mps"]
    assert before.std() == pytest.approx(2.0, rel=0.02) and after.std() == pytest.approx(2.0, rel=0.02)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] == pytest.approx(np.exp(-0.7), abs=0.015)


def test_trace_is_interpolated_like_numpy_does(tmp_path):
    rng = np.random.default_rng(0)
    rows, lines = [], ["device,t_s,x_m,y_m"]
    for device, count in enumerate((1, 5, 9)):
        times = np.sort(rng.random(count)) * 60
        points = rng.random((count, 2)) * AREA
        rows.append((times, points))
        lines += [
            f"{device},{t!r},{x!r},{y!r}" for t, (x, y) in zip(times.tolist(), points.tolist(), strict=True)
        ]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([lines[0], *sorted(lines[1:], reverse=True)]) + "\n")
    model = mobility.create("trace", np.zeros((3, 2)), area_m=AREA, rng=rng, path=path)
    now = 0.0
    for step in (0.0, 3.0, 11.5, 20.0, 40.0):
        now += step
        got = model.step(step)
        expected = [[np.interp(now, t, p[:, axis]) for axis in (0, 1)] for t, p in rows]
        assert np.allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["random_direction", "random_waypoint", "gauss_markov", "highway"])
def test_velocities_are_those_at_which_devices_go_on(kind):
    model = mobility.create(kind, uniform_start(300), area_m=AREA, rng=np.random.default_rng(4))
    for dt in (0.5, 40.0, 900.0):  # long steps turn devices round, and bring vehicles round the road
        before = model.step(dt)
        velocity = model.velocity_mps
        way = model.step(1e-6) - before
        straight = (np.abs(way[:, 0]) < AREA[0] / 2) & np.isclose(way, 1e-6 * velocity, atol=1e-10).all(
            axis=1
        )
        assert straight.mean() > 0.99 and np.abs(velocity).max() > 0.1
    assert (
        mobility.create("static", uniform_start(3), area_m=AREA, rng=np.random.default_rng(4)).velocity_mps
        is None
    )
