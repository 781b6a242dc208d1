"""The pages as HTML. Whatever a run folder says is escaped; addresses are relative, so that any tunnel will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import isnan
from urllib.parse import quote, urlencode

from dfl_ray.config.yamlio import dump
from dfl_ray.dashboard.library import Library
from dfl_ray.records import Run
from dfl_ray.records.states import RunState
from dfl_ray.records.words import share
from dfl_ray.tracking.state_words import heartbeat_words, left_words
from dfl_ray.views.accuracy import method_of
from dfl_ray.views.catalog import DEVICE_FIGURES, device_count, sections
from dfl_ray.views.groups import find_groups
from dfl_ray.views.maps import link_sinr_db
from dfl_ray.views.page import table
from dfl_ray.views.scaling import worth_scaling
from dfl_ray.views.tables import (
    comparison_warnings,
    cost_table,
    difference_table,
    group_table,
    paired_table,
    result_tables,
    target_table,
)

FIRST = 2
"""Figures of a page that are in view when it opens."""
RESULTS, COMPARED = "results", "compared"
"""Names under which the library keeps the tables of a run, and of several."""


def page(title: str, body: str, facts: Mapping[str, str], *, version: str) -> str:
    """Put a page together.

    Args:
        title: Its title, plain text.
        body: Its HTML.
        facts: What the script needs to know, as `data-` attributes of the body.
        version: Goes into the addresses of scripts and styles, so that a browser may keep them.

    Returns:
        The whole document.
    """
    told = "".join(f' data-{name}="{escape(value)}"' for name, value in facts.items())
    asset = "".join(
        f'<script defer src="asset/{name}?v={version}"></script>'
        for name in ("figures.js", "dashboard.js", "plotly.js")
        if name != "plotly.js" or 'class="figure' in body
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<title>{escape(title)} – dfl-ray</title><link rel="stylesheet" href="asset/page.css?v={version}">{asset}'
        f'</head><body{told}><nav><a href=".">all runs</a><button class="look" id="look">dark / light</button></nav>'
        f'<p class="warn" id="lost" hidden>The dashboard does not answer; this page tries again.</p>'
        f"{body}</body></html>"
    )


def link(place: str, **query: object) -> str:
    """Give a relative address, escaped for an attribute."""
    return escape(f"{place}?{urlencode(query, quote_via=quote)}")


def link_to_runs(place: str, names: Sequence[str]) -> str:
    """Give a relative address with several runs, escaped for an attribute."""
    return escape(f"{place}?{urlencode([('run', name) for name in names], quote_via=quote)}")


def runs_page(library: Library) -> str:
    """The list of runs."""
    return (
        f"<h1>Runs in {escape(library.root.name or str(library.root.absolute().name))}</h1>"
        '<form action="compare"><div id="live">' + runs_table(library) + "</div>"
        '<p><button class="act">compare the chosen runs</button></p></form>'
    )


def runs_table(library: Library) -> str:
    """The list of runs as an HTML table, newest first."""
    # Listed once: a run that writes its `run.json` meanwhile would change the order.
    states = {name: library.state(name) for name in library.ids()}
    if not states:
        return '<p class="faint">There is no run in this folder yet.</p>'
    names = (
        "",
        "run",
        "state",
        "method",
        "devices",
        "progress",
        "accuracy",
        "time left",
        "heartbeat",
        "started",
        "",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join(_run_line(name, state) for name, state in states.items())
    return f'<div class="wide"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _run_line(name: str, state: RunState) -> str:
    box = f'<input type="checkbox" name="run" value="{escape(name)}" aria-label="choose {escape(name)}">'
    shown = escape(state.name)
    if state.state != "unreadable":
        shown = f'<a href="{link("run", run=name)}">{shown}</a>'
    cells = [
        box, shown, _state_word(state), escape(state.method), f"{state.devices:,}", _progress(state),
        share(state.accuracy), left_words(state), heartbeat_words(state),
        escape(state.started_at[:16].replace("T", " ")), escape(state.note),
    ]  # fmt: skip
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _state_word(state: RunState) -> str:
    return f'<span class="state {state.state}">{state.state}</span>'


def _progress(state: RunState) -> str:
    bar = f'<progress max="{max(state.rounds, 1)}" value="{state.round}"></progress>'
    return f"{bar} {state.round:,} / {state.rounds:,}"


def status_line(state: RunState) -> str:
    """What a run is doing now, as one line of HTML."""
    parts = [_state_word(state), _progress(state) + " rounds", f"accuracy {share(state.accuracy)}"]
    if state.left_s is not None:
        parts.append(f"{left_words(state)} left")
    if state.heartbeat_s is not None:
        parts.append(f"heartbeat {heartbeat_words(state)}")
    return " · ".join([*parts, *([escape(state.note)] if state.note else [])])


def run_page(library: Library, name: str) -> str:
    """The page of one run."""
    run, state = library.run(name), library.state(name)
    count = device_count(run)
    facts = f"method <b>{escape(method_of(run))}</b>, {count:,} devices, seed {escape(str(run.config.get('seed')))}"
    parts = [
        f"<h1>{escape(state.name)}</h1><p>{facts}</p>",
        f'<p id="status">{status_line(state)}</p>',
        _device_form(name, count, 0),
        f'<h2>Results</h2><div id="live">{library.kept_text([name], RESULTS) or ""}</div>',
    ]
    for section, figures in sections().items():
        parts.append(f"<h2>{section}</h2>")
        for figure, entry in figures.items():
            if figure == "device_map" and run.last_round:
                parts.append(_round_control(run))
            parts.append(_figure(figure, [name], live=entry.live, at=entry.at is not None))
    log = escape(library.log_tail(name))
    parts.append(f'<h2>Log</h2><pre id="log">{log}</pre>' if log else "")
    parts.append(
        "<h2>Configuration</h2><details><summary>resolved configuration</summary>"
        f"<pre>{escape(dump(run.config))}</pre></details>"
    )
    return "".join(parts)


def first_figures(*, several: bool = False) -> list[str]:
    """Names of the figures that are seen first on the page of a run, or of several."""
    return list(next(iter(sections(several=several).values())))[:FIRST]


def first_device_figures() -> list[str]:
    """Names of the figures that are seen first on the page of a device."""
    return list(DEVICE_FIGURES)[:FIRST]


def results(library: Library, name: str) -> str:
    """Results of a run as HTML tables."""
    return library.text([name], RESULTS, result_tables)


def _device_form(name: str, count: int, device: int) -> str:
    return (
        f'<form action="device" class="choose"><input type="hidden" name="run" value="{escape(name)}">'
        f'<label>device <input type="number" name="device" min="0" max="{max(0, count - 1)}" value="{device}" required>'
        f'</label> <button class="act">show</button> <span class="faint">0 to {max(0, count - 1):,}</span></form>'
    )


def _round_control(run: Run) -> str:
    """Slider and button that play the figures of a round."""
    last = run.last_round
    return (
        '<div class="play" id="play"><button class="act" type="button">play</button>'
        f'<input type="range" min="1" max="{last}" value="{last}" aria-label="round of map and schedule">'
        f"<output>round {last}</output></div>"
    )


def _figure(
    name: str, runs: Sequence[str], *, live: bool, at: bool = False, device: int | None = None
) -> str:
    """A figure's place; the script fetches it when it comes into view."""
    query = [("name", name), *(("run", run) for run in runs)]
    query += [("device", str(device))] if device is not None else []
    marks = f"{' data-live' if live else ''}{' data-at' if at else ''}"
    address = escape("figure?" + urlencode(query, quote_via=quote))
    return f'<div class="figure waiting" data-name="{name}" data-from="{address}"{marks}></div>'


