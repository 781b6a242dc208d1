"""What the tables of the claim share: what a method may use, how it codes, and rows of a markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.comparison import Curve, Interval

EVERY_ROUND_INT8 = "precision=int8"
"""Equal coding: int8 with error feedback, in every round."""
MULTICAST = "radio.scheduler=broadcast"
"""One transmission serves all receivers of a message and is counted once."""


@dataclass(frozen=True)
class Facts:
    """What a reader must know of a row of a table.

    Attributes:
        labels: Whether training uses which task a row belongs to.
        coding: Number format on air, and whether rounding errors are carried on.
    """

    labels: str
    coding: str


def facts(label: str, overrides: Sequence[str] = (), preset: str | None = None) -> Facts:
    """Say of a method with settings whether it uses task labels in training, and how it codes.

    Args:
        label: The method and its settings, as `benchmarks.methods` takes them.
        overrides: Settings that hold for all.
        preset: Preset or config file.

    Returns:
        The facts, in words.
    """
    from benchmarks.kept_runs import settings_of
    from dfl_ray.config.load import load_config
    from dfl_ray.methods.spec import method_spec

    method = load_config(preset, [*overrides, *settings_of(label)]).method
    spec = method_spec(method)
    labels = "yes" if spec.task_labels else "no"
    if method.name in ("local", "centralized"):
        return Facts(labels, "–")
    carried = method.precision == "int8" and method.error_feedback and spec.feedback
    return Facts(labels, f"{method.precision}{', feedback' if carried else ''}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def mean_text(curves: Mapping[int, Curve], name: str, scale: float = 1.0, digits: int = 1) -> str:
    """Mean and 95 % half-width of a figure over seeds, as text."""
    return Interval.of([c.figures[name] for c in curves.values()]).text(scale, digits)
