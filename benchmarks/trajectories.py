"""Draws where the devices of a run went, with the links of its first and last round.

    python benchmarks/trajectories.py runs/NAME -o trajectories.svg --rounds 1,20

A line is a device's way from round to round, thin where it began and thick where it ended; a dot is where it stands in
the panel's round, in the colour of its cluster; grey lines are the links of that round, dashed ones join two clusters.
A device that wraps round at the end of a highway begins a new line.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from dfl_ray.records import Run, load_run

matplotlib.use("Agg")


def ways(run: Run, until: int) -> dict[int, np.ndarray]:
    """Where each device was in every round up to one.

    Args:
        run: The run.
        until: The last round.

    Returns:
        Device -> (rounds, 2) positions in m.
    """
    nodes = run.topology_nodes
    nodes = nodes[nodes["round"] <= until].sort_values(["device", "round"])
    return {int(str(d)): rows[["x_m", "y_m"]].to_numpy() for d, rows in nodes.groupby("device")}


def draw_round(axes: Any, run: Run, round: int, last: int) -> None:
    """Draw one panel: ways up to the run's `last` round, places and links of `round`."""
    from matplotlib.collections import LineCollection

    nodes, edges = run.topology_at(round)
    place = nodes.set_index("device")[["x_m", "y_m"]]
    ends = np.stack([place.loc[edges[end]].to_numpy() for end in ("source", "destination")], axis=1)
    dashes = ["--" if kind == "gateway" else "-" for kind in edges["kind"]]
    axes.add_collection(
        LineCollection(list(ends), colors="#B0B0B0", linewidths=1, linestyles=dashes, zorder=1)
    )
    colours = matplotlib.colormaps["tab10"]
    cluster = nodes.set_index("device")["cluster"]
    for device, way in ways(run, last).items():
        steps = np.stack([way[:-1], way[1:]], axis=1)
        length = np.hypot(*(steps[:, 1] - steps[:, 0]).T)
        kept = length <= max(20 * float(np.median(length)), 1e-9) if len(length) else length > 0
        widths = np.linspace(0.4, 2.0, len(steps))[kept]
        colour = colours(int(cluster[device]) % 10)
        axes.add_collection(
            LineCollection(list(steps[kept]), colors=[colour], linewidths=widths, alpha=0.7, zorder=2)
        )
    axes.scatter(place["x_m"], place["y_m"], c=[colours(int(c) % 10) for c in cluster], s=55, zorder=3,
                 edgecolors="black", linewidths=0.8)  # fmt: skip
    at = run.rounds.set_index("round")["simulated_s"].get(round - 1, 0.0)
    axes.set_title(f"round {round}, at {at:.1f} s: {len(edges)} links", fontsize=10)
    axes.set_xlabel("x (m)")


def draw(run: Run, rounds: list[int], out: Path) -> None:
    """Draw all panels side by side and write the picture; equal records give equal bytes.

    Args:
        run: The run.
        rounds: One panel each.
        out: File to write, SVG or PNG.
    """
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "dfl-ray", "font.size": 9})
    nodes = run.topology_nodes
    wide, high = np.ptp(nodes["x_m"]), np.ptp(nodes["y_m"])
    strip = wide > 5 * high
    shape = (len(rounds), 1) if strip else (1, len(rounds))
    size = (8.0, 2.2 * len(rounds)) if strip else (4.0 * len(rounds), 4.2)
    picture, panels = plt.subplots(
        *shape, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, round in zip(panels.flat, rounds, strict=True):
        draw_round(axes, run, round, max(rounds))
        if not strip:
            axes.set_aspect("equal")
    panels[0][0].set_ylabel("y (m)")
    picture.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    plt.close(picture)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("-o", "--output", default="trajectories.svg", help="SVG or PNG file to write")
    parser.add_argument("--rounds", default="1,20", help="rounds, one panel each")
    options = parser.parse_args()
    draw(load_run(options.run), [int(text) for text in options.rounds.split(",")], Path(options.output))
    print(f"Picture: {options.output}")


if __name__ == "__main__":
    main()
