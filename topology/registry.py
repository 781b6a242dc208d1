"""Choices by name: those of this project, and those that installed packages add through entry points.

`topology` and `channels` know neither each other nor `dfl_ray`, so each has this file; a test keeps the two equal.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

_KINDS: Mapping[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a finite number"),
    str: (str, "a text"),
    Path: (os.PathLike, "a path"),
    NoneType: (NoneType, "none"),
}
"""Type in a signature -> what its values are instances of, and that in words."""

FUNCTION = "collections.abc:Callable"
_WORDS = {
    FUNCTION: "a function or class whose parameters can be read",
    "builtins:tuple": "a tuple",
    "builtins:list": "a list",
}
"""Kind of object -> that in words, where its name alone would not say it."""


class UnknownName(ValueError, KeyError):
    """A name that is in no table; also a `KeyError`, so that a `Registry` is a proper mapping."""

    def __str__(self) -> str:
        """The message as it was given; a `KeyError` would quote it."""
        return str(self.args[0])


@dataclass(frozen=True)
class Within:
    """The range of an option, for `Annotated[float, Within(gt=0)]` in the signature of what it belongs to.

    Attributes:
        ge: Least value.
        gt: All values are above this one.
        le: Greatest value.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None


class Registry(Mapping[str, T], Generic[T]):
    """Objects by name, imported when they are first asked for.

    Names come in the order of `places`, then those of installed packages in alphabetical order. The project's own
    names win, so that an installed package cannot change what a shipped configuration means. Any process finds an
    installed object by its name alone, hence so does a Ray worker.

    Args:
        what: The kind of thing in words, for messages ("graph").
        group: Entry-point group in which installed packages name theirs ("dfl_ray.graphs").
        places: Name -> "module:attribute" of the project's own.
        kinds: "module:class" of what an installed package's object may be an instance of, imported when one is loaded.
    """

    def __init__(
        self, what: str, group: str, places: Mapping[str, str], kinds: tuple[str, ...] = (FUNCTION,)
    ) -> None:
        self.what = what
        self.kinds = kinds
        self.group = group
        self.own = tuple(places)
        self._points = {name: EntryPoint(name, place, group) for name, place in places.items()}
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """The object of this name.

        Raises:
            ValueError: There is none of this name (it is a `KeyError` too), or the package that has it cannot be
                imported or gives something else.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        """All names."""
        yield from self.own
        yield from sorted(name for name in installed(self.group) if name not in self._points)

    def __len__(self) -> int:
        """Number of names."""
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Whether there is an object of this name; imports nothing."""
        return name in self._points or name in installed(self.group)

    def usable(self) -> dict[str, T]:
        """All objects by name but those of installed packages that cannot be imported or give something else."""
        found: dict[str, T] = {}
        for name in self:
            with suppress(*(() if name in self._points else (ValueError,))):
                found[name] = self[name]
        return found

    def _load(self, name: str) -> T:
        if name in self._points:
            return _at(self._points[name].value)
        points = installed(self.group)
        if name not in points:
            raise unknown_name(self.what, name, self)
        point = points[name]
        package = f"the installed package {point.dist.name}" if point.dist else "an installed package"
        what = f"{self.what} {name!r} is named by {package} as {point.value!r} (entry-point group {self.group}) but"
        try:
            found = point.load()
        except Exception as error:  # whatever a module of somebody else's does when it is imported
            kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
            raise ValueError(f"{what} cannot be imported: {kind}{error}") from error
        if not any(_fits(found, kind) for kind in self.kinds):
            expected = " or ".join(_WORDS.get(kind, f"a {kind.replace(':', '.')}") for kind in self.kinds)
            raise ValueError(f"{what} that is {_told(found)}; expected {expected}")
        return found


def _at(place: str) -> Any:
    """What stands at "module:attribute"."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def _fits(found: object, kind: str) -> bool:
    """Whether an object is of a kind; of a function the parameters must be readable, since they are its options."""
    if kind != FUNCTION:
        return isinstance(found, _at(kind))
    import inspect

    try:
        return callable(found) and inspect.signature(found) is not None
    except (TypeError, ValueError):
        return False


def _told(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"{found!r}"[:80]


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Entry points of a group by name; read once in a process, when a name is asked for that is not our own.

    Args:
        group: Entry-point group ("dfl_ray.graphs").

    Returns:
        Name -> entry point, not yet imported; empty if no installed package names one.

    Raises:
        ValueError: Two packages have different objects of one name.
    """
    found: dict[str, EntryPoint] = {}
    points: EntryPoints = _all_points().select(group=group)
    for point in points:
        if point.name in found and found[point.name].value != point.value:
            raise ValueError(
                f"two installed packages name {point.name!r} in the entry-point group {group}: "
                f"{found[point.name].value} and {point.value}; uninstall one of them"
            )
        found[point.name] = point
    return found


