"""What all sections of the configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, numbers finite, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def named_keys(section: BaseModel) -> set[str]:
    """Keys of a section that its author has set, if only to their defaults.

    A configuration that states everything, as a run's `config.yaml` does, no longer says what its author has set: then
    they are the keys with other values than the defaults.

    Args:
        section: The section.

    Returns:
        Names of its fields.
    """
    fields = type(section).model_fields
    if section.model_fields_set < set(fields):
        return set(section.model_fields_set)
    return {name for name, value in section if value != fields[name].get_default(call_default_factory=True)}
