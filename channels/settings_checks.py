"""Ranges of the radio's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from channels.checks import require_positive
from channels.nr import FEEDBACK_SLOTS

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
