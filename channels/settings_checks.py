"""Ranges of the radio's numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from channels.checks import require_positive
from channels.nr import FEEDBACK_SLOTS
from channels.pathloss import path_loss_db
from channels.pathloss.model import PathLossModel

_POSITIVE = (
    "path_loss_exponent", "path_loss_reference_m", "los_decorrelation_m", "min_distance_m", "carrier_hz",
    "bandwidth_hz", "slot_s", "conflict_factor", "amplifier_efficiency", "near_neighbours",
    "outer_loop_step_db", "csi_pilots", "building_m",
)  # fmt: skip
_NOT_NEGATIVE = (
    "circuit_power_w", "receive_power_w", "listen_power_w", "idle_power_w", "speed_mps", "fade_margin_db",
    "dense_devices", "rate_margin_db", "feedback_s", "feedback_delay_s", "external_per_km2",
    "delay_spread_s", "blockers",
)  # fmt: skip
_POSITIVE_OR_NONE = ("tx_height_m", "rx_height_m", "shadowing_decorrelation_m", "deadline_s", "csi_delay_s")


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Refuse a number outside its range.

    Args:
        settings: Every field of the radio settings by its name.

    Raises:
        ValueError: Naming the field, its value and what is expected.
    """
    for name in _POSITIVE:
        require_positive(name, settings[name])
    for name in _NOT_NEGATIVE:
        if settings[name] is not None:
            require_positive(name, settings[name], zero_allowed=True)
    for name in _POSITIVE_OR_NONE:
        if settings[name] is not None:
            require_positive(name, settings[name])
    for name in ("subchannels", "max_attempts", "antenna_panels", "control_every_rounds", "control_gain_bits",
                 "control_header_bytes"):  # fmt: skip
        value = settings[name]
        if int(value) != value or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number >= 1")
    if not 0 <= settings["indoor_share"] <= 1:
        raise ValueError(f"indoor_share is {settings['indoor_share']!r}; expected a number in [0, 1]")
    if int(settings["blockers"]) != settings["blockers"]:
        raise ValueError(f"blockers is {settings['blockers']!r}; expected a whole number >= 0")
    if settings["nr_feedback_slots"] not in FEEDBACK_SLOTS:
        raise ValueError(f"nr_feedback_slots is {settings['nr_feedback_slots']!r}; expected 0, 1, 2 or 4")
    if settings["control_gain_bits"] > 16:
        raise ValueError(f"control_gain_bits is {settings['control_gain_bits']}; expected 1 to 16")
    if settings["subchannels"] > 100:
        raise ValueError(f"subchannels is {settings['subchannels']}; expected at most 100")
    for name in ("aloha_probability", "amplifier_efficiency", "external_duty"):
        if not 0 < settings[name] <= 1:
            raise ValueError(f"{name} is {settings[name]!r}; expected a number in (0, 1]")
    if not settings["nakagami_m"] >= 0.5:
        raise ValueError(f"nakagami_m is {settings['nakagami_m']!r}; expected a number >= 0.5")
    if settings["outer_loop_target"] is not None and not 0 < settings["outer_loop_target"] < 1:
        raise ValueError(
            f"outer_loop_target is {settings['outer_loop_target']!r}; expected a number in (0, 1), or null"
        )
    if settings["shadowing_sigma_db"] is not None:
        require_positive("shadowing_sigma_db", settings["shadowing_sigma_db"], zero_allowed=True)
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; expected a finite number")


def check_drawn_heights(path_loss: str, walls: str) -> None:
    """Refuse drawn heights where no clause has them.

    Args:
        path_loss: Name of the path-loss model.
        walls: What devices may be inside of.

    Raises:
        ValueError: If the model is not umi or uma, or devices are in cars.
    """
    if path_loss not in ("umi", "uma"):
        raise ValueError(
            f"device_heights is 'drawn' under path_loss {path_loss!r}; floors are those of umi and uma, set one of"
            " these, or device_heights to 'fixed'"
        )
    if walls in ("car", "metallised_car"):
        raise ValueError(
            f"device_heights is 'drawn' and walls is {walls!r}: cars have no floors; set walls to none, low_loss or"
            " high_loss, or device_heights to 'fixed'"
        )


def check_heights(
    model: PathLossModel, carrier_hz: float, tx_height_m: float | None, rx_height_m: float | None
) -> None:
    """Refuse antenna heights with which a path-loss model has no loss or no chance of sight at some distance.

    Args:
        model: The path-loss model.
        carrier_hz: Carrier in Hz.
        tx_height_m: Height of the transmitter in m; None for the model's own.
        rx_height_m: Height of the receiver in m; None for the model's own.

    Raises:
        ValueError: Naming the field and its value. Heights outside a model's range with which it can be reckoned are
            told by notes instead.
    """
    distance_m = np.geomspace(1.0, 1e6, 61)
    for name, tx_m, rx_m in (("tx_height_m", tx_height_m, None), ("rx_height_m", None, rx_height_m),
                             ("tx_height_m", tx_height_m, rx_height_m)):  # fmt: skip
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                for los in (True, False):
                    path_loss_db(model, distance_m, carrier_hz, los=los, tx_height_m=tx_m, rx_height_m=rx_m)
                model.sight(distance_m, rx_m)
        except ValueError as error:
            raise ValueError(f"{name} is {tx_m if name == 'tx_height_m' else rx_m}: {error}") from error


def check_named_once(named: Mapping[str, tuple[str, float, float]], options: Mapping[str, Any]) -> None:
    """Refuse an option of the path-loss model that a field of the radio sets to something else.

    Args:
        named: Option -> the field that sets it, the field's value and its default.
        options: `path_loss_options`.

    Raises:
        ValueError: Naming the field, and both values.
    """
    for option, (name, value, standard) in named.items():
        if option in options and value not in (standard, options[option]):
            raise ValueError(
                f"{name} is {value:g} and path_loss_options has {option} {options[option]!r}, which are one; set one"
                " of them"
            )
