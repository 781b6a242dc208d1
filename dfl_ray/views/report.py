"""`write_report`: one HTML file that holds everything, plotly.js too, and asks nothing of the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from dfl_ray.errors import InputError
from dfl_ray.records import Run, load_run
from dfl_ray.records.info import now, write_text_atomically
from dfl_ray.records.results import share, size, summary, task_lines
from dfl_ray.views.accuracy import accuracy_by_task, accuracy_heatmap, accuracy_of_runs, method_of
from dfl_ray.views.costs import cost_bars, loss_and_delivery, wall_split
from dfl_ray.views.maps import device_map
from dfl_ray.views.radio import rate_distribution, schedule, sinr_distribution

Builder = Callable[[], go.Figure]

STYLE = """
body{font:16px/1.5 Helvetica,Arial,sans-serif;color:#222;max-width:1080px;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.3rem;margin-top:2.4rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .8rem;border-bottom:1px solid #e4e4e4;text-align:right} th{border-bottom:2px solid #444}
th:first-child,td:first-child{text-align:left} td{white-space:nowrap}
tr.mean td{font-weight:bold;border-top:2px solid #444}
.wide{overflow-x:auto} .faint{color:#555}
.warn{background:#fff4dc;border-left:5px solid #e69f00;padding:.6rem 1rem}
.figure{margin:1.6rem 0;break-inside:avoid} code{background:#f3f3f3;padding:.1rem .3rem}
details pre{background:#f7f7f7;padding:1rem;overflow-x:auto;font-size:.85rem}
@media print{body{max-width:none;margin:0} details{display:none}}
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
        InputError: No run, or a folder that is not a readable run.
    """
    if not runs:
        raise InputError(
            "A report needs at least one run", change="Give a run folder, for example `runs/<name>`."
        )
    loaded = [load_run(path) for path in runs]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, "\n".join(_page(loaded)))
    return out


def _page(runs: Sequence[Run]) -> Iterator[str]:
    from plotly.offline import get_plotlyjs

    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)} – dfl-ray</title><style>{STYLE}</style>"
    yield f"<script>{get_plotlyjs()}</script></head><body>"
    yield f"<h1>{escape(title)}</h1>"
    yield from _single(runs[0]) if len(runs) == 1 else _compared(runs)
    yield f'<p class="faint">Written by dfl-ray on {now()}.</p></body></html>'


def _single(run: Run) -> Iterator[str]:
    figures = summary(run)
    yield from _head(run)
    yield "<h2>Cost on air</h2>" + cost_table([run])
    yield "<h2>Accuracy per task</h2>" + accuracy_table(run)
    if len(figures["rules"]) > 1:
        yield _rules_table(figures["rules"])
    yield "<h2>Learning</h2>"
    overs = ("round", "bytes", "airtime", "simulated")
    yield from _figures([lambda over=over: accuracy_by_task(run, over) for over in overs])
    yield from _figures([lambda: accuracy_heatmap(run), lambda: loss_and_delivery(run)])
    yield "<h2>Network and radio</h2>"
    yield from _figures([lambda: device_map(run), lambda: schedule(run)])
    yield from _figures([lambda: sinr_distribution([run]), lambda: rate_distribution([run])])
    yield "<h2>Real time</h2>"
    yield from _figures([lambda: wall_split(run)])
    yield "<h2>Configuration</h2>" + _configuration(run)


def _compared(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        yield from _unfinished(run)
    yield "<h2>Accuracy and cost on air</h2>" + cost_table(runs)
    yield "<h2>Accuracy per task</h2>" + compared_accuracy_table(runs)
    yield "<h2>Learning</h2>"
    overs = ("round", "bytes", "airtime", "simulated")
    yield from _figures([lambda over=over: accuracy_of_runs(runs, over) for over in overs])
    yield "<h2>Cost and radio</h2>"
    yield from _figures(
        [lambda: cost_bars(runs), lambda: sinr_distribution(runs), lambda: rate_distribution(runs)]
    )
    for run in runs:
        yield f"<h2>{escape(run.name)}</h2>"
        yield from _head(run)
        yield from _figures([lambda run=run: accuracy_by_task(run), lambda run=run: device_map(run)])
        yield _configuration(run)


def _figures(builders: Sequence[Builder]) -> Iterator[str]:
    """Each figure as a fragment; one that fails says so and takes none of the others with it."""
    for build in builders:
        try:
            fragment = build().to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
        except Exception as error:  # a report that lacks a picture is worth more than none
            fragment = f'<p class="warn">This picture could not be drawn: {escape(repr(error))}</p>'
        yield f'<div class="figure">{fragment}</div>'


def _head(run: Run) -> Iterator[str]:
    """What was run, where and when."""
    config, info = run.config, run.info
    devices = config.get("devices", {}).get("count", "?")
    facts = [
        f"method <b>{escape(method_of(run))}</b>",
        f"{devices} devices",
        f"{run.last_round} of {config.get('rounds', '?')} rounds",
        f"seed {config.get('seed', '?')}",
        f"started {escape(str(info.get('started_at')))}",
    ]
    yield f"<p>{', '.join(facts)}.</p>"
    yield from _unfinished(run)
    host, versions = info.get("host") or {}, info.get("versions") or {}
    commit = (info.get("git") or {}).get("commit")
    memory = f"{size(host['memory_bytes'])} memory" if "memory_bytes" in host else ""
    told = [
        f"{name} {versions[name]}" for name in ("dfl-ray", "ray", "torch", "python") if versions.get(name)
    ]
    told += [f"commit {commit[:12]}"] if commit else []
    told += [str(host.get("system", "")), f"{host.get('cpus', '?')} CPUs", memory]
    yield f'<p class="faint">{escape("; ".join(part for part in told if part))}</p>'
    if info.get("command"):
        yield f"<p><code>{escape(' '.join(map(str, info['command'])))}</code></p>"


def _unfinished(run: Run) -> Iterator[str]:
    state = run.info.get("state")
    if state != "done":
        done = f"{run.last_round} of {run.config.get('rounds', '?')} rounds are recorded"
        yield f'<p class="warn">Run {escape(run.name)} is in state <b>{escape(str(state))}</b>: {done}.</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, mean_last: bool = False) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    if mean_last and lines:
        lines[-1] = lines[-1].replace("<tr>", '<tr class="mean">', 1)
    return f'<div class="wide"><table><tr>{cells}</tr>{"".join(lines)}</table></div>'


def cost_table(runs: Sequence[Run]) -> str:
    """Write accuracy and cost as an HTML table, one line a run.

    Args:
        runs: The runs.

    Returns:
        HTML; the columns name their units.
    """
    head = ["run", "method", "mean accuracy", "worst task", "bytes", "airtime (s)", "energy (J)"]
    head += ["simulated (s)", "delivered", "lost", "refused", "wall (s)"]
    rows: list[list[str]] = []
    for run in runs:
        f: dict[str, Any] = summary(run)
        rows.append([f["name"], method_of(run), share(f["accuracy_mean"]), share(f["accuracy_worst_task"])])
        rows[-1] += [f"{f['payload_bytes']:,}", f"{f['airtime_s']:.2f}", f"{f['energy_j']:.2f}"]
        rows[-1] += [f"{f['simulated_s']:.1f}", share(f["delivered_fraction"])]
        rows[-1] += [f"{f['lost']:,}", f"{f['refused']:,}", f"{f['wall_s']:.1f}"]
    return _table(head, rows)


def accuracy_table(run: Run) -> str:
    """Write one run's accuracy per task as an HTML table: all devices, holders, before tuning, chance, score.

    Args:
        run: The run, complete or not.

    Returns:
        HTML, the tasks' unweighted mean in the last line; a sentence where nothing has been evaluated.
    """
    from dfl_ray.records.results import SCORE_WORDS, mean_of

    lines = task_lines(run)
    if not lines:
        return '<p class="faint">Nothing has been evaluated yet.</p>'
    columns = [[x.accuracy for x in lines], [x.holders_accuracy for x in lines]]
    columns += [[x.before for x in lines], [x.chance for x in lines]]
    rows = [[x.task, *(share(c[i]) for c in columns), SCORE_WORDS[x.score]] for i, x in enumerate(lines)]
    rows.append(["mean", *(share(mean_of(column)) for column in columns), ""])
    return _table(
        ["task", "all devices", "its holders", "before tuning", "chance", "score"], rows, mean_last=True
    )


def compared_accuracy_table(runs: Sequence[Run]) -> str:
    """Write the accuracy per task as an HTML table, one column a run.

    Args:
        runs: The runs.

    Returns:
        HTML, the mean of each run in the last line.
    """
    found = [summary(run) for run in runs]
    tasks = list(dict.fromkeys(task for f in found for task in f["accuracy_by_task"]))
    rows = [[task, *(share(f["accuracy_by_task"].get(task)) for f in found)] for task in tasks]
    rows.append(["mean", *(share(f["accuracy_mean"]) for f in found)])
    return _table(["task", *(f["name"] for f in found)], rows, mean_last=True)


def _rules_table(rules: dict[str, float]) -> str:
    rows = [[rule, share(mean)] for rule, mean in sorted(rules.items(), key=lambda item: -item[1])]
    return "<h3>Inference rules at the last evaluation</h3>" + _table(["rule", "mean accuracy"], rows)


def _configuration(run: Run) -> str:
    text = escape(json.dumps(run.config, indent=1, default=str))
    return (
        f"<details><summary>resolved configuration of {escape(run.name)}</summary><pre>{text}</pre></details>"
    )
