"""Draws the map of a run's devices at several rounds: links by SINR, devices by what they have learnt by then.

    python benchmarks/map_over_time.py runs/NAME -o map.svg --rounds 1,5,10,20

The colour of a device is its mean accuracy over all tasks at the last evaluation up to the round, that of a link the
median SINR of its attempts in the ten rounds up to it; grey links carried nothing, dashed ones join two clusters.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from dfl_ray.records import Run, load_run
from dfl_ray.records.results import method_rule
from dfl_ray.views.maps import link_sinr_db

matplotlib.use("Agg")

SINR_RANGE_DB = (0.0, 35.0)


def accuracy_by_device(run: Run, round: int) -> pd.Series:
    """Mean accuracy over tasks of each device at the last evaluation up to a round.

    Args:
        run: The run.
        round: The round; 0 = before tuning.

    Returns:
        Device -> share in [0, 1]; empty where nothing was evaluated by then.
    """
    rows = run.table("evaluation", rounds=(0, round))
    # Before tuning there is one bare model (device -1), by a rule of its own.
    rows = rows[(rows["rule"] == method_rule(run)) & (rows["device"] >= 0)]
    rows = rows[rows["round"] == rows["round"].max()]
    return rows.groupby("device")["accuracy"].mean()


def draw_round(axes: Any, run: Run, round: int) -> tuple[Any, Any]:
    """Draw one panel.

    Args:
        axes: The panel.
        run: The run.
        round: The round.

    Returns:
        What the two colour bars explain: the links and the devices.
    """
    from matplotlib.collections import LineCollection

    nodes, edges = run.topology_at(round)
    place = nodes.set_index("device")[["x_m", "y_m"]]
    links = link_sinr_db(run, edges, round)
    ends = np.stack(
        [place.loc[links["source"]].to_numpy(), place.loc[links["destination"]].to_numpy()], axis=1
    )
    dashes = ["--" if kind == "gateway" else "-" for kind in links["kind"]]
    lines = LineCollection(list(ends), linewidths=2.2, linestyles=dashes, cmap="cividis", zorder=1)
    lines.set_array(np.ma.masked_invalid(links["sinr_db"].to_numpy(float)))
    lines.set_clim(*SINR_RANGE_DB)
    lines.cmap.set_bad("#CFCFCF")
    axes.add_collection(lines)
    known = accuracy_by_device(run, round).reindex(place.index)
    dots = axes.scatter(
        place["x_m"], place["y_m"], c=known.fillna(0.0), cmap="viridis", vmin=0, vmax=1, s=150, zorder=2,
        edgecolors="black", linewidths=0.8,
    )  # fmt: skip
    mean = (
        f", mean accuracy {100 * known.mean():.0f} %"
        if known.notna().any()
        else ", before the first evaluation"
    )
    axes.set_title(f"round {round}{mean}", fontsize=10)
    axes.set_aspect("equal")
    axes.set_xlabel("x (m)")
    return lines, dots


def draw(run: Run, rounds: Sequence[int], out: Path) -> None:
    """Draw all panels side by side and write the picture; equal records give equal bytes.

    Args:
        run: The run.
        rounds: One panel each.
        out: File to write, SVG or PNG.
    """
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "dfl-ray", "font.size": 9})
    picture, panels = plt.subplots(
        1,
        len(rounds),
        figsize=(3.1 * len(rounds) + 1.6, 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    drawn = [draw_round(axes, run, round) for axes, round in zip(panels[0], rounds, strict=True)]
    lines, dots = drawn[-1]
    panels[0][0].set_ylabel("y (m)")
    picture.colorbar(dots, ax=panels[0], label="device: accuracy (share)", shrink=0.85, pad=0.01)
    picture.colorbar(lines, ax=panels[0], label="link: SINR (dB)", shrink=0.85, pad=0.01)
    picture.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    plt.close(picture)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("-o", "--output", default="map_over_time.svg", help="SVG or PNG file to write")
    parser.add_argument("--rounds", default="1,5,10,20", help="rounds, one panel each")
    options = parser.parse_args()
    run = load_run(options.run)
    draw(run, [int(text) for text in options.rounds.split(",")], Path(options.output))
    print(f"Picture: {options.output}")


if __name__ == "__main__":
    main()
