"""What the league's runs say: where `sparse_orthogonal` loses, accuracy at equal spending, Pareto fronts, tables.

Equal spending: accuracy by the time that a method has spent what `sparse_orthogonal`, or `dlora`, spends in its whole
run, linear between evaluations. A method that spends less keeps its last accuracy, marked with *.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.claim import markdown
from benchmarks.comparison import Curve, Curves, Interval, over_seeds, paired

OURS, REFERENCE = "sparse_orthogonal", "dlora"
APART = ("local", "centralized")
"""References: in the tables, not on the fronts."""
AXES = {
    "payload_bytes": ("MB", 1e-6),
    "airtime_s": ("airtime s", 1.0),
    "energy_j": ("J", 1.0),
    "simulated_s": ("simulated s", 1.0),
}


def spending(curves: Curves, axis: str, of: str) -> Callable[[Curve], float]:
    """Accuracy at what `of` spends on an axis in its whole run of the same seed."""
    return lambda curve: curve.at(axis, curves[of][curve.seed].total(axis))


def ways(curves: Curves) -> dict[str, Callable[[Curve], float]]:
    """What is compared: column -> accuracy of a run at that spending."""
    last = int(curves[REFERENCE][min(curves[REFERENCE])].total("round"))
    found: dict[str, Callable[[Curve], float]] = {f"{last} rounds": lambda c: c.at("round", last)}
    for axis, (name, _) in AXES.items():
        for of in (OURS, REFERENCE):
            found[f"{name} of {of}"] = spending(curves, axis, of)
    return found


def losses(curves: Curves) -> list[tuple[str, str, Interval]]:
    """Where ours is behind: (column, method, ours minus it), whole intervals below 0 first, then the largest."""
    found = [
        (column, method, gap)
        for column, at in ways(curves).items()
        for method, gap in paired(curves, OURS, at).items()
        if gap.mean < 0 and method not in APART
    ]
    return sorted(found, key=lambda item: (not _sure(item[2]), item[2].mean))


def _sure(gap: Interval) -> bool:
    return gap.mean + gap.half_width < 0


def front(curves: Curves, axis: str) -> list[str]:
    """Methods that no other beats in both mean cost and mean final accuracy, the cheapest first."""
    points = {
        m: (cost.mean, accuracy.mean)
        for (m, cost), accuracy in zip(
            over_seeds(curves, lambda c: c.total(axis)).items(),
            over_seeds(curves, lambda c: c.figures["accuracy"]).values(),
            strict=True,
        )
        if m not in APART
    }
    best: list[str] = []
    for method in sorted(points, key=lambda m: (points[m][0], -points[m][1])):
        if not best or points[method][1] > points[best[-1]][1]:
            best.append(method)
    return best


def tuning_table(tunings: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy % on validation rows at every rate that was tried, the best in bold."""
    rates = sorted({float(r) for found in tunings.values() for r in found["trials"]})
    rows: list[list[str]] = []
    for method, found in tunings.items():
        best = max(found["trials"].values())
        said = (found["trials"].get(f"{r:g}") for r in rates)
        texts = ("" if a is None else f"{100 * a:.1f}" for a in said)
        rows.append([method, *(f"**{x}**" if x == f"{100 * best:.1f}" else x for x in texts)])
    return markdown(("method", *(f"{r:g}" for r in rates)), rows)


def losses_table(curves: Curves) -> str:
    """Where ours loses, one row a method, in the order of its worst column."""
    rows: dict[str, list[str]] = {}
    for column, method, gap in losses(curves):
        sure = "**" if _sure(gap) else ""
        rows.setdefault(method, []).append(f"{sure}{column}: {gap.text(100)}{sure}")
    if not rows:
        return "Nowhere by the mean."
    head = ("behind", f"{OURS} - it, points; bold: the whole interval is below 0")
    return markdown(head, [[method, "; ".join(cells)] for method, cells in rows.items()])


