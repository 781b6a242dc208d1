"""Schedulers, path-loss models and device mixes by name and with options."""

from types import SimpleNamespace

import numpy as np
import pytest

from channels.channel import Channel
from channels.energy import DeviceClass
from channels.pathloss import get_model, path_loss_db
from channels.pathloss.model import PathLossModel
from channels.scheduling.problem import Scheduler
from channels.scheduling.table import get_scheduler
from channels.settings import CHOICES, RadioSettings
from channels.tables import DEVICE_MIXES, PATH_LOSS, SCHEDULERS


def test_every_name_leads_to_an_object_of_that_name():
    assert all(get_scheduler(name).name == name for name in SCHEDULERS.own)
    assert all(get_model(name).name == name for name in PATH_LOSS.own)
    assert all(
        sum(kind.share for kind in DEVICE_MIXES[name]) == pytest.approx(1.0) for name in DEVICE_MIXES.own
    )


def test_the_settings_take_the_names_of_the_tables():
    assert CHOICES["scheduler"] is SCHEDULERS and CHOICES["path_loss"] is PATH_LOSS
    for name in SCHEDULERS.own:
        assert RadioSettings(scheduler=name).scheduler == name
    with pytest.raises(ValueError, match=r"unknown scheduler 'tmda'.*Did you mean 'tdma'"):
        RadioSettings(scheduler="tmda")


def test_options_reach_a_model_that_has_some():
    settings = RadioSettings(path_loss="log_distance", path_loss_options={"reference_loss_db": 40.0})
    model = get_model("log_distance", settings.all_path_loss_options())
    assert isinstance(model, PathLossModel)
    # 40 dB at 1 m and ten times the exponent of 3.5 a decade.
    assert path_loss_db(model, 100.0, 2e9) == pytest.approx(40.0 + 35.0 * 2.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"path_loss": "umi", "path_loss_options": {"exponent": 2.0}}, "'umi' takes no parameters"),
        ({"path_loss": "log_distance", "path_loss_options": {"exponnt": 2.0}}, "Did you mean 'exponent'"),
        ({"path_loss": "log_distance", "path_loss_options": {"exponent": -2.0}}, "exponent is -2.0"),
        (
            {"path_loss": "log_distance", "path_loss_exponent": 2.0, "path_loss_options": {"exponent": 4.0}},
            "^path_loss_exponent is 2 and path_loss_options has exponent 4.0",
        ),
        (
            {
                "path_loss": "log_distance",
                "path_loss_reference_m": 2.0,
                "path_loss_options": {"reference_m": 4.0},
            },
            "^path_loss_reference_m is 2 and",
        ),
        ({"path_loss": "umi", "tx_height_m": 0.5}, "^tx_height_m is 0.5: .*above it"),
        ({"path_loss": "uma", "rx_height_m": 1.0}, "^rx_height_m is 1.0: .*above it"),
        ({"path_loss": "d2d_outdoor", "rx_height_m": 0.7}, "^rx_height_m is 0.7: .*above it"),
        ({"scheduler": "tdma", "scheduler_options": {"p": 1}}, "'tdma' has no options"),
    ],
)
def test_wrong_options_are_refused_when_the_settings_are_made(fields, said):
    with pytest.raises(ValueError, match=said):
        RadioSettings(**fields)


def test_options_reach_a_scheduler_that_is_a_function_of_them(monkeypatch):
    def every(*, step: int = 2) -> Scheduler:
        return Scheduler("every", lambda task: [np.full(task.units, -1)] * step)

    task = SimpleNamespace(units=5, radio=SimpleNamespace(subchannels=1))
    monkeypatch.setitem(SCHEDULERS._loaded, "every", every)
    assert len(get_scheduler("every", {"step": 3}).select(task)) == 3
    assert len(get_scheduler("every").select(task)) == 2
    with pytest.raises(ValueError, match=r"option of scheduler 'every' 'stp'.*Did you mean 'step'"):
        get_scheduler("every", {"stp": 3})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_distance_m": 2e5}, "min_distance_m is 200000.0; expected a number from 0 to 100000"),
        (
            {"walls": "low_loss", "carrier_hz": 1e15},
            r"carrier_hz is 1000000000000000.0; expected a number from 0 to 1e\+12",
        ),
    ],
)
def test_numbers_that_the_tables_cannot_be_made_with_are_refused_in_programs_too(fields, words):
    with pytest.raises(ValueError, match=words):
        Channel(RadioSettings(**fields), [[0.0, 0.0], [10.0, 0.0]], seed=1)


def test_powers_of_device_classes_are_in_range():
    assert [DeviceClass(tx_power_dbm=dbm).tx_power_dbm for dbm in (None, -200, 100)] == [None, -200, 100]
    for dbm in (-1e6, 1e6, float("nan")):
        with pytest.raises(ValueError, match=r"tx_power_dbm is .*; expected a number from -200 to 100"):
            DeviceClass(tx_power_dbm=dbm)
