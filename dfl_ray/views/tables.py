"""The tables of the report, as HTML: accuracy and cost of runs, and of groups of runs compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from dfl_ray.records import Run
from dfl_ray.records.ending import end_words
from dfl_ray.records.faults import asked_devices
from dfl_ray.records.results import SCORE_WORDS, evaluated_words, mean_of, rule_means, summary, task_lines
from dfl_ray.records.words import digits, share, size
from dfl_ray.views.accuracy import method_of
from dfl_ray.views.groups import (
    Group,
    cost_to_target,
    differing_keys,
    flat_config,
    left_out_lines,
    paired,
    spread_text,
    targets_worth_telling,
)
from dfl_ray.views.page import table, turned_table
from dfl_ray.views.style import scaled


def quantity(value: float, unit: str) -> str:
    """Write a number in the unit that suits it, with three significant digits: `1.81 MB`, `84 J`, `3.2 mJ`."""
    (shown,), name = scaled([value], unit)
    return f"{digits(shown)} {name}"


def points(value: float) -> str:
    """Write a difference of shares in percentage points."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("accuracy_mean", "mean accuracy", share),
    ("accuracy_worst_task", "worst task", share),
    ("payload_bytes", "bytes on air", size),
    ("airtime_s", "airtime", lambda value: quantity(value, "s")),
    ("energy_j", "energy", lambda value: quantity(value, "J")),
    ("simulated_s", "simulated time", lambda value: quantity(value, "s")),
    ("delivered_fraction", "delivered", share),
    ("wall_s", "wall time", lambda value: quantity(value, "s")),
)
"""Key of the summary, name of the column, how a value is written."""

CONTROL: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("control_bytes", "control bytes", size),
    ("control_airtime_s", "control airtime", lambda value: quantity(value, "s")),
    ("control_s", "control time", lambda value: quantity(value, "s")),
    ("control_energy_j", "energy of control", lambda value: quantity(value, "J")),
)
"""The same for what control cost, where a run was charged for it."""


def cost_table(runs: Sequence[Run]) -> str:
    """Write accuracy and cost as an HTML table, one line a run.

    Args:
        runs: The runs.

    Returns:
        HTML; every cell has its unit.
    """
    figures: list[dict[str, Any]] = [summary(run) for run in runs]
    columns = [*COLUMNS, *(one for one in CONTROL if any(one[0] in found for found in figures))]
    head = ["run", "method", "seed", *(name for _, name, _ in columns), "lost", "refused"]
    rows: list[list[str]] = []
    for run, found in zip(runs, figures, strict=True):
        cells = ["–" if found.get(key) is None else write(found[key]) for key, _, write in columns]
        seed = str(found["seed"])
        rows.append([run.name, method_of(run), seed, *cells, f"{found['lost']:,}", f"{found['refused']:,}"])
    return turned_table(head, rows)


def result_tables(run: Run) -> str:
    """Write the results of one run: its cost beside its accuracy per task, and the inference rules compared.

    Args:
        run: The run, complete or not.

    Returns:
        HTML.
    """
    rules = rule_means(run)
    right = (
        f"<h3>Accuracy per task{evaluated_words(run)}</h3>"
        + accuracy_table(run)
        + (rules_table(rules) if len(rules) > 1 else "")
    )
    return f'<div class="side"><div><h3>Cost</h3>{cost_table([run])}</div><div>{right}</div></div>'


def unfinished_warnings(run: Run) -> str:
    """Write what keeps a run from being whole: its state, and why it failed or ended early.

    Args:
        run: The run.

    Returns:
        HTML; empty for a run that reached its last round.
    """
    state, why, told = run.info.get("state"), end_words(run.info), ""
    if state != "done":
        done = f"{run.last_round} of {run.config.get('rounds', '?')} rounds are recorded"
        told = f'<p class="warn">Run {escape(run.name)} is in state <b>{escape(str(state))}</b>: {escape(done)}.</p>'
    return told + (f'<p class="warn">Run {escape(run.name)}: {escape(why)}.</p>' if why else "")


def comparison_warnings(groups: Sequence[Group]) -> str:
    """Write which runs of a comparison are not whole, and which count in no mean.

    Args:
        groups: The groups.

    Returns:
        HTML; empty where all runs are whole and count.
    """
    lines = [f'<p class="warn">{escape(line)}</p>' for line in left_out_lines(groups)]
    return "".join([*(unfinished_warnings(run) for group in groups for run in group.members), *lines])


def group_table(groups: Sequence[Group]) -> str:
    """Write accuracy and cost of each group: mean and 95 % interval over its runs.

    Args:
        groups: The groups.

    Returns:
        HTML.
    """
    rows = [
        [g.label, str(len(g.runs)), *(spread_text(g.values(key), write) for key, _, write in COLUMNS)]
        for g in groups
    ]
    return turned_table(["method", "runs", *(name for _, name, _ in COLUMNS)], rows)


