"""Input checks that say what was got, what was expected and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from channels.registry import Within


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside a range.

    Args:
        name: Field name with its unit.
        value: The value given.
        low: Least value.
        high: Greatest value.

    Raises:
        ValueError: If the value is below the least or above the greatest one, or not a number.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")


def require_positive(name: str, value: float, *, zero_allowed: bool = False) -> None:
    """Refuse a value that is not finite and positive.

    Args:
        name: Field name with its unit.
        value: The value given.
        zero_allowed: Whether 0 is in range.

    Raises:
        ValueError: If the value is not finite, or negative, or zero where zero is not allowed.
    """
    low_ok = value >= 0 if zero_allowed else value > 0
    if not (math.isfinite(value) and low_ok):
        bound = ">= 0" if zero_allowed else "> 0"
        raise ValueError(f"{name} is {value!r}; expected a finite number {bound}")


_KINDS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a finite number"),
}


def check_option_values(what: str, builder: Callable[..., Any], options: Mapping[str, object]) -> None:
    """Refuse options that are not what the builder's signature says: a truth value, or a number in its range.

    Args:
        what: The chosen thing ("csma").
        builder: Its builder; parameters of other types than bool, int and float are left to it.
        options: The options that were set, all known to the builder.

    Raises:
        ValueError: Naming the option, its value and what is expected.
    """
    hints = get_type_hints(builder, include_extras=True)
    for name, value in options.items():
        hint, within = hints.get(name), Within()
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            within = next((extra for extra in extras if isinstance(extra, Within)), within)
        if hint not in _KINDS:
            continue
        kinds, expected = _KINDS[hint]
        bounds = ((within.ge, ">="), (within.gt, ">"), (within.le, "<="))
        expected += " and".join(f" {sign} {bound:g}" for bound, sign in bounds if bound is not None)
        if not _is_kind(value, kinds) or not _is_within(value, within):
            raise ValueError(f"{what} {name} is {value!r}; expected {expected}")


def _is_kind(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of the types, truth values not being numbers, and finite."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return False
    return math.isfinite(value)


def _is_within(value: Any, within: Within) -> bool:
    low_ok = (within.ge is None or value >= within.ge) and (within.gt is None or value > within.gt)
    return low_ok and (within.le is None or value <= within.le)
