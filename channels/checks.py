"""Input checks that say what was got, what was expected and what to change."""

from __future__ import annotations

import math


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