def paired_table(groups: Sequence[Group]) -> str:
    """Write the differences between groups, paired by seed, with their 95 % intervals.

    Args:
        groups: The groups; each is compared with the first.

    Returns:
        HTML; a sentence where no two groups share a seed.
    """
    first = groups[0]
    signed = {
        "share": lambda value: f"{points(value)} points",
        "size": lambda value: ("\u2212" if value < 0 else "+") + size(abs(value)),
        "s": lambda value: ("\u2212" if value < 0 else "+") + quantity(abs(value), "s"),
        "J": lambda value: ("\u2212" if value < 0 else "+") + quantity(abs(value), "J"),
    }
    kinds = {"accuracy_mean": "share", "accuracy_worst_task": "share", "payload_bytes": "size", "airtime_s": "s",
             "energy_j": "J", "simulated_s": "s", "delivered_fraction": "share", "wall_s": "s"}  # fmt: skip
    rows: list[list[str]] = []
    for other in groups[1:]:
        pairs = len(paired(first, other, "payload_bytes"))
        if not pairs:
            continue
        cells = [_signed_spread(paired(first, other, key), signed[kinds[key]]) for key, _, _ in COLUMNS]
        rows.append([f"{first.label} − {other.label}", str(pairs), *cells])
    if not rows:
        return '<p class="faint">No two methods have runs of one seed that are done, so nothing can be paired.</p>'
    return turned_table(["difference", "seeds", *(name for _, name, _ in COLUMNS)], rows)


def _signed_spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    text = spread_text(values, write)
    # The half-width has no sign.
    return text.replace("± +", "± ")


def target_table(groups: Sequence[Group]) -> str:
    """Write what each group had spent when its mean accuracy first reached a target.

    Args:
        groups: The groups.

    Returns:
        HTML; empty where no target is of use.
    """
    rows: list[list[str]] = []
    for target in targets_worth_telling(groups):
        for group in groups:
            found = [cost for run in group.runs if (cost := cost_to_target(run, target)) is not None]
            cells = [
                spread_text([cost["round"] for cost in found], lambda value: f"{value:.1f}"),
                spread_text([cost["bytes"] for cost in found], size),
                spread_text([cost["airtime"] for cost in found], lambda value: quantity(value, "s")),
                spread_text([cost["energy"] for cost in found], lambda value: quantity(value, "J")),
                spread_text([cost["simulated"] for cost in found], lambda value: quantity(value, "s")),
            ]
            rows.append([f"{target:.0%}", group.label, f"{len(found)} of {len(group.runs)}", *cells])
    head = [
        "mean accuracy",
        "method",
        "runs that reach it",
        "round",
        "bytes",
        "airtime",
        "energy",
        "simulated time",
    ]
    return table(head, rows) if rows else ""


def difference_table(groups: Sequence[Group]) -> str:
    """Write what differs between the configurations of groups.

    Args:
        groups: The groups.

    Returns:
        HTML; a sentence where nothing does.
    """
    firsts = [group.members[0] for group in groups]
    keys = differing_keys(firsts)
    if not keys:
        return '<p class="faint">The configurations differ in nothing but the seed.</p>'
    configs = [flat_config(run) for run in firsts]
    rows = [[key, *(config.get(key, "–") for config in configs)] for key in keys]
    return table(["key", *(group.label for group in groups)], rows, words=True)


def accuracy_table(run: Run) -> str:
    """Write one run's accuracy per task as an HTML table: all devices, holders, before tuning, chance, score.

    Args:
        run: The run, complete or not.

    Returns:
        HTML, the tasks' unweighted mean in the last line; a sentence where nothing has been evaluated.
    """
    lines = task_lines(run)
    if not lines:
        return '<p class="faint">Nothing has been evaluated yet.</p>'
    columns = [[x.accuracy for x in lines], [x.holders_accuracy for x in lines]]
    columns += [[x.before for x in lines], [x.chance for x in lines]]
    rows = [[x.task, *(share(c[i]) for c in columns), SCORE_WORDS[x.score]] for i, x in enumerate(lines)]
    rows.append(["mean", *(share(mean_of(column)) for column in columns), ""])
    head = ["task", asked_devices(run), "its holders", "before tuning", "chance", "score"]
    return table(head, rows, mean_last=True)


def compared_accuracy_table(groups: Sequence[Group]) -> str:
    """Write the accuracy per task as an HTML table, one column a group.

    Args:
        groups: The groups.

    Returns:
        HTML, mean and interval over a group's runs; the mean over tasks in the last line.
    """
    tasks = dict.fromkeys(t for g in groups for found in g.summaries for t in found["accuracy_by_task"])
    rows = [
        [
            task,
            *(
                spread_text(
                    [f["accuracy_by_task"][task] for f in g.summaries if task in f["accuracy_by_task"]], share
                )
                for g in groups
            ),
        ]
        for task in tasks
    ]
    rows.append(["mean", *(spread_text(g.values("accuracy_mean"), share) for g in groups)])
    return table(["task", *(group.label for group in groups)], rows, mean_last=True)


def rules_table(rules: dict[str, float]) -> str:
    """Write the mean accuracy of every inference rule, best first.

    Args:
        rules: Rule -> mean accuracy.

    Returns:
        HTML.
    """
    rows = [[rule, share(mean)] for rule, mean in sorted(rules.items(), key=lambda item: -item[1])]
    return "<h3>Inference rules at the last evaluation</h3>" + table(["rule", "mean accuracy"], rows)
