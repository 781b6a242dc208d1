"""Shares and sizes in words, as every table and display writes them."""

from __future__ import annotations

from decimal import Decimal


def share(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with one decimal; a dash for None and NaN."""
    return "–" if value is None or value != value else f"{100 * value:.1f} %"


def digits(value: float, most: int = 3) -> str:
    """Write a number with so many significant digits and no power of ten: `1234 -> 1230`.

    Args:
        value: The number.
        most: Significant digits; zeros behind them are left out.
    """
    return format(Decimal(f"{value:.{most - 1}e}").normalize(), "f")


def size(count: float) -> str:
    """Write a number of bytes in decimal units (1 kB = 1000 B) with three significant digits.

    Args:
        count: Bytes.

    Returns:
        The number and its unit, from B to TB.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{digits(count)} TB"