def compare_page(library: Library, names: Sequence[str]) -> str:
    """The page that compares runs; its tables, which take their time, come by `compared_tables`."""
    runs = [library.run(name) for name in names]
    address = link_to_runs("tables", names)
    kept = library.kept_text(names, COMPARED)
    parts = [
        f"<h1>{len(names)} runs compared</h1><h2>Accuracy and cost</h2>",
        f'<div id="tables">{kept}</div>'
        if kept is not None
        else f'<div id="tables" data-later="{address}"><p class="faint">The runs are being read.</p></div>',
    ]
    for section, figures in sections(several=True).items():
        parts.append(f"<h2>{section}</h2>")
        parts += [_figure(figure, names, live=entry.live) for figure, entry in figures.items()]
    if worth_scaling(runs):
        parts.append("<h2>Scaling</h2>" + _figure("scaling", names, live=True))
    parts.append("<h2>Each of them</h2><ul>" + "".join(_item(name) for name in names) + "</ul>")
    return "".join(parts)


def compared_tables(library: Library, names: Sequence[str]) -> str:
    """Tables of several runs: means, differences, cost to a target, configurations, single runs."""
    return library.text(names, COMPARED, _compared_tables)


def _compared_tables(*runs: Run) -> str:
    groups = find_groups(runs)
    parts = [comparison_warnings(groups), group_table(groups)]
    if len(groups) > 1:
        parts.append("<h3>Differences, paired by seed</h3>" + paired_table(groups))
    targets = target_table(groups)
    parts.append("<h3>Cost to reach an accuracy</h3>" + targets if targets else "")
    parts.append("<h3>What differs between the configurations</h3>" + difference_table(groups))
    parts.append("<h3>Single runs</h3>" + cost_table(runs))
    return "".join(parts)


