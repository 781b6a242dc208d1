"""What schedulers and path-loss models of installed packages may answer, and how they are refused."""

import warnings

import numpy as np
import pytest

from channels.channel import Channel
from channels.pathloss import ValidityWarning, get_model, los_probability, path_loss_db
from channels.pathloss.model import PathLossModel, always_los
from channels.scheduling import engine
from channels.scheduling.problem import IDLE, Scheduler
from channels.scheduling.table import get_scheduler
from channels.settings import RadioSettings
from channels.tables import PATH_LOSS, SCHEDULERS
from channels.transfers import Transfers

PLACES = [[0.0, 0.0], [30.0, 0.0], [0.0, 30.0], [30.0, 30.0]]
WANTED = Transfers.build([0, 2], [1, 3], 1000)


@pytest.fixture
def carried(monkeypatch):
    """Carries two transfers by a scheduler of an installed package."""

    def carry(select, settings=None, **fields):
        monkeypatch.setitem(SCHEDULERS._loaded, "own", Scheduler("own", select, **fields))
        monkeypatch.setattr(type(SCHEDULERS), "__contains__", lambda table, name: True)
        radio = RadioSettings(scheduler="own", fading="none", shadowing=False, **(settings or {}))
        return Channel(radio, PLACES, seed=0).plan_round(0, WANTED)

    return carry


def one_by_one(task):
    return [np.where(np.arange(task.units) == place, 0, -1) for place in range(task.units)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda task: [], "answered an empty list; expected one slot at least"),
        (lambda task: None, "answered NoneType; expected a list of arrays"),
        (lambda task: np.zeros(task.units, dtype=np.int64), "answered ndarray; expected a list of arrays"),
        (
            lambda task: [np.zeros(task.units + 1, dtype=np.int64)],
            r"a slot of shape \(3,\) .*expected \(2,\)",
        ),
        (lambda task: [np.zeros(task.units)], "type float64; expected"),
        (lambda task: [np.ones(task.units, dtype=bool)], "type bool; expected"),
        (lambda task: [np.full(task.units, 7)], r"the sub-channel 7; expected -1 \(not in the slot\) to 0"),
        (lambda task: [np.full(task.units, -2)], "the sub-channel -2; expected -1"),
        (lambda task: {}["x"], "failed: KeyError: 'x'"),
        (lambda task: np.zeros(2) + np.zeros(3), "failed: ValueError: operands could not be broadcast"),
    ],
)
def test_an_answer_that_the_engine_cannot_go_by_is_refused(carried, answer, said):
    with pytest.raises(ValueError, match=f"the scheduler 'own' .*{said}"):
        carried(answer)


def test_lists_of_whole_numbers_are_taken(carried):
    assert carried(lambda task: [[0] + [-1] * (task.units - 1)]).delivered.all()
    two = {"subchannels": 2}
    assert carried(lambda task: [np.arange(task.units, dtype=np.int8)], two, spreads=True).delivered.all()


def test_built_in_schedulers_are_not_wrapped():
    for name in SCHEDULERS.own:
        found = SCHEDULERS[name]
        assert not isinstance(found, Scheduler) or get_scheduler(name) is found


@pytest.mark.parametrize("found", [3, lambda: None])
def test_what_is_no_scheduler_or_model_is_named(monkeypatch, found):
    monkeypatch.setitem(SCHEDULERS._loaded, "own", found)
    monkeypatch.setitem(PATH_LOSS._loaded, "own", found)
    with pytest.raises(
        ValueError, match=r"scheduler 'own' is .*; expected channels\.scheduling\.problem\.Scheduler"
    ):
        get_scheduler("own")
    with pytest.raises(
        ValueError, match=r"model 'own' is .*; expected channels\.pathloss\.model\.PathLossModel"
    ):
        get_model("own")


def nobody(task):
    return [np.full(task.units, -1)]


def test_a_scheduler_that_never_chooses_is_refused(carried, monkeypatch):
    monkeypatch.setattr(engine, "LONGEST_SILENCE", 50)
    with pytest.raises(ValueError, match="'own' chose none of 2 waiting units in 50 slots in a row"):
        carried(nobody)

    def waits(task):
        task.memory[IDLE] = [10]
        return nobody(task)

    with pytest.raises(ValueError, match="chose none of 2 waiting units in 50 slots"):
        carried(waits)