def own_table(curves: Curves, chosen: Mapping[str, str]) -> str:
    """Each method's own run: its rate, accuracies and costs, the most accurate first."""
    head = ("method", "rate", "accuracy %", "own tasks %", *(name for name, _ in AXES.values()))
    rows: list[list[str]] = []
    for method in sorted(curves, key=lambda m: -_final(curves, m).mean):
        runs = {method: curves[method]}
        figures = [
            over_seeds(runs, lambda c, f=f: c.figures[f])[method].text(100) for f in ("accuracy", "own_tasks")
        ]
        costs = [
            over_seeds(runs, lambda c, a=axis: c.total(a))[method].text(scale, 2 if scale < 1 else 1)
            for axis, (_, scale) in AXES.items()
        ]
        rows.append([method, chosen[method].split("=")[-1], *figures, *costs])
    return markdown(head, rows)


def _final(curves: Curves, method: str) -> Interval:
    return Interval.of([c.figures["accuracy"] for c in curves[method].values()])


def equal_table(curves: Curves) -> str:
    """Accuracy % at equal spending, the most accurate at equal rounds first."""
    columns = ways(curves)
    found = {column: over_seeds(curves, at) for column, at in columns.items()}
    first = next(iter(columns))
    spent_before = {
        (f"{name} of {of}", m)
        for axis, (name, _) in AXES.items()
        for of in (OURS, REFERENCE)
        for m, runs in curves.items()
        if any(c.total(axis) < curves[of][s].total(axis) for s, c in runs.items())
    }
    rows = [
        [m, *(found[c][m].text(100) + ("*" if (c, m) in spent_before else "") for c in columns)]
        for m in sorted(curves, key=lambda m: -found[first][m].mean)
    ]
    return markdown(("method", *columns), rows)


def report(
    curves: Curves, chosen: Mapping[str, str], tunings: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """All tables and the fronts."""
    fronts = [f"- {name}: {', '.join(front(curves, axis))}" for axis, (name, _) in AXES.items()]
    parts = (
        f"Where {OURS} loses", losses_table(curves), "Each method's own run", own_table(curves, chosen),
        "Accuracy % at equal spending", equal_table(curves), "Pareto fronts, the cheapest first", "\n".join(fronts),
        *(("Accuracy % on validation rows by learning rate", tuning_table(tunings)) if tunings else ()),
    )  # fmt: skip
    return "\n\n".join(parts)


def draw(path: Path, curves: Curves) -> None:
    """Final accuracy over bytes and simulated seconds, every method a point, the Pareto front a line."""
    from benchmarks.scatter_chart import Panel, save_scatter

    shown = {m: runs for m, runs in curves.items() if m not in APART}
    accuracy = over_seeds(shown, lambda c: 100 * c.figures["accuracy"])
    panels: list[Panel] = []
    for axis in ("payload_bytes", "simulated_s"):
        name, scale = AXES[axis]
        costs = over_seeds(shown, lambda c, a=axis, s=scale: s * c.total(a))
        points = {m: (costs[m].mean, accuracy[m].mean) for m in shown}
        panels.append(Panel(f"{name} of a whole run", points, front(curves, axis), OURS))
    save_scatter(path, "accuracy, all devices and tasks, %", panels)


def summary(
    curves: Curves, tunings: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str]
) -> dict[str, Any]:
    """All figures, JSON-able but for intervals."""
    columns = ways(curves)
    return {
        "tuning": tunings,
        "losses": [{"at": c, "method": m, "ours_minus_it": gap} for c, m, gap in losses(curves)],
        "equal": {column: over_seeds(curves, at) for column, at in columns.items()},
        "paired": {column: paired(curves, OURS, at) for column, at in columns.items()},
        "own": {
            m: {
                "label": chosen[m],
                "accuracy": _final(curves, m),
                **{a: over_seeds({m: runs}, lambda c, a=a: c.total(a))[m] for a in AXES},
            }
            for m, runs in curves.items()
        },
        "fronts": {axis: front(curves, axis) for axis in AXES},
    }
