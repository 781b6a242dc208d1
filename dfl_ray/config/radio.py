"""The `radio` section, derived field by field from `channels.settings.RadioSettings`: neither can drift."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from channels.settings import RadioSettings


def _meanings(settings: type[Any]) -> dict[str, str]:
    """Each field's line of the `Attributes:` section of the settings' docstring."""
    section = re.search(r"Attributes:\n(.*)", inspect.getdoc(settings) or "", re.DOTALL)
    entries = re.findall(
        r"^    (\w+): (.*(?:\n        .*)*)", section.group(1) if section else "", re.MULTILINE
    )
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _section(name: str, settings: type[Any]) -> type[BaseModel]:
    hints, meanings = get_type_hints(settings), _meanings(settings)
    fields: dict[str, Any] = {
        f.name: (hints[f.name], Field(f.default, description=meanings.get(f.name, "")))
        for f in dataclasses.fields(settings)
    }
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
