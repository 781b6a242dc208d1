"""Checks of what functions of the library are given, in the words of the person who called them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from dfl_ray.errors import InputError


def check_whole(
    name: str, value: Any, least: int | None = None, most: int | None = None, *, change: str = ""
) -> int:
    """Make sure that an argument is a whole number in a range.

    Args:
        name: Its name.
        value: What was given; NumPy's whole numbers are, truth values are not.
        least: Smallest allowed; None = any.
        most: Largest allowed; None = any.
        change: What to do instead, in words.

    Returns:
        The number.

    Raises:
        InputError: It is none, or out of range.
    """
    lower = "" if least is None else f" from {least:,}"
    upper = "" if most is None else f" to {most:,}"
    number = None if isinstance(value, bool) or not hasattr(value, "__index__") else operator.index(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise InputError(
            f"`{name}` is not what it can be",
            got=f"{value!r}"[:80],
            expected=f"a whole number{lower}{upper}",
            change=change,
        )
    return number


def check_text(name: str, value: Any, expected: str) -> str:
    """Make sure that an argument is a text.

    Args:
        name: Its name.
        value: What was given.
        expected: What would be right, in words.

    Returns:
        The text.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, str):
        raise InputError(f"`{name}` is no text", got=f"{value!r}"[:80], expected=expected)
    return value


def is_list(value: Any) -> bool:
    """Whether an argument is several things in order; a text is one.

    Args:
        value: What was given.
    """
    return isinstance(value, Sequence) and not isinstance(value, str)


def check_names(name: str, value: Any, expected: str) -> Sequence[str]:
    """Make sure that an argument is a list of names, and not one name, whose letters would be taken for them.

    Args:
        name: Its name.
        value: What was given.
        expected: What would be right, in words.

    Returns:
        The names.

    Raises:
        InputError: It is none.
    """
    if not is_list(value) or not all(isinstance(v, str) for v in value):
        raise InputError(f"`{name}` is no list of names", got=f"{value!r}"[:80], expected=expected)
    return value
