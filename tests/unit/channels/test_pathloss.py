import warnings

import numpy as np
import pytest

from channels.largescale import settings_model
from channels.pathloss import ValidityWarning, get_model, los_probability, path_loss_db
from channels.pathloss.basic import log_distance_model
from channels.pathloss.v2x import v2x_urban_model
from channels.settings import RadioSettings
from channels.tables import PATH_LOSS


@pytest.mark.parametrize(
    ("model", "distance_m", "carrier_hz", "los_db", "nlos_db"),
    [
        ("umi", 100, 3.5e9, 85.314, 104.644),
        ("umi", 1000, 3.5e9, 119.153, 139.889),
        ("uma", 100, 3.5e9, 83.138, 103.038),
        ("inh", np.sqrt(20**2 - 2**2), 3.5e9, 65.789, 80.677),
        ("free_space", 100, 3.5e9, 83.329, 83.329),
        # NLOSv behind a vehicle: LOS + 5 dB, and from 541 m on 15·lg d - 41 dB more.
        ("v2x_urban", 100, 6e9, 86.332, 86.332 + 5),
        ("v2x_urban", 1000, 6e9, 103.032, 103.032 + 5 + 4),
        ("v2x_highway", 100, 6e9, 87.963, 87.963 + 5),
        ("d2d_outdoor", 100, 2e9, 91.726, 108.827),
    ],
)
def test_check_values(model, distance_m, carrier_hz, los_db, nlos_db):
    assert path_loss_db(model, distance_m, carrier_hz, los=True) == pytest.approx(los_db, abs=6e-4)
    assert path_loss_db(model, distance_m, carrier_hz, los=False) == pytest.approx(nlos_db, abs=6e-4)


def test_v2x_urban_behind_buildings_is_an_option():
    behind = path_loss_db("v2x_urban", 100, 6e9, los=False, blocked="building")
    assert behind == pytest.approx(111.557, abs=6e-4)
    radio = RadioSettings(path_loss="v2x_urban", path_loss_options={"blocked": "building"})
    assert settings_model(radio).sigma_db == (3.0, 4.0)
    assert settings_model(RadioSettings(path_loss="v2x_urban")).sigma_db == (3.0, 3.0)


@pytest.mark.parametrize(
    ("model", "probability"),
    [("umi", 0.23098), ("uma", 0.34767), ("v2x_urban", 0.33581), ("d2d_outdoor", 0.23098)],
)
def test_los_probability_at_100_m(model, probability):
    assert los_probability(model, 100.0) == pytest.approx(probability, abs=6e-6)


def test_los_probability_shapes():
    assert los_probability("umi", [0.0, 10.0, 18.0]).tolist() == [1.0, 1.0, 1.0]
    inh = los_probability("inh", [3.0, 5.0, 49.0, 49.0001, 200.0])
    assert inh[:2].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(inh[2:4], [np.exp(-44 / 70.8), 0.54], atol=1e-5)
    assert inh[4] == pytest.approx(0.54 * np.exp(-151 / 211.7))
    highway = los_probability("v2x_highway", [0.0, 475.0, 475.1, 2000.0])
    assert highway[0] == 1.0
    assert highway[1] == pytest.approx(2.1013e-6 * 475**2 - 0.002 * 475 + 1.0193)
    assert highway[2] == pytest.approx(0.5399) and highway[3] == 0.0


def test_d2d_by_hand_off_the_table():
    # 1 GHz, 300 m: beyond the breakpoint 4·0.64·f/c = 8.5 m.
    los = 40 * np.log10(300) + 7.56 - 34.6 * np.log10(0.8) + 2.7 * 0
    fspl = 20 * np.log10(300) + 20 * np.log10(1e9) + 20 * np.log10(4 * np.pi / 299792458)
    assert path_loss_db("d2d_outdoor", 300, 1e9) == pytest.approx(max(los, fspl), abs=1e-9)
    nlos = (44.9 - 6.55 * np.log10(1.5)) * np.log10(300) + 5.83 * np.log10(1.5) + 16.33 - 5
    assert path_loss_db("d2d_outdoor", 300, 1e9, los=False) == pytest.approx(max(nlos, fspl), abs=1e-9)
    # The two upper branches meet at 2 GHz.
    below, above = path_loss_db("d2d_outdoor", 100, [2e9, 2e9 * (1 + 1e-9)], los=False)
    assert below == pytest.approx(above, abs=0.01)
    # Near field: free space is the floor.
    assert path_loss_db("d2d_outdoor", 3.0, 0.7e9) >= path_loss_db("free_space", 3.0, 0.7e9)


def test_uma_beyond_breakpoint_by_hand():
    d3 = np.hypot(2000.0, 23.5)
    bend = (4 * 24 * 0.5 * 2e9 / 3e8) ** 2 + 23.5**2
    expected = 28 + 40 * np.log10(d3) + 20 * np.log10(2) - 9 * np.log10(bend)
    assert path_loss_db("uma", 2000.0, 2e9) == pytest.approx(expected, abs=1e-9)


