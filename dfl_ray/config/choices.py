"""Values and sections that are chosen by name from a registry, in the form pydantic asks for.

`Choice` is the annotation of a key whose value is a name. `Variants` is that of a section whose keys depend on the name
under its `type`. Both ask the registry when a configuration is read, so what an installed package adds is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

import channels.registry
import topology.registry
from dfl_ray.errors import InputError

REGISTRIES = (channels.registry.Registry, topology.registry.Registry)
"""`topology` and `channels` each have the class, since they know neither each other nor this package."""


class Choice:
    """Annotation of a key that takes a name: `Annotated[str, Choice(MIXINGS)]`.

    Args:
        names: The names, usually a registry.
        files: Endings of files that may be given instead of a name.
    """

    def __init__(self, names: Collection[str], files: tuple[str, ...] = ()) -> None:
        self.names = names
        self.files = files

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        """The schema of the text, followed by the check."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in self.names and not (self.files and name.lower().endswith(self.files)):
            raise PydanticCustomError("unknown_choice", "Input should be a known name")
        if isinstance(self.names, REGISTRIES) and name in self.names and name not in self.names.own:
            self.names[name]  # an installed package's: what cannot be used is told now, with the key
        return name


class Variants:
    """Annotation of a section that is one of several, told apart by `type`.

    Args:
        names: The values `type` takes, usually a registry.
        default: The value where none is given.
        base: The class all variants are derived from.
        section: The class of one variant.
    """

    def __init__(
        self,
        names: Collection[str],
        default: str,
        base: type[BaseModel],
        section: Callable[[str], type[BaseModel]],
    ) -> None:
        self.names = names
        self.default = default
        self.base = base
        self.section = section

    def make_default(self) -> Any:
        """The section with the default of every key."""
        return self.section(self.default)()

    def chosen(self, data: Any) -> type[BaseModel] | None:
        """The class that plain data name by `type`, None if they name none that exists.

        Args:
            data: The section as plain data; without a `type`, or no mapping at all, the default is meant.

        Returns:
            The section's class, or None.

        Raises:
            InputError: An installed package that offers the variant cannot be imported.
        """
        name = data.get("type", self.default) if isinstance(data, Mapping) else self.default
        try:
            return self.section(name) if isinstance(name, str) and name in self.names else None
        except ValueError as error:
            # An installed package that cannot be imported is the user's to mend.
            raise error if isinstance(error, InputError) else InputError(str(error)) from error

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        """A schema that hands the data to the variant's own."""
        del source, handler
        dump = core_schema.plain_serializer_function_ser_schema(
            lambda section, info: section.model_dump(mode=info.mode), info_arg=True
        )
        return core_schema.with_info_plain_validator_function(self._validate, serialization=dump)

    def _validate(self, data: Any, info: ValidationInfo) -> BaseModel:
        if isinstance(data, self.base):
            return data
        if not isinstance(data, Mapping):
            raise PydanticCustomError("section_type", "Input should be a mapping of keys")
        section = self.chosen(data)
        if section is None:
            raise PydanticCustomError("union_tag_invalid", "Input should have a known `type`")
        # Strict validation takes lists for tuples only from JSON.
        if info.mode == "json":
            return section.model_validate_json(json.dumps(data), strict=True)
        return section.model_validate(data)
