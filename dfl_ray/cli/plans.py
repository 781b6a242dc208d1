"""`dfl-ray plan [CONFIG …] [key=value …]`: what a run would cost, or several, one row each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError
from dfl_ray.tracking.terminal import broken, columns, named, table


def plan(options: argparse.Namespace) -> int:
    """Bytes, airtime, energy, latency, memory and wall time, without training; of several configurations a table."""
    from dfl_ray.cli.commands import load, print_json, progress_and_answer, silence
    from dfl_ray.config.check import check_inputs

    sources = _each_once([word for word in options.words if "=" not in word])
    overrides = [word for word in options.words if "=" in word]
    configs = {name: load([name, *overrides]) for name in sources} or {"": load(overrides)}
    for config in configs.values():
        check_inputs(config, planned=True)
    silence(options.verbose)
    from dfl_ray.simulation.estimate import plan as plan_run
    from dfl_ray.simulation.node_estimate import Machines, check_forecast

    if options.link and options.nodes is None:
        raise InputError(
            "`--link` is the link of the nodes of `--nodes`",
            got=f"--link {options.link} alone",
            change="Say which nodes it joins, as `--nodes 3x16`, or leave it out.",
        )
    machines = None if options.nodes is None else Machines.of(options.nodes, options.link)
    for config in configs.values() if machines else ():
        check_forecast(config)
    progress, tell = progress_and_answer(options)
    plans: list[dict[str, Any]] = []
    for name, config in configs.items():
        if len(configs) > 1:
            progress.say(f"Planning {name}")
        plans.append(plan_run(config, progress.step, rounds=options.rounds, machines=machines))
    if len(plans) > 1:
        plans = [{"configuration": name, **one} for name, one in zip(configs, plans, strict=True)]
    for line in _one(plans[0]) if len(plans) == 1 else [*table_lines(plans), *_notes(plans)]:
        tell(line)
    if options.json:
        print_json(plans[0] if len(plans) == 1 else {"plans": plans})
    return 0


def _each_once(sources: Sequence[str]) -> Sequence[str]:
    """The configurations to compare, as they are.

    Raises:
        InputError: One is named twice.
    """
    meant = [str(Path(name).resolve()) if Path(name).is_file() else name for name in sources]
    twice = next((name for k, name in enumerate(sources) if meant[k] in meant[:k]), None)
    if twice is not None:
        raise InputError(
            f"`{twice}` is named twice",
            expected="configurations to compare, each once",
            change="Leave one out.",
        )
    return sources


def _one(figures: Mapping[str, Any]) -> list[str]:
    from dfl_ray.simulation.estimate import plan_lines

    return named(plan_lines(figures), columns())


def _notes(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        line
        for one in plans
        for note in one["notes"]
        for line in broken(f"{one['configuration']}: {note}", columns(), first="note  ", rest="      ")
    ]


def table_lines(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The plans as a table; sums are over the whole run, as `plan` prints them.

    Args:
        plans: What `dfl_ray.simulation.estimate.plan` gave for each, and its `configuration`.

    Returns:
        A line of heads and one line a plan, or a list for each plan on a terminal that is narrower.
    """
    from dfl_ray.records.words import share, size
    from dfl_ray.simulation.gpu_estimate import about

    cluster = plans[0]["on_nodes"]
    head = ("", "devices", "rounds", "bytes on air", "airtime", "simulated", "energy", "of it radio", "delivered",
            "memory here")  # fmt: skip
    rows = [(*head, *(f"a round on {one['nodes']}" for one in cluster[-1:]))]
    for one in plans:
        run = one["run"]
        rows.append(
            (
                one["configuration"],
                f"{one['devices']:,}",
                f"{one['planned_rounds']:,} of {one['rounds']:,}",
                size(run["payload_bytes"]),
                f"{run['airtime_s']:.4g} s",
                about(run["simulated_s"]),
                f"{run['energy_j']:.4g} J",
                f"{run['radio_energy_j']:.4g} J",
                share(run["delivered_fraction"]),
                f"{one['memory']['peak_mb']:,.0f} MB",
                *(f"{about(some['round_s'])}, x{some['speed_up']:.2f}" for some in one["on_nodes"][-1:]),
            )
        )
    return table(rows, columns())
