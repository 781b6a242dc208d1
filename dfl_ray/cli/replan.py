"""`dfl-ray replan RUN radio.key=value …`: a run's recorded requests over another radio."""

from __future__ import annotations

import argparse

from dfl_ray.cli.common import add_json
from dfl_ray.tracking.terminal import broken, columns, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="radio.key=value",
        help="keys of `radio`; none = the run's own radio",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write one row a round to a .csv or .parquet file"
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Print the run's figures beside those under the new radio, and write the rounds where asked."""
    from dfl_ray.cli.commands import (
        print_json,
        progress_and_answer,
        run_folder,
        silence,
        table_file,
        write_table,
    )

    folder = run_folder(options.run)
    output = table_file(options.output)
    silence(options.verbose)
    from dfl_ray.simulation.replan import replan

    progress, tell = progress_and_answer(options)
    with progress.step("replanning"):
        found = replan(folder, options.overrides)
    totals = found.totals()
    for line in _lines(totals):
        tell(line)
    for note in found.notes:
        for line in broken(note, columns(), first="note  ", rest="      "):
            tell(line)
    if output is not None:
        write_table(found.rounds, output)
        tell(f"Rounds: {output}")
    if options.json:
        record = {"run": str(folder), "radio": options.overrides, "totals": totals, "notes": found.notes}
        print_json(record)
    return 0


def _lines(totals: dict[str, dict[str, float | None]]) -> list[str]:
    """The totals as a table of four columns."""
    from dfl_ray.records.schema import CONTROL_COLUMNS, STATE_ENERGY_COLUMNS
    from dfl_ray.records.words import share, size

    def seconds(value: float) -> str:
        return f"{value:.4g} s"

    def joules(value: float) -> str:
        return f"{value:.4g} J"

    rows = [("", "run", "replanned", "change")]
    for label, name, write in (
        ("bytes on air", "payload_bytes", size), ("airtime", "airtime_s", seconds),
        ("simulated time", "simulated_s", seconds), ("energy", "energy_j", joules),
        ("  radio", "radio_energy_j", joules), ("    of it idle, listening", "idle_energy_j", joules),
        *((f"    {name.removesuffix('_energy_j').replace('_', ' ')}", name, joules)
          for name in STATE_ENERGY_COLUMNS if name in totals),
        *((label, name, write) for label, name, write in zip(
            ("control bytes", "  airtime", "  time", "  energy, part of the radio's"), CONTROL_COLUMNS,
            (size, seconds, seconds, joules), strict=True) if name in totals),
        ("  computing", "compute_energy_j", joules),
    ):  # fmt: skip
        was, now = totals[name]["run"], totals[name]["replanned"]
        change = (
            "none" if now == was else f"{100 * (now / was - 1):+.1f} %" if was and now is not None else "–"
        )
        told_was, told_now = ("–" if value is None else write(value) for value in (was, now))
        rows.append((label, told_was, told_now, change))
    wanted = totals["transfers"]["run"] or 0.0
    was, now = (
        (totals["delivered"][who] or 0.0) / wanted if wanted else None for who in ("run", "replanned")
    )
    points = "none" if was == now or was is None or now is None else f"{100 * (now - was):+.1f} points"
    rows.append((f"delivered of {wanted:,.0f}", share(was), share(now), points))
    return table(rows, columns())