def _item(name: str) -> str:
    return f'<li><a href="{link("run", run=name)}">{escape(name)}</a></li>'


def device_page(library: Library, name: str, device: int) -> str:
    """The page of one device."""
    run, state = library.run(name), library.state(name)
    count = device_count(run)
    before, after = max(0, device - 1), min(count - 1, device + 1)
    parts = [
        f'<h1>Device {device:,} of <a href="{link("run", run=name)}">{escape(state.name)}</a></h1>',
        f'<p id="status">{status_line(state)}</p>',
        _device_form(name, count, device),
        f'<p><a href="{link("device", run=name, device=before)}">previous</a> · '
        f'<a href="{link("device", run=name, device=after)}">next</a></p>',
        f'<div id="live">{library.kept_text([name], of_device(device)) or ""}</div>',
    ]
    parts += [_figure(figure, [name], live=True, device=device) for figure in DEVICE_FIGURES]
    return "".join(parts)


def device_tables(library: Library, name: str, device: int) -> str:
    """What a device is, its neighbours and what it holds, as HTML tables."""
    return library.text([name], of_device(device), lambda run: _device_tables(run, device))


def of_device(device: int) -> str:
    """Name under which the library keeps a device's tables."""
    return f"device {device}"


def _device_tables(run: Run, device: int) -> str:
    nodes, edges = run.topology_at(run.last_round)
    own = nodes[nodes["device"] == device]
    rows = [
        [
            f"({row.x_m:.1f}, {row.y_m:.1f}) m",
            str(row.tasks),
            str(row.cluster),
            "yes" if row.gateway else "no",
        ]
        for row in own.itertuples()
    ]
    parts = [table(["position", "tasks", "cluster", "gateway"], rows)]
    parts.append("<h3>Neighbours</h3>" + table(*_neighbours(run, nodes, edges, device)))
    return "".join(parts)


def _neighbours(run: Run, nodes, edges, device: int) -> tuple[list[str], list[list[str]]]:
    mine = edges[(edges["source"] == device) | (edges["destination"] == device)]
    tasks = dict(zip(nodes["device"], nodes["tasks"], strict=True))
    lines: list[list[str]] = []
    for row in link_sinr_db(run, mine, run.last_round).to_dict("records"):
        other = row["destination"] if row["source"] == device else row["source"]
        sinr = "not used" if isnan(row["sinr_db"]) else f"{row['sinr_db']:.1f} dB"
        lines.append(
            [f"device {other}", str(tasks.get(other, "?")), f"{row['length_m']:.1f} m", str(row["kind"]),
             f"{row['mean_snr_db']:.1f} dB", sinr]
        )  # fmt: skip
    return ["neighbour", "tasks", "distance", "link", "mean SNR", "median SINR, ten rounds"], lines


def problem_page(text: str) -> Iterator[str]:
    """What is shown in place of a page that cannot be."""
    yield f'<h1>Not to be shown</h1><p class="warn">{escape(text)}</p>'
