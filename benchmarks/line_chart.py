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
        names: What to write at 0, 1, 2, ... in place of numbers; empty = numbers.
    """

    title: str
    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()

    def place(self, value: float) -> float:
        """Position of a value from 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values to label: decades (1, 2, 5 on a short axis) if log, names, or steps of 1, 2 or 5."""
        if self.names:
            return [float(k) for k in range(len(self.names))]
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            mantissas = (1, 2, 5) if math.log10(self.high / self.low) < 2.5 else (1,)
            every = [m * 10.0**k for k in range(first, last + 1) for m in mantissas]
            return [v for v in every if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        for factor in (5, 2):
            if (self.high - self.low) / (step * factor) >= 4:
                step *= factor
                break
        start = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(start, math.floor(self.high / step + 1e-9) + 1)]

    def label(self, value: float) -> str:
        """What to write at a tick."""
        return self.names[round(value)] if self.names else f"{value:g}"


def _titles(x: Axis, y: Axis) -> list[str]:
    middle_x, middle_y = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    turned = f'transform="translate(20 {middle_y}) rotate(-90)"'
    return [
        f'<text x="{middle_x}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(x.title)}</text>',
        f'<text {turned} text-anchor="middle">{escape(y.title)}</text>',
    ]


Series = tuple[Sequence[float], Sequence[float]]


def save_chart(
    path: Path,
    title: str,
    x: Axis,
    y: Axis,
    series: Mapping[str, Series],
    spreads: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write a line chart.

    Args:
        path: File to write.
        title: Title of the chart.
        x: Horizontal axis.
        y: Vertical axis.
        series: Name to (x values, y values). Names "a: x" and "a: y" share a colour, the second is dashed.
        spreads: Name to the half-widths of its points' intervals; such series get points and bars.
    """
    # A letter is about 7.3 wide; long names widen the picture.
    width = max(_WIDTH, round(_WIDTH - _RIGHT + 50 + 7.3 * max(map(len, series))))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" font-family="sans-serif"'
        ' font-size="13">',
        f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_grid(x, y), *_titles(x, y),
    ]  # fmt: skip
    groups = list(dict.fromkeys(name.partition(": ")[0] for name in series))
    first_variant = next(iter(series)).partition(": ")[2]
    for number, (name, line) in enumerate(series.items()):
        group, _, variant = name.partition(": ")
        color = COLORS[groups.index(group) % len(COLORS)]
        dash = ' stroke-dasharray="6 3"' if (variant != first_variant if variant else number >= 4) else ""
        parts += _line(x, y, line, (spreads or {}).get(name), color, dash)
        parts += _legend(number, name, color, dash)
    parts.append("</svg>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def _at_x(x: Axis, value: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * x.place(value)


def _at_y(y: Axis, value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - y.place(value))


def _grid(x: Axis, y: Axis) -> list[str]:
    parts: list[str] = []
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value in x.ticks():
        at = _at_x(x, value)
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{bottom}" stroke="#ddd"/>')
        label = escape(x.label(value))
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for value in y.ticks():
        at = _at_y(y, value)
        parts.append(f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y.label(value)}</text>')
    return parts


def _line(x: Axis, y: Axis, line: Series, spread: Sequence[float] | None, color: str, dash: str) -> list[str]:
    points = [(_at_x(x, px), _at_y(y, py)) for px, py in zip(*line, strict=True)]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>']
    if spread is not None:
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{color}"/>' for px, py in points]
        for (px, _), value, half in zip(points, line[1], spread, strict=True):
            if math.isfinite(half):
                low, high = _at_y(y, value - half), _at_y(y, value + half)
                bar = f"M{px - 4:.1f},{low:.1f}h8m-4,0V{high:.1f}m-4,0h8"
                parts.append(f'<path d="{bar}" fill="none" stroke="{color}"/>')
    return parts


def _legend(number: int, name: str, color: str, dash: str) -> list[str]:
    at, edge = _TOP + 12 + 20 * number, _WIDTH - _RIGHT + 14
    return [
        f'<line x1="{edge}" y1="{at}" x2="{edge + 22}" y2="{at}" stroke="{color}" stroke-width="2"{dash}/>',
        f'<text x="{edge + 28}" y="{at + 4}">{escape(name)}</text>',
    ]
