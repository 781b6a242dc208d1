"""The `radio` section, derived field by field from `channels.settings.RadioSettings`: neither can drift."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from channels.settings import CHOICES, RadioSettings
from dfl_ray.config.choices import Choice
from dfl_ray.config.options import documented


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
