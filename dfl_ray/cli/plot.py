"""`dfl-ray plot`: one figure alone, as a vector file for a paper."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from dfl_ray.cli.common import check_number

MM_TO_PIXELS = 96 / 25.4
WIDTHS_MM = (10.0, 2000.0)
FORMATS = (".pdf", ".svg", ".png", ".html", ".json")


def plot(options: argparse.Namespace) -> int:
    """`dfl-ray plot RUN [RUN …] FIGURE -o FILE`: draw one figure of one run or of several compared."""
    from dfl_ray.errors import InputError
    from dfl_ray.records import load_run
    from dfl_ray.records.remote import is_remote
    from dfl_ray.views.catalog import FIGURES, draw
    from dfl_ray.views.style import darkened

    check_number("--width-mm", options.width_mm, *WIDTHS_MM, "mm")
    *paths, name = options.words
    if not paths:
        raise InputError(
            "A figure needs a run and a name", got=name, expected=f"RUN and one of: {', '.join(FIGURES)}"
        )
    out = Path(options.output or f"{name}.pdf").expanduser()
    if out.suffix not in FORMATS:
        raise InputError(f"`{out}` has no known ending", expected=", ".join(FORMATS))
    runs = [load_run(path if is_remote(path) else Path(path).expanduser()) for path in paths]
    picture = draw(name, runs, round=options.round, device=options.device)
    picture = darkened(picture) if options.dark else picture
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".html":
        picture.write_html(out, include_plotlyjs=True)
    elif out.suffix == ".json":
        picture.write_json(out)
    elif find_spec("kaleido") is None:
        raise InputError(
            f"Figures as {out.suffix} need the package kaleido and a Chromium",
            change="`pip install 'dfl-ray[plot]'`, or give an output ending in .html.",
        )
    else:
        picture.write_image(out, width=round(options.width_mm * MM_TO_PIXELS))
    print(f"Figure: {out}")
    return 0
