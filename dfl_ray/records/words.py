"""Shares and sizes in words, as every table and display writes them."""

from __future__ import annotations


def share(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with one decimal; a dash for None and NaN."""
    return "–" if value is None or value != value else f"{100 * value:.1f} %"


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
    return f"{count:.3g} TB"
