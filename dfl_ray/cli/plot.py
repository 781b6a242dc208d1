"""`dfl-ray plot`: one figure alone, as a vector file for a paper."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dfl_ray.cli.common import check_number

MM_TO_PIXELS = 96 / 25.4
WIDTHS_MM = (10.0, 2000.0)
FORMATS = (".pdf", ".svg", ".png", ".html", ".json")


def plot(options: argparse.Namespace) -> int:
    """`dfl-ray plot RUN [RUN …] FIGURE -o FILE`: draw one figure of one run or of several compared."""
    from dfl_ray.cli.commands import output_file, run_folders
    from dfl_ray.records import load_run
    from dfl_ray.views.catalog import draw
    from dfl_ray.views.style import darkened

    check_number("--width-mm", options.width_mm, *WIDTHS_MM, "mm")
    paths, name = _runs_and_figure(options.words)
    out = output_file(options.output or f"{name}.pdf", FORMATS)
    _check_drawable(out)
    runs = [load_run(path) for path in run_folders(paths)]
    picture = draw(name, runs, round=options.round, device=options.device)
    picture = darkened(picture) if options.dark else picture
    if out.suffix == ".html":
        picture.write_html(out, include_plotlyjs=True)
    elif out.suffix == ".json":
        picture.write_json(out)
    else:
        picture.write_image(out, width=round(options.width_mm * MM_TO_PIXELS))
    print(f"Figure: {out}")
    return 0


def _runs_and_figure(words: Sequence[str]) -> tuple[list[str], str]:
    """Tell the runs from the figure's name, the last word."""
    from dfl_ray.errors import InputError
    from dfl_ray.views.catalog import check_name, names_for

    *paths, name = words
    known = {*names_for(1), *names_for(2)}
    if name not in known and ("/" in name or os.path.isdir(os.path.expanduser(name))):
        raise InputError(
            "The last word of `plot` is a figure's name, which is missing",
            got=f"`{name}`, the place of a run",
            expected=f"RUN [RUN …] FIGURE, with one of: {', '.join(names_for(len(words)))}",
        )
    check_name(name)
    if not paths:
        raise InputError(
            f"The figure `{name}` needs a run", got=f"`{name}` alone", expected="RUN [RUN …] FIGURE"
        )
    return paths, name


def _check_drawable(out: Path) -> None:
    """Refuse a picture of a form that needs what is not installed."""
    from dfl_ray.errors import InputError

    if out.suffix not in (".html", ".json") and find_spec("kaleido") is None:
        raise InputError(
            f"Figures as {out.suffix} need the package kaleido and a Chromium",
            change="`pip install 'dfl-ray[plot]'`, or give an output ending in .html.",
        )