def test_highway_blockage_grows_beyond_542_m():
    los, blocked = (path_loss_db("v2x_highway", 800.0, 6e9, los=state) for state in (True, False))
    assert blocked - los == pytest.approx(5 + 15 * np.log10(800) - 41, abs=1e-9)


def test_log_distance():
    loss = path_loss_db(
        "log_distance", [10.0, 100.0], 2e9, exponent=3.0, reference_m=10.0, reference_loss_db=60.0
    )
    np.testing.assert_allclose(loss, [60.0, 90.0])
    free = path_loss_db(log_distance_model(2.0), 123.0, 2e9)
    assert free == pytest.approx(path_loss_db("free_space", 123.0, 2e9), abs=1e-9)


def test_broadcasts_like_numpy():
    loss = path_loss_db(
        "umi", np.array([[50.0], [100.0]]), [2e9, 3e9, 4e9], los=np.array([True, False, True])
    )
    assert loss.shape == (2, 3)
    assert loss[1, 1] == pytest.approx(float(path_loss_db("umi", 100.0, 3e9, los=False)))


def test_warns_outside_its_range_and_not_inside():
    with pytest.warns(ValidityWarning, match=r"38\.901"):
        path_loss_db("umi", 100.0, 2e9, tx_height_m=1.5)
    with pytest.warns(ValidityWarning, match="10-5000"):
        path_loss_db("uma", 6000.0, 2e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path_loss_db("umi", [10.0, 5000.0], 2e9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: path_loss_db("umii", 1.0, 2e9), "Did you mean 'umi'"),
        (lambda: path_loss_db("umi", 0.0, 2e9), "distance_m"),
        (lambda: path_loss_db("umi", 10.0, -1.0), "carrier_hz"),
        (lambda: path_loss_db("umi", 10.0, 2e9, exponent=2.0), "takes no parameters"),
        (lambda: path_loss_db("log_distance", 10.0, 2e9, exponnt=2.0), "exponent"),
        (
            lambda: path_loss_db("log_distance", 10.0, 2e9, sigma_db=-8),
            "sigma_db is -8; expected .* >= 0 and <= 50",
        ),
        (
            lambda: log_distance_model(exponent=1e300),
            "exponent is 1e.300; expected a finite number > 0 and <= 20",
        ),
        (lambda: v2x_urban_model("vehicel"), "blocked is 'vehicel'; expected one of vehicle, building"),
        (lambda: path_loss_db("d2d_outdoor", 10.0, 2e9, tx_height_m=0.5), "clutter height"),
        (lambda: los_probability("umi", -1.0), "distance_m"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_every_model_states_source_and_ranges():
    for model in map(get_model, PATH_LOSS):
        assert len(model.source) > 10
        assert model.distance_range_m[0] < model.distance_range_m[1]


def test_a_vehicle_in_the_way_blocks_by_the_antennas_heights():
    """TR 37.885, clause 6.2.1: both above its roof of 1.6 m nothing, both below 9 dB, otherwise 5 dB, at 100 m."""
    for heights, added in (((1.7, 3.0), 0.0), ((1.5, 1.0), 9.0), ((1.6, 1.6), 5.0), ((2.0, 1.0), 5.0)):
        fields = {"tx_height_m": heights[0], "rx_height_m": heights[1]}
        clear, blocked = (path_loss_db("v2x_highway", 100.0, 6e9, los=los, **fields) for los in (True, False))
        assert blocked - clear == pytest.approx(added, abs=1e-9)
    far = [path_loss_db("v2x_highway", 1000.0, 6e9, los=los) for los in (True, False)]
    assert far[1] - far[0] == pytest.approx(5 + 15 * 3 - 41, abs=1e-3)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("v2x_urban", {"blocked": "vehicel"}, "blocked is 'vehicel'; expected one of vehicle, building"),
        ("v2x_highway", {"spread": 3}, "spread is 3; expected true or false"),
        ("log_distance", {"sigma_db": -8}, "sigma_db is -8; expected a finite number >= 0 and <= 50"),
        (
            "log_distance",
            {"reference_loss_db": "foo"},
            "reference_loss_db is 'foo'; expected a finite number .* or none",
        ),
        ("log_distance", {"decorrelation_m": "abc"}, "decorrelation_m is 'abc'"),
        ("log_distance", {"exponent": [1]}, "exponent is .1."),
        ("log_distance", {"exponent": True}, "exponent is True"),
        ("log_distance", {"exponent": 1e300}, "exponent is 1e.300"),
        (
            "rma",
            {"building_height_m": "x"},
            "building_height_m is 'x'; expected a finite number >= 5 and <= 50",
        ),
    ],
)
def test_options_of_a_model_are_held_to_its_signature(model, options, words):
    with pytest.raises(ValueError, match=f"path-loss model '{model}': {words}"):
        RadioSettings(path_loss=model, path_loss_options=options)


def test_numbers_of_numpy_are_numbers_and_no_loss_at_all_is_none():
    options = {"exponent": np.float32(3), "reference_m": np.int64(1), "reference_loss_db": None}
    assert get_model("log_distance", options).name == "log_distance"
