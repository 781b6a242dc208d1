"""`dfl-ray calibrate`: this machine as a class of devices."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.cli.common import add_json, check_number

WATTS = (1e-3, 1e9)
MOST_SECONDS = 86_400.0

if TYPE_CHECKING:
    from dfl_ray.simulation.calibrate import Calibration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "words", nargs="*", default=[], metavar="CONFIG key=value", help="a preset or a file, then overrides"
    )
    parser.add_argument(
        "-o", "--output", default="machine.yaml", metavar="FILE", help="the class (default: machine.yaml)"
    )
    parser.add_argument("--name", default="machine", help="name of the class (default: machine)")
    parser.add_argument("--watts", type=float, metavar="W", help="power the machine draws while it trains")
    parser.add_argument(
        "--seconds", type=float, default=15.0, metavar="S", help="how long to measure (default: 15)"
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Measure, print predicted and measured times of steps the fit has not seen, and write the class."""
    from dfl_ray.cli.commands import load, output_file, print_json, progress_and_answer, silence
    from dfl_ray.config.check import check_inputs
    from dfl_ray.errors import InputError

    output = output_file(options.output, (".yaml", ".yml"))
    if not options.name.strip():
        raise InputError(
            "`--name` is empty", expected="a word for the class", change="Give one, or leave it out."
        )
    check_number("--seconds", options.seconds, 0.0, MOST_SECONDS, "s")
    if options.watts is not None:
        check_number("--watts", options.watts, *WATTS, "W")
    config = load(options.words)
    check_inputs(config)
    silence(options.verbose)
    from dfl_ray.simulation.calibrate import calibrate

    progress, tell = progress_and_answer(options)
    found = calibrate(config, options.seconds, progress.step)
    for line in lines(found):
        tell(line)
    figures = figures_of(found, options.watts)
    _write(output, options.name, figures, config.model.name)
    tell(f"Class `{options.name}`: {output}. Use it with devices.classes={output}")
    if options.watts is None:
        tell("Energy is the default class's, 0.25 nJ for each operation: give --watts W for the machine's.")
    if options.json:
        print_json({"class": str(output), **figures, "worst": found.worst, "checked": _checked(found)})
    return 0


def figures_of(found: Calibration, watts: float | None) -> dict[str, float]:
    """The class's figures, as a table of classes holds them.

    Args:
        found: The calibration.
        watts: Power the machine draws while it trains; None leaves the energy out.
    """
    figures = {"flops_per_s": found.law.flops_per_s, "step_overhead_s": found.law.overhead_s, "share": 1.0}
    return figures if watts is None else {**figures, "watts": watts}


def _checked(found: Calibration) -> list[dict[str, float]]:
    return [
        {
            "rows": m.rows,
            "tokens": m.tokens,
            "predicted_s": found.law.seconds(m.flops),
            "measured_s": m.seconds,
        }
        for m in found.checked
    ]


def lines(found: Calibration) -> list[str]:
    """What was measured in words: a table of shapes that the fit has not seen, then the law.

    Args:
        found: The calibration.
    """
    clock = "processor time" if found.processor_time else "wall time"
    table = [
        f"local steps that the fit has not seen, {clock}",
        "rows  tokens  predicted ms  measured ms  ratio",
    ]
    for one in found.checked:
        predicted = found.law.seconds(one.flops)
        table.append(
            f"{one.rows:>4}  {one.tokens:>6}  {predicted * 1e3:>12.2f}  {one.seconds * 1e3:>11.2f}  "
            f"{predicted / one.seconds:>5.2f}"
        )
    law = f"{found.law.flops_per_s / 1e9:.3g} GFLOP/s and {found.law.overhead_s * 1e3:.3g} ms a step"
    worst = f"{law}: at most {found.worst:.0%} off"
    if found.worst > 0.1:
        worst += "; measure for longer (--seconds), or while the machine does nothing else"
    return [*table, worst]


def _write(path: Path, name: str, figures: dict[str, float], model: str) -> None:
    """Write a class as a table that `devices.classes` reads."""
    import platform

    from dfl_ray.config.yamlio import dump

    said = f"# dfl-ray calibrate: {model} on {platform.processor() or platform.machine()}"
    path.write_text(f"{said}\n{dump({name: figures})}", encoding="utf-8")