def test_silence_that_ends_is_let_be(carried, monkeypatch):
    monkeypatch.setattr(engine, "LONGEST_SILENCE", 50)
    # 49 empty slots, then one that sends: the count starts anew.
    done = carried(lambda task: one_by_one(task)[:1] if task.slot % 50 == 49 else nobody(task))
    assert done.delivered.all() and done.table.slot.tolist() == [49, 99]
    # A deadline ends it without an error, and random access may be silent for longer.
    assert not carried(nobody, {"deadline_s": 0.02}).delivered.any()
    late = carried(lambda task: one_by_one(task)[:1] if task.slot > 200 else nobody(task), may_wait=True)
    assert late.delivered.all()


@pytest.mark.parametrize("name", SCHEDULERS.own)
def test_no_built_in_scheduler_is_silent_but_random_access(monkeypatch, name):
    """Links that are strong, weak and hopeless: each rule chooses somebody at once, or may wait."""
    monkeypatch.setattr(engine, "LONGEST_SILENCE", 1)
    place = np.array([[0, 0], [20, 0], [0, 300], [0, 700], [5e3, 0], [90e3, 0]], dtype=float)
    wanted = Transfers.build([0, 2, 4, 1, 3], [1, 3, 5, 0, 2], [1000, 5000, 100, 1000, 9000])
    for subchannels in (1, 2) if name != "csma" else (1,):
        radio = RadioSettings(scheduler=name, subchannels=subchannels, max_attempts=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Channel(radio, place, seed=1).plan_round(0, wanted)


def model(los=lambda point: 80.0, sight=always_los):
    return PathLossModel(
        name="own", source="here", los=los, nlos=los, los_probability=sight, sigma_db=(0.0, 0.0),
        decorrelation_m=(10.0, 10.0), heights_m=(1.5, 1.5), distance_range_m=(1.0, 600.0),
        carrier_range_hz=(0.5e9, 100e9),
    )  # fmt: skip


def test_one_loss_stands_for_all_distances(monkeypatch):
    assert path_loss_db(model(), [1.0, 10.0], [[2e9], [3e9]]).tolist() == [[80.0] * 2] * 2
    assert los_probability(model(sight=lambda distance_m: 0.5), [1.0, 10.0]).tolist() == [0.5, 0.5]
    monkeypatch.setitem(PATH_LOSS._loaded, "own", model())
    monkeypatch.setattr(type(PATH_LOSS), "__contains__", lambda table, name: True)
    Channel(RadioSettings(path_loss="own", shadowing=False), PLACES, seed=0).plan_round(0, WANTED)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda point: np.full_like(point.distance_m, np.nan),
            "gives a loss of nan dB; expected finite numbers",
        ),
        (lambda point: -np.inf, "gives a loss of -inf dB"),
        (
            lambda point: np.ones(3),
            r"gives a loss in line of sight of shape \(3,\); expected numbers of shape \(2,\)",
        ),
        (lambda point: None, "gives a loss of nan dB"),
        (lambda point: "far", "gives a loss in line of sight of shape str"),
        (lambda point: point.distance, "its loss in line of sight failed: AttributeError"),
    ],
)
def test_a_loss_that_is_none_names_the_model(loss, said):
    with pytest.raises(ValueError, match=f"path-loss model 'own'.*{said}"):
        path_loss_db(model(loss), [1.0, 10.0], 2e9)


@pytest.mark.parametrize("sight", [lambda d: 1.5, lambda d: np.nan * d, lambda d: np.ones(7)])
def test_a_chance_of_sight_that_is_none_names_the_model(sight):
    with pytest.raises(ValueError, match="path-loss model 'own' gives a line-of-sight probability"):
        los_probability(model(sight=sight), [1.0, 10.0])


@pytest.mark.parametrize("name", PATH_LOSS.own)
def test_built_in_models_pass_as_they_are(name):
    found, distance_m = get_model(name), np.geomspace(0.1, 200e3, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ValidityWarning)
        seen, hidden = (path_loss_db(found, distance_m, 2e9, los=state) for state in (True, False))
    assert np.isfinite(seen).all() and np.isfinite(hidden).all()
    assert np.array_equal(found.sight(distance_m), found.los_probability(distance_m))
