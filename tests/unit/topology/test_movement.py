"""Movement of devices: where they start, traces, and what is refused."""

import numpy as np
import pytest

from topology import mobility


def test_random_waypoint_needs_a_positive_lowest_speed():
    with pytest.raises(ValueError, match="no steady state"):
        mobility.create(
            "random_waypoint",
            np.ones((2, 2)),
            area_m=(5.0, 5.0),
            rng=np.random.default_rng(0),
            speed_min_mps=0.0,
        )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("fly", {}),
        ("static", {"speed": 1.0}),
        ("trace", {}),
        ("trace", {"path": "missing.csv"}),
        ("random_direction", {"speed_min_mps": 5.0, "speed_max_mps": 1.0}),
        ("random_direction", {"mean_leg_s": 0.0}),
        ("random_waypoint", {"pause_s": -1.0}),
        ("gauss_markov", {"memory_s": 0.0}),
        ("gauss_markov", {"mean_speed_mps": "fast"}),
        ("highway", {"lanes": 2.5}),
        ("highway", {"lanes": 10**9}),
        ("gauss_markov", {"update_s": 1e-7}),
        ("random_direction", {"mean_leg_s": 1e-9}),
    ],
)
def test_bad_movement_is_refused(kind, options):
    with pytest.raises(ValueError):
        mobility.create(kind, np.ones((2, 2)), area_m=(5.0, 5.0), rng=np.random.default_rng(0), **options)


def test_legs_that_would_take_no_time_are_refused_unless_devices_pause():
    def made(**options):
        rng = np.random.default_rng(0)
        return mobility.create("random_waypoint", np.ones((2, 2)), area_m=(5.0, 5.0), rng=rng, **options)

    with pytest.raises(
        ValueError, match=r"speed_max_mps is 1e\+06 .* 2.6e-06 s, expected at least 0.01 s; lower"
    ):
        made(speed_max_mps=1e6)
    assert made(speed_max_mps=1e6, pause_s=1.0).step(10.0).shape == (2, 2)


def test_snapshots_of_other_models_are_refused():
    made = [
        mobility.create(kind, np.ones((nodes, 2)), area_m=(5.0, 5.0), rng=np.random.default_rng(0))
        for kind, nodes in (("random_direction", 2), ("random_direction", 3), ("static", 2))
    ]
    for other in made[1:]:
        with pytest.raises(ValueError, match="does not fit"):
            made[0].restore(other.snapshot())
    for step in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="dt_s"):
            made[0].step(step)


def test_devices_start_inside():
    with pytest.raises(ValueError, match="device 1 starts"):
        mobility.create("static", [[1.0, 1.0], [6.0, 1.0]], area_m=(5.0, 5.0), rng=np.random.default_rng(0))


def test_trace_from_parquet_equals_csv(tmp_path):
    import pandas as pd

    table = pd.DataFrame(
        {"device": [0, 1, 0], "t_s": [0.0, 0.0, 10.0], "x_m": [0.0, 2.0, 5.0], "y_m": [0.0, 3.0, 5.0]}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    made = [
        mobility.create(
            "trace", np.zeros((2, 2)), area_m=(5.0, 5.0), rng=np.random.default_rng(0), path=tmp_path / name
        )
        for name in ("t.csv", "t.parquet")
    ]
    assert np.array_equal(made[0].step(4.0), made[1].step(4.0))
    assert made[0].positions_m.tolist() == [[2.0, 2.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,0,1,1\n", "no point for device 1"),
        ("0,0,1,1\n1,0,9,1\n", "leaves the area"),
        ("0,0,1,1\n1,0,1,1\n1,0,2,1\n", "same time"),
        ("0,0,1,1\n7,0,1,1\n", "does not exist"),
        ("0,0,1,1\n1,zero,1,1\n", "line 3"),
    ],
)
def test_bad_traces_are_refused(tmp_path, rows, message):
    path = tmp_path / "t.csv"
    path.write_text("device,t_s,x_m,y_m\n" + rows)
    with pytest.raises(ValueError, match=message):
        mobility.create("trace", np.zeros((2, 2)), area_m=(5.0, 5.0), rng=np.random.default_rng(0), path=path)


FCD = """<?xml version="1.0" encoding="UTF-8"?>
<fcd-export>
    <timestep time="10.00">
        <vehicle id="flow.0" x="100.50" y="-1.60" angle="90.00" speed="13.9" pos="5.1" lane="e_0" slope="0.00"/>
        <vehicle id="flow.1" x="20.00" y="-4.80" angle="90.00" type="DEFAULT" speed="9.0" pos="5.1" lane="e_1"/>
    </timestep>
    <timestep time="11.00">
        <vehicle id="flow.1" x="30.00" y="-4.80" speed="10.0"/>
        <vehicle id="flow.0" x="114.50" y="-1.60" speed="14.0"/>
        <person id="walker" x="50.00" y="3.00" speed="1.0"/>
    </timestep>
</fcd-export>
"""


def sumo(path, nodes, **options):
    return mobility.create(
        "trace", np.ones((nodes, 2)), area_m=(200.0, 20.0), rng=np.random.default_rng(0), path=str(path),
        offset_m=(0.0, 10.0), **options,
    )  # fmt: skip


@pytest.mark.parametrize("ending", [".xml", ".xml.gz"])
def test_a_trace_of_sumo_plays_back(tmp_path, ending):
    import gzip

    path = tmp_path / f"fcd{ending}"
    path.write_bytes(gzip.compress(FCD.encode()) if ending.endswith("gz") else FCD.encode())
    made = sumo(path, 3, start_s=10.0)
    assert made.positions_m.tolist() == [[100.5, 8.4], [20.0, 5.2], [50.0, 13.0]]
    half, whole = made.step(0.5), made.step(0.5)
    np.testing.assert_allclose(half, [[107.5, 8.4], [25.0, 5.2], [50.0, 13.0]])
    np.testing.assert_allclose(whole, [[114.5, 8.4], [30.0, 5.2], [50.0, 13.0]])
    assert len(sumo(path, 2).positions_m) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FCD, "3 vehicles for 4 devices"),
        (FCD[:200], "FCD XML"),
        ("<fcd-export><timestep time='1'><vehicle id='a' x='1'/></timestep></fcd-export>", "FCD XML"),
    ],
)
def test_a_damaged_or_short_trace_of_sumo_is_refused(tmp_path, text, said):
    path = tmp_path / "fcd.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        sumo(path, 4)


def test_vehicles_keep_lane_and_speed_and_wrap_round():
    start = np.random.default_rng(2).random((400, 2)) * (1000.0, 24.0)
    road = mobility.create("highway", start, area_m=(1000.0, 24.0), rng=np.random.default_rng(1))
    first = road.positions_m
    lanes = np.floor(start[:, 1] / 4)
    np.testing.assert_allclose(first, np.stack([start[:, 0], lanes * 4 + 2], axis=1))
    moved = road.step(2.0)
    way = np.mod(moved[:, 0] - first[:, 0] + 500, 1000) - 500
    assert (np.sign(way) == np.where(lanes < 3, 1, -1)).all()
    assert (np.abs(way) >= 50).all() and (np.abs(way) <= 78).all()
    for lane in range(6):
        assert np.ptp(way[lanes == lane]) < 1e-9
    assert len(np.unique(way.round(6))) == 6
    again = mobility.create("highway", start, area_m=(1000.0, 24.0), rng=np.random.default_rng(1))
    again.restore(road.snapshot())
    np.testing.assert_array_equal(road.step(31.0), again.step(31.0))
