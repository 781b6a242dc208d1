"""Sections made from what they configure.

A builder's signature gives keys, types, ranges and defaults, its docstring their meanings, so that neither the
configuration nor its description can say what the builder does not.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, create_model

from channels.registry import Within
from dfl_ray.errors import InputError

_PLAIN = (int, float, bool, str, type(None))


def section_of(
    kind: str, name: str, builder: Callable[..., Any], given: Iterable[str], base: type[BaseModel]
) -> type[BaseModel]:
    """The section of one variant: the keys of `base`, `type`, and the builder's options.

    Args:
        kind: What the section chooses, for messages ("graph").
        name: The value of `type` that selects it.
        builder: Function or class whose keyword parameters are the options. A parameter whose type YAML cannot give
            (an array) is not a key.
        given: Parameters that are not the user's.
        base: The section with the keys all variants share.

    Returns:
        A new pydantic class derived from `base`.

    Raises:
        InputError: The builder's parameters have no types, or one has the name of a key of `base`.
    """
    known: dict[str, Any] = {**option_fields(kind, name, builder, given)}
    twice = sorted((known.keys() & base.model_fields.keys()) | (known.keys() & {"type"}))
    if twice:
        raise InputError(
            f"The {kind} `{name}` has an option with the name of a key of all: {', '.join(twice)}"
        )
    choice: Any = Literal[name]  # pyrefly: ignore[not-a-type] - the name is known only now
    chosen: Any = (choice, Field(default=name, description=f"the {kind}"))
    return create_model(
        f"{name}_{kind}".replace(" ", "_"), __base__=base, __doc__=summary(builder), type=chosen, **known
    )


def option_fields(
    kind: str, name: str, builder: Callable[..., Any], given: Iterable[str]
) -> dict[str, tuple[Any, Any]]:
    """Name -> (type, pydantic field) of every option of a builder that YAML can give.

    The meaning of an option is its entry under `Args` in the builder's docstring, its range a `Within`.

    Args:
        kind: What the builder is, for messages ("graph").
        name: Its name.
        builder: Function or class.
        given: Parameters that are not the user's.

    Returns:
        The fields, in the order of the signature.

    Raises:
        InputError: A parameter has no type, or one that cannot be read at run time.
    """
    function = builder.__init__ if isinstance(builder, type) else builder
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InputError(
            f"The {kind} `{name}` has parameters whose types cannot be read",
            got=str(error),
            expected="types that are imported when the module is, not under TYPE_CHECKING",
        ) from error
    meanings = documented(function, "Args")
    skipped = {*given, "self", "return"}
    found: dict[str, tuple[Any, Any]] = {}
    for parameter in inspect.signature(builder).parameters.values():
        if parameter.name in skipped or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.name not in hints:
            raise InputError(
                f"The option `{parameter.name}` of the {kind} `{name}` has no type",
                expected=f"one in its signature, e.g. `{parameter.name}: int = 4`",
            )
        annotation, limits = _plain_type(hints[parameter.name])
        if annotation is not None:
            default = ... if parameter.default is parameter.empty else parameter.default
            meaning = meanings.get(parameter.name, "")
            found[parameter.name] = (annotation, Field(default=default, description=meaning, **limits))
    return found


def _plain_type(hint: Any) -> tuple[Any, dict[str, Any]]:
    """A type that YAML can give, and its limits; None for any other."""
    limits: dict[str, Any] = {}
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        for mark in (mark for mark in marks if _is_range(mark)):
            limits = {key: value for key, value in vars(mark).items() if value is not None}
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not all(_is_plain(member) for member in members):
        return None, {}
    members = tuple(dict.fromkeys(str if member is Path else member for member in members))
    # The members are known only now.
    return Union[members], limits  # noqa: UP007  # pyrefly: ignore[not-a-type]


def _is_range(mark: object) -> bool:
    # `topology` and `channels` each have the class, since they know neither each other nor this package.
    return type(mark).__qualname__ == Within.__qualname__ and hasattr(mark, "ge")


def _is_plain(hint: Any) -> bool:
    if get_origin(hint) is Literal or hint in _PLAIN or hint is Path:
        return True
    return get_origin(hint) is tuple and all(part is Ellipsis or _is_plain(part) for part in get_args(hint))


def summary(thing: Any) -> str:
    """First paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def documented(thing: Any, heading: str) -> Mapping[str, str]:
    """Name -> text of the entries under a heading of a Google-form docstring.

    Args:
        thing: Function or class.
        heading: `Args` or `Attributes`.

    Returns:
        The entries, each on one line without a full stop at its end; empty without the heading.
    """
    found: dict[str, list[str]] = {}
    inside, current = False, None
    for line in (inspect.getdoc(thing) or "").splitlines():
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth == 0:
            inside = line.strip() == f"{heading}:"
        elif inside and depth == 4 and ":" in line:
            current, _, text = line.strip().partition(":")
            found[current] = [text.strip()]
        elif inside and current is not None and line.strip():
            found[current].append(line.strip())
    return {name: _sentence(" ".join(lines)) for name, lines in found.items()}


def _sentence(text: str) -> str:
    text = " ".join(text.split()).replace("``", "`").rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
