"""How does each part of the cost grow with devices, links, rounds, tasks, rank and model width?

`python -m benchmarks.growth --json --charts docs/pictures` varies one figure at a time and holds all others. Each size
is measured in a process of its own, a fork of one that has loaded all code (`benchmarks.growth_run`): processor seconds
of every part of a whole run in one process, then of its report and of its page in the dashboard, and bytes of messages,
records, checkpoint and state. `radio` and `clusters` go to 100,000 devices with the graph, the radio's plan and its
records alone. `--axes` names some.

The slope of a part is the least-squares slope of its logarithm over the logarithm of what is varied, over the sizes in
the upper half of the range (from the geometric mean of its ends on): below, what does not grow with it (loading the
scripts of a page, opening files) is most of a part. `last` is the slope of the last step alone; where that is larger,
the part bends upwards. A part that never takes `LEAST_S` has no slope.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.growth_axes import DIMENSIONS, Dimension
from benchmarks.result import with_origin

LEAST_S = 0.02
"""Processor seconds below which a part is too short to have a slope."""
ROUND = ("requests", "train", "plan", "exchange", "evaluate", "records", "checkpoint")
AROUND = (
    "rows", "base model", "graph and radio", "devices", "network written", "adapters", "report", "dashboard",
)  # fmt: skip
PARTS = (*AROUND, *ROUND)
"""What is done before and behind the rounds, and in them."""
BYTES = (
    "message bytes", "bytes on air", "record bytes", "network bytes", "checkpoint bytes", "state bytes", "report bytes",
    "peak bytes",
)  # fmt: skip


def upper_half(xs: Sequence[float]) -> list[int]:
    """Places of the sizes from the geometric mean of the smallest and the largest on.

    Args:
        xs: Sizes > 0, ascending.

    Returns:
        At least the last two.
    """
    middle = math.sqrt(xs[0] * xs[-1])
    return [k for k, x in enumerate(xs) if x >= middle * (1 - 1e-9) or k >= len(xs) - 2]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Exponent p of y = c x^p, by least squares of log y over log x in the upper half of the range.

    Args:
        xs: Sizes > 0, ascending, at least two different.
        ys: What was measured of each, >= 0.

    Returns:
        The exponent; NaN where a value of the upper half is 0.
    """
    half = upper_half(xs)
    x, y = np.array([xs[k] for k in half]), np.array([ys[k] for k in half])
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if (y > 0).all() else math.nan