@cache
def _all_points() -> Any:
    return entry_points()


def unknown_name(what: str, got: str, known: Iterable[str]) -> UnknownName:
    """Build the error for a name that is in no table, naming the nearest known one.

    Args:
        what: Kind of thing, as the user calls it ("scheduler").
        got: The name that was given.
        known: The names that exist.

    Returns:
        A ValueError ready to raise.
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"unknown {what} {got!r}; expected one of {', '.join(names) or 'none'}.{hint}")


def options_of(builder: Callable[..., Any], given: Iterable[str]) -> tuple[str, ...]:
    """Names of a builder's own options: its parameters without those that every builder of its kind is given.

    Args:
        builder: A function or class.
        given: Parameters that are not the user's.

    Returns:
        The names, in the order of the signature.
    """
    import inspect

    return tuple(name for name in inspect.signature(builder).parameters if name not in set(given))


def check_options(
    what: str, builder: Callable[..., Any], given: Iterable[str], options: Mapping[str, object]
) -> None:
    """Refuse an option that the builder does not know, the lack of one that it needs, and a value that it cannot take.

    Args:
        what: The chosen thing in words ("graph 'ring'").
        builder: Its builder.
        given: Parameters that are not the user's.
        options: The options that were set.

    Raises:
        ValueError: Naming the unknown option with the nearest known one and all known ones, the missing one, or what
            `check_option_values` refuses.
    """
    import inspect

    known = options_of(builder, given)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {what}", option, known)
    parameters = inspect.signature(builder).parameters
    for option in known:
        if option not in options and parameters[option].default is inspect.Parameter.empty:
            raise ValueError(f"{what} needs the option {option!r}; set {option}=")
    check_option_values(what, builder, options)


def ask(what: str, function: Callable[..., T], /, *given: Any, **named: Any) -> T:
    """Call what may be an installed package's own, whose errors do not say of themselves whose they are.

    Args:
        what: The thing in words ("graph 'ring'").
        function: What is called.
        *given: Its arguments.
        **named: Its named arguments.

    Returns:
        Its answer.

    Raises:
        ValueError: Its own ones as they are; any other error of it with the name of the thing.
    """
    try:
        return function(*given, **named)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{what} failed: {type(error).__name__}: {error}") from error


def check_option_values(what: str, builder: Callable[..., Any], options: Mapping[str, object]) -> None:
    """Refuse options that are not of the type, or outside the range, that the builder's signature gives them.

    Args:
        what: The chosen thing in words ("graph 'ring'").
        builder: Its builder; a parameter with another type than truth values, numbers, texts, paths, names of a
            `Literal`, or one of these or None, is left to it.
        options: The options that were set, all known to the builder.

    Raises:
        ValueError: Naming the option, its value and what is expected.
    """
    import inspect

    if not options:
        return
    try:
        parameters = inspect.signature(builder, eval_str=True).parameters
    except NameError as error:
        raise ValueError(
            f"the types of the options of {what} cannot be read: {error}; import what its signature names when its "
            "module is imported, not under TYPE_CHECKING"
        ) from error
    for name, value in options.items():
        hint, within = parameters[name].annotation, Within()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            within = next((mark for mark in marks if isinstance(mark, Within)), within)
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        known = all(member in _KINDS or get_origin(member) is Literal for member in members)
        if known and not any(_is_member(value, member, within) for member in members):
            expected = " or ".join(_in_words(member, within) for member in members)
            raise ValueError(f"{what}: {name} is {value!r}; expected {expected}")


def _is_member(value: Any, member: Any, within: Within) -> bool:
    """Whether a value is one of a `Literal`'s, or of a type of `_KINDS`; truth values are no numbers."""
    if get_origin(member) is Literal:
        return any(type(value) is type(name) and value == name for name in get_args(member))
    if not isinstance(value, _KINDS[member][0]) or (isinstance(value, bool) and member is not bool):
        return False
    if member not in (int, float):
        return True
    low_ok = (within.ge is None or value >= within.ge) and (within.gt is None or value > within.gt)
    return low_ok and (within.le is None or value <= within.le) and (member is int or math.isfinite(value))


def _in_words(member: Any, within: Within) -> str:
    if get_origin(member) is Literal:
        return f"one of {', '.join(map(str, get_args(member)))}"
    bounds = ((within.ge, ">="), (within.gt, ">"), (within.le, "<="))
    words = " and".join(f" {sign} {bound:g}" for bound, sign in bounds if bound is not None)
    return _KINDS[member][1] + (words if member in (int, float) else "")
