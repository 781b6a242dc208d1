"""The closing table of a run: accuracy per task, cost on air, where the report is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.records import Run
from dfl_ray.records.faults import asked_devices, fault_lines
from dfl_ray.records.results import SCORE_WORDS, evaluated_words, mean_of, summary, task_lines
from dfl_ray.records.words import share, size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult
    from rich.text import Text


def closing_table(run: Run, report: Path | None = None) -> Group:
    """Make what is printed at the end of a run: accuracy per task, cost on air, where the report is.

    Args:
        run: The run, complete or not.
        report: Path of its report, when one was written.

    Returns:
        Tables for a rich console.
    """
    from rich.console import Group
    from rich.text import Text

    figures = summary(run)
    parts: list[Any] = [Fitting(_accuracy_table(run, figures)), Fitting(_cost_table(figures))]
    if len(figures["rules"]) > 1:
        parts.append(Fitting(_rule_table(figures["rules"])))
    parts += [Text(line) for line in fault_lines(run)]
    if report is not None:
        parts.append(Text(f"Report: {report}", no_wrap=True, overflow="ignore"))
    return Group(*parts)


class Fitting:
    """A table where its longest words fit, elsewhere its cells below each other: a narrow terminal hides nothing.

    Args:
        table: A `rich.table.Table` of text cells with a header.
    """

    def __init__(self, table: Any) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, its wider columns broken between words if need be, or its cells as lines."""
        from rich.measure import Measurement

        table = self.table
        wide = options.update(max_width=10_000)
        least, widths = [], []
        for column in table.columns:
            head = Measurement.get(console, wide, column.header)
            cells = [Measurement.get(console, wide, cell) for cell in column.cells]
            # A figure stays on the line of its unit; figures are set to the right.
            figures = column.justify == "right"
            least.append(max(head.minimum, *(cell.maximum if figures else cell.minimum for cell in cells)))
            widths.append(max(head.maximum, *(cell.maximum for cell in cells)))
        # One line left of each column and one at the end; a blank on either side of its cells.
        room = options.max_width - 3 * len(widths) - 1
        if sum(least) > room:
            yield from self._lines()
            return
        # rich itself would cut words in the widest columns before it breaks lines in others.
        while sum(widths) > room:
            widest = max(range(len(widths)), key=lambda n: (widths[n] > least[n], widths[n]))
            widths[widest] -= 1
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        yield table

    def _lines(self) -> Iterator[Text]:
        from rich.text import Text

        columns = [list(column.cells) for column in self.table.columns]
        heads = [str(column.header) for column in self.table.columns]
        yield Text(str(self.table.title), style="italic", overflow="fold")
        for number, row in enumerate(zip(*columns, strict=True)):
            if number:
                yield Text()
            for head, cell in zip(heads, row, strict=True):
                yield Text(f"{head}: {cell}", overflow="fold")


def _accuracy_table(run: Run, figures: dict[str, Any]) -> Any:
    from rich.table import Table

    rule = f" by `{figures['rule']}`" if figures["rule"] else ""
    title = f"Accuracy{evaluated_words(run)}, {figures['method'] or run.name}{rule}"
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    for name in (asked_devices(run), "its holders", "before tuning", "chance"):
        table.add_column(name, justify="right")
    table.add_column("score")
    lines = task_lines(run)
    for line in lines:
        values = (line.accuracy, line.holders_accuracy, line.before, line.chance)
        table.add_row(line.task, *(share(value) for value in values), SCORE_WORDS[line.score])
    table.add_section()
    columns = zip(*((x.accuracy, x.holders_accuracy, x.before, x.chance) for x in lines), strict=True)
    means = [share(mean_of(column)) for column in columns] or ["–"] * 4
    table.add_row("mean", *means, "", style="bold")
    return table


def _rule_table(means: dict[str, float]) -> Any:
    from rich.table import Table

    table = Table(title="Mean accuracy by inference rule, all tasks", title_justify="left")
    for rule in means:
        table.add_column(rule, justify="right")
    table.add_row(*(share(mean) for mean in means.values()))
    return table


def _cost_table(figures: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"Cost on air, {figures['rounds']} rounds", title_justify="left")
    charged = "control_bytes" in figures
    names = (
        "bytes",
        "airtime",
        "energy",
        "simulated",
        "delivered",
        "wall",
        *(["control"] if charged else []),
    )
    for name in names:
        table.add_column(name, justify="right")
    table.add_row(
        size(figures["payload_bytes"]),
        f"{figures['airtime_s']:.2f} s",
        f"{figures['energy_j']:.2f} J",
        f"{figures['simulated_s']:.1f} s",
        share(figures["delivered_fraction"]),
        f"{figures['wall_s']:.1f} s",
        *([f"{size(figures['control_bytes'])}, {figures['control_airtime_s']:.2f} s,"
           f" {figures['control_energy_j']:.2f} J"] if charged else []),
    )  # fmt: skip
    return table