def slopes_of(dimension: Dimension, sizes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Slope of every part and count, and of its last step; those too short to have one are left out."""
    xs = [x_of(dimension, one) for one in sizes]
    found: dict[str, dict[str, float]] = {}
    for name, ys in lines_of(sizes).items():
        if name in PARTS and max(ys) < LEAST_S:
            continue
        found[name] = {"slope": slope(xs, ys), "last": slope(xs[-2:], ys[-2:])}
    return found


def x_of(dimension: Dimension, size: Mapping[str, Any]) -> float:
    """What a size's slope is taken over."""
    return float(size["value"] if dimension.x == "value" else size["counts"][dimension.x])


def lines_of(sizes: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Part or count -> its value at each size, for those that all sizes have; `total` seconds last."""
    out: dict[str, list[float]] = {}
    for kind, names in (("seconds", PARTS), ("counts", BYTES)):
        for name in names:
            if all(name in one[kind] for one in sizes):
                out[name] = [float(one[kind][name]) for one in sizes]
    return out


def above(dimension: Dimension, slopes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Parts and counts whose slope is above what is wanted of them, in words."""
    out: list[str] = []
    for name, found in slopes.items():
        bar = dimension.bar(name)
        if bar is not None and found["slope"] > bar:
            out.append(f"{name}: slope {found['slope']:.2f}, wanted at most {bar:g}")
    return out


def measured_axis(name: str, values: Sequence[int], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the sizes of an axis in a process of one thread, or read what was kept of them.

    Args:
        name: Name of the axis.
        values: Its sizes.
        given: The command line.

    Returns:
        What `print_sizes` printed.

    Raises:
        RuntimeError: It failed; the message holds the end of what it said.
    """
    kept = None if given.keep is None else given.keep / f"{name}.jsonl"
    if kept is not None and kept.exists():
        sizes = [json.loads(line) for line in kept.read_text().splitlines()]
        if [one["value"] for one in sizes] == list(values):
            return sizes
    asked = ["--here", "--axes", name, "--sizes", ",".join(map(str, values))]
    asked += ["--repeats", str(given.repeats), "--most", str(given.most)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *asked], check=False,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"The axis {name} failed: {done.stderr[-1500:]}")
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines()]


def print_sizes(name: str, values: Sequence[int], repeats: int, most_s: float) -> None:
    """Load all code by small runs, then measure each size in a fork of this process and print it as a line of JSON."""
    from benchmarks.growth_run import load_code, measured

    warnings.simplefilter("ignore", UserWarning)  # links shorter than a path-loss model's range
    dimension = DIMENSIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        load_code([*dimension.words(values[0], Path(folder)), *dimension.small], dimension.alone)
    for value in values:
        with tempfile.TemporaryDirectory() as folder:
            words = dimension.words(value, Path(folder))
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as fork:
                found = fork.submit(measured, words, dimension.alone, repeats, most_s).result()
        print(json.dumps({"value": value, **asdict(found)}), flush=True)


def table(
    dimension: Dimension, sizes: Sequence[Mapping[str, Any]], slopes: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """An axis as lines of text: a column a size, then slopes."""
    heads = [f"{x_of(dimension, one):,.0f}" for one in sizes]
    out = [dimension.title, _line("", heads, ["slope", "last"])]
    for name, values in lines_of(sizes).items():
        cells = [f"{v:.3f}" if name in PARTS else f"{v:,.0f}" for v in values]
        found = slopes.get(name)
        out.append(_line(name, cells, [f"{found[k]:.2f}" for k in found] if found else []))
    return out


def _line(name: str, cells: Sequence[str], slopes: Sequence[str] = ()) -> str:
    return f"{name:<17}" + "".join(f"{cell:>14}" for cell in cells) + "".join(f"{s:>8}" for s in slopes)


def per_device_and_round(sizes: Sequence[Mapping[str, Any]], rounds: int) -> list[str]:
    """Bytes a device and round of each size of the axis `devices`, a checkpoint's a device."""
    out = ["bytes a device and round", _line("", [f"{one['value']:,}" for one in sizes])]
    for name in ("message bytes", "bytes on air", "record bytes"):
        cells = [f"{one['counts'][name] / one['value'] / rounds:,.0f}" for one in sizes]
        out.append(_line(name, cells))
    out.append("bytes a device")
    for name in ("network bytes", "checkpoint bytes", "state bytes", "peak bytes"):
        out.append(_line(name, [f"{one['counts'][name] / one['value']:,.0f}" for one in sizes]))
    return out


def draw(
    path: Path,
    dimension: Dimension,
    sizes: Sequence[Mapping[str, Any]],
    slopes: Mapping[str, Mapping[str, float]],
) -> None:
    """Seconds of rounds, seconds around them and bytes over what is varied, as an SVG file; all scales logarithmic."""
    from benchmarks.line_chart import Axis, Panel, save_panels

    xs = [x_of(dimension, one) for one in sizes]
    panels: list[Panel] = []
    for title, names, unit in (
        ("rounds, processor s", ROUND, 1.0),
        ("around them, processor s", AROUND, 1.0),
        ("MB", BYTES, 1e6),
    ):
        shown = {
            f"{name.removesuffix(' bytes')} ({slopes[name]['slope']:.2f})": (
                xs,
                [y / unit for y in ys],
            )
            for name, ys in lines_of(sizes).items()
            if name in names and name in slopes and min(ys) > 0
        }
        if not shown:
            continue  # all of it too short to be told from the clock's noise
        every = [y for _, ys in shown.values() for y in ys]
        y = Axis(title, min(every) / 1.3, max(every) * 1.3, log=True)
        panels.append(Panel(Axis(dimension.title, xs[0] / 1.05, xs[-1] * 1.05, log=True), y, shown))
    save_panels(path, f"Growth with {dimension.title}", panels)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", default=",".join(DIMENSIONS), help="what is varied, comma-separated")
    parser.add_argument("--sizes", help="other values for a single axis, comma-separated, ascending")
    parser.add_argument("--small", action="store_true", help="tiny sizes: a run of seconds that says nothing")
    parser.add_argument("--repeats", type=int, default=2, help="most repeats of a size; the least counts")
    parser.add_argument("--most", type=float, default=5.0, help="seconds of repeats after which none begins")
    parser.add_argument("--charts", type=Path, help="folder for one SVG file an axis")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--keep", type=Path, help="folder: axes measured before are read from it")
    parser.add_argument("--here", action="store_true", help="in this process, one JSON object a size")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    given = parse(arguments)
    axes: dict[str, Any] = {}
    for name in given.axes.split(","):
        dimension = DIMENSIONS[name]
        values = dimension.tiny if given.small else dimension.values
        if given.sizes:
            values = tuple(int(v) for v in given.sizes.split(","))
        if given.here:
            print_sizes(name, values, given.repeats, given.most)
            continue
        sizes = measured_axis(name, values, given)
        slopes = slopes_of(dimension, sizes)
        print("\n".join(table(dimension, sizes, slopes)))
        if name == "devices":
            print("\n".join(per_device_and_round(sizes, 2)))
        wrong = above(dimension, slopes)
        print(f"above: {'; '.join(wrong) or 'nothing'}\n", flush=True)
        if given.charts:
            draw(given.charts / f"growth_{name}.svg", dimension, sizes, slopes)
        axes[name] = {"sizes": sizes, "slopes": slopes, "above": wrong}
    if given.json:
        print(json.dumps(with_origin({"axes": axes})))


if __name__ == "__main__":
    main()
