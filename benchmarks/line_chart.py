"""Line charts as small self-contained SVG files, for benchmark pictures without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_WIDTH, _HEIGHT = 720, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 190, 46, 60


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        title: Title with unit.
        low: Value at the start.
        high: Value at the end.
        log: Whether the scale is logarithmic.
    """

    title: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Position of a value from 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values to label: decades on a log axis, steps of 1, 2 or 5 otherwise."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**k for k in range(first, last + 1)]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        for factor in (5, 2):
            if (self.high - self.low) / (step * factor) >= 4:
                step *= factor
                break
        start = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(start, math.floor(self.high / step + 1e-9) + 1)]


def _titles(x: Axis, y: Axis) -> list[str]:
    middle_x, middle_y = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    turned = f'transform="translate(20 {middle_y}) rotate(-90)"'
    return [
        f'<text x="{middle_x}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(x.title)}</text>',
        f'<text {turned} text-anchor="middle">{escape(y.title)}</text>',
    ]


Series = tuple[Sequence[float], Sequence[float]]


def save_chart(path: Path, title: str, x: Axis, y: Axis, series: Mapping[str, Series]) -> None:
    """Write a line chart.

    Args:
        path: File to write.
        title: Title of the chart.
        x: Horizontal axis.
        y: Vertical axis.
        series: Name to (x values, y values). Names "a: x" and "a: y" share a colour, the second is dashed.
    """
    inner_w, inner_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def point(px: float, py: float) -> str:
        return f"{_LEFT + inner_w * x.place(px):.1f},{_TOP + inner_h * (1 - y.place(py)):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
        ' font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for value in x.ticks():
        at = _LEFT + inner_w * x.place(value)
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_TOP + inner_h}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{_TOP + inner_h + 18}" text-anchor="middle">{value:g}</text>')
    for value in y.ticks():
        at = _TOP + inner_h * (1 - y.place(value))
        parts.append(f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{_LEFT + inner_w}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts += _titles(x, y)
    groups = list(dict.fromkeys(name.partition(": ")[0] for name in series))
    first_variant = next(iter(series)).partition(": ")[2]
    for number, (name, (xs, ys)) in enumerate(series.items()):
        group, _, variant = name.partition(": ")
        color = COLORS[groups.index(group) % len(COLORS)]
        line = " ".join(point(px, py) for px, py in zip(xs, ys, strict=True))
        dash = ' stroke-dasharray="6 3"' if (variant != first_variant if variant else number >= 4) else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        at = _TOP + 12 + 20 * number
        edge = _WIDTH - _RIGHT + 14
        parts.append(
            f'<line x1="{edge}" y1="{at}" x2="{edge + 22}" y2="{at}" stroke="{color}" stroke-width="2"{dash}/>'
        )
        parts.append(f'<text x="{edge + 28}" y="{at + 4}">{escape(name)}</text>')
    parts.append("</svg>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")
