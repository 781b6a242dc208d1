"""Input checks that say what was got, what was expected and what to change."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


def unknown_name(what: str, got: str, known: Iterable[str]) -> ValueError:
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
    return ValueError(f"unknown {what} {got!r}; expected one of {', '.join(names)}.{hint}")


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
