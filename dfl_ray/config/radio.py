"""The `radio` section, derived field by field from `channels.settings.RadioSettings`: neither can drift."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from channels.settings import CHOICES, RadioSettings
from dfl_ray.config.choices import Choice
from dfl_ray.config.options import documented
from dfl_ray.config.problems import Problem

RADIO_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "path_loss_exponent": (0.0, 20.0), "path_loss_reference_m": (1e-6, 1e6), "min_distance_m": (1e-6, 1e5),
        "los_decorrelation_m": (1e-6, 1e9), "tx_height_m": (1e-3, 1e6), "rx_height_m": (1e-3, 1e6),
        "carrier_hz": (1e3, 1e12), "bandwidth_hz": (1.0, 1e13), "tx_power_dbm": (-200.0, 100.0),
        "antenna_gain_db": (-200.0, 200.0), "noise_figure_db": (-100.0, 200.0), "shadowing_sigma_db": (0.0, 50.0),
        "shadowing_decorrelation_m": (1e-6, 1e9), "rician_k_db": (-200.0, 100.0), "nakagami_m": (0.5, 1e6),
        "speed_mps": (0.0, 3e8), "slot_s": (1e-9, 1e6), "snr_gap_db": (0.0, 100.0), "sinr_min_db": (-100.0, 100.0),
        "fade_margin_db": (0.0, 200.0), "waterfall_db": (-100.0, 100.0), "conflict_factor": (1e-6, 1e6),
        "max_attempts": (1, 1e6), "deadline_s": (1e-9, 1e12), "circuit_power_w": (0.0, 1e6),
        "receive_power_w": (0.0, 1e6), "dense_devices": (0, 1e7), "near_neighbours": (1, 1e7),
        "blockers": (0, 100), "aloha_probability": (1e-4, 1.0),
    }
)  # fmt: skip
"""Least and largest value of each number of the radio, far beyond what is built but well inside float64, and within
what is planned in a time that somebody waits for."""


def _section(name: str, settings: type[Any]) -> type[BaseModel]:
    hints, meanings = get_type_hints(settings), documented(settings, "Attributes")
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        kind = Annotated[hints[f.name], Choice(CHOICES[f.name])] if f.name in CHOICES else hints[f.name]
        factory = None if f.default_factory is dataclasses.MISSING else f.default_factory
        default: dict[str, Any] = {"default_factory": factory} if factory else {"default": f.default}
        fields[f.name] = (kind, Field(**default, description=meanings.get(f.name, "")))
    config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    return create_model(name, __config__=config, __doc__=settings.__doc__, **fields)


if TYPE_CHECKING:

    class RadioConfig(BaseModel):
        """The `radio` section; its fields are those of `RadioSettings`."""

else:
    RadioConfig = _section("RadioConfig", RadioSettings)


def radio_settings(section: BaseModel) -> RadioSettings:
    """Turn the validated `radio` section into the settings the channel takes."""
    return RadioSettings(**section.model_dump())


def radio_problems(section: BaseModel, devices: int) -> Iterable[Problem]:
    """Find what of the radio contradicts itself, and numbers that its own equations could not be computed with.

    Args:
        section: The validated `radio` section.
        devices: Number of devices.

    Yields:
        A contradiction, or else one problem for each number outside `RADIO_RANGES`.
    """
    try:
        radio_settings(section).check_size(devices)
    except ValueError as error:
        # The settings name their field first: "max_attempts is 0; expected ...".
        field = str(error).partition(" ")[0]
        named = f"`radio.{field}`" if field in type(section).model_fields else "`radio`"
        yield Problem(f"{named}: {error}")
        return
    for name, (least, most) in RADIO_RANGES.items():
        value = getattr(section, name)
        if isinstance(value, int | float) and not least <= value <= most:
            yield Problem(
                f"`radio.{name}` is outside the range that the radio is computed in",
                got=f"{value:g}",
                expected=f"a number from {least:g} to {most:g}",
            )
