"""`write_report`: one HTML file that holds everything, plotly.js too, and asks nothing of the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from dfl_ray.config.yamlio import dump
from dfl_ray.errors import InputError
from dfl_ray.records import Run, load_run
from dfl_ray.records.arguments import is_list
from dfl_ray.records.faults import fault_lines, privacy_lines
from dfl_ray.records.info import now, write_text_atomically
from dfl_ray.records.words import size
from dfl_ray.views.accuracy import method_of
from dfl_ray.views.catalog import draw, sections
from dfl_ray.views.checked import check_each_once
from dfl_ray.views.groups import IGNORED, find_groups
from dfl_ray.views.page import asset, figure_place, figure_script, plotly_script
from dfl_ray.views.scaling import worth_scaling
from dfl_ray.views.tables import (
    compared_accuracy_table,
    comparison_warnings,
    cost_table,
    difference_table,
    group_table,
    paired_table,
    result_tables,
    target_table,
    unfinished_warnings,
)

MOST_SINGLE = 3
"""Runs of a comparison up to which each has its own map and curves; all others have reports of their own."""

DRAW_ALL = """
for (const holder of document.querySelectorAll(".figure")) {
  const data = holder.querySelector('script[type="application/json"]');
  if (data) show(holder, JSON.parse(data.textContent));
}
"""


def write_report(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report of one run, or of several compared.

    Works for runs that are still going; what cannot be drawn whole is thinned out and says so.

    Args:
        runs: Run folders, at least one.
        out: HTML file to write, replaced whole.

    Returns:
        The path written.

    Raises:
        InputError: No run, one named twice, or a folder that is not a readable run.
    """
    if not runs:
        raise InputError(
            "A report needs at least one run", change="Give a run folder, for example `runs/<name>`."
        )
    if not is_list(runs):
        raise InputError(
            "`runs` of `write_report` is no list", got=f"{runs!r}"[:80], expected="a list of run folders"
        )
    loaded = [load_run(path) for path in runs]
    check_each_once(loaded)
    if not isinstance(out, str | Path) or Path(out).is_dir():
        raise InputError("A report is one file", got=f"{out!r}"[:80], expected="the path of an HTML file")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, "\n".join(_page(loaded)))
    return out


def _page(runs: Sequence[Run]) -> Iterator[str]:
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)} – dfl-ray</title><style>{asset('page.css')}</style>"
    yield f"<script>{plotly_script()}</script></head><body>"
    yield '<button class="look" onclick="setDark(!dark)">dark / light</button>'
    yield f"<h1>{escape(title)}</h1>"
    yield from _single(runs[0]) if len(runs) == 1 else _compared(runs)
    yield f'<p class="faint">Written by dfl-ray on {now()}.</p>'
    yield f"<script>{figure_script()}{DRAW_ALL}</script></body></html>"


def _single(run: Run) -> Iterator[str]:
    yield from _head(run)
    yield "<h2>Results</h2>" + result_tables(run)
    yield from _figures([run], sections())
    yield "<h2>Configuration</h2>" + _configuration(run)


def _compared(runs: Sequence[Run]) -> Iterator[str]:
    groups = find_groups(runs)
    yield "<h2>Accuracy and cost</h2>" + comparison_warnings(groups)
    if any(len(group.runs) > 1 for group in groups):
        yield '<p class="faint">Mean ± half-width of its 95 % interval over seeds, by Student\'s t.</p>'
    yield group_table(groups)
    if len(groups) > 1:
        yield "<h3>Differences, paired by seed</h3>" + paired_table(groups)
    targets = target_table(groups)
    if targets:
        yield "<h3>Cost to reach an accuracy</h3>" + targets
    yield "<h3>Accuracy per task</h3>" + compared_accuracy_table(groups)
    yield "<h3>What differs between the configurations</h3>" + difference_table(groups)
    yield from _figures(runs, sections(several=True))
    if worth_scaling(runs):
        yield "<h2>Scaling</h2>" + _figure("scaling", runs)
    yield "<h2>Single runs</h2>" + cost_table(runs)
    for run in runs:
        yield f"<h2>{escape(run.name)}</h2>"
        yield from _head(run)
        if len(runs) <= MOST_SINGLE:
            yield _figure("accuracy_over_rounds", [run])
            yield _figure("device_map", [run])
    yield "<h2>Configurations</h2>"
    for group in groups:
        yield _configuration(*group.members)


def _figures(runs: Sequence[Run], shown: Mapping[str, Iterable[str]]) -> Iterator[str]:
    for section, names in shown.items():
        yield f"<h2>{section}</h2>"
        for name in names:
            yield _figure(name, runs)


def _figure(name: str, runs: Sequence[Run]) -> str:
    """A figure's place; one that fails says so and takes none of the others with it."""
    try:
        return figure_place(name, draw(name, runs))
    except Exception as error:  # a report that lacks a picture is worth more than none
        return f'<p class="warn">The picture {escape(name)} could not be drawn: {escape(repr(error))}</p>'


def _head(run: Run) -> Iterator[str]:
    """What was run, where and when."""
    config, info = run.config, run.info
    devices = config.get("devices", {}).get("count", "?")
    facts = [
        f"{devices} devices",
        f"{run.last_round} of {config.get('rounds', '?')} rounds",
        f"seed {config.get('seed', '?')}",
        f"started {info.get('started_at')}",
    ]
    yield f"<p>method <b>{escape(method_of(run))}</b>, {escape(', '.join(facts))}.</p>"
    yield unfinished_warnings(run)
    for line in (*fault_lines(run), *privacy_lines(run), *run.info.get("warnings", ())):
        yield f"<p>{escape(line)}</p>"
    host, versions = info.get("host") or {}, info.get("versions") or {}
    commit = (info.get("git") or {}).get("commit")
    memory = f"{size(host['memory_bytes'])} memory" if "memory_bytes" in host else ""
    told = [
        f"{name} {versions[name]}" for name in ("dfl-ray", "ray", "torch", "python") if versions.get(name)
    ]
    told += [f"commit {str(commit)[:12]}"] if commit else []
    told += [str(host.get("system", "")), f"{host.get('cpus', '?')} CPUs", memory]
    yield f'<p class="faint">{escape("; ".join(part for part in told if part))}</p>'
    if info.get("command"):
        yield f"<p><code>{escape(' '.join(map(str, info['command'])))}</code></p>"


def _configuration(run: Run, *like_it: Run) -> str:
    """The configuration of a run; those that are like it but for the seed and where they ran are named."""
    text = escape(dump(run.config))
    others = ", ".join(escape(other.name) for other in like_it)
    same = f"; {others} differ from it in {', '.join(IGNORED)} alone" if others else ""
    return (
        f"<details><summary>resolved configuration of {escape(run.name)}{same}</summary>"
        f"<pre>{text}</pre></details>"
    )
