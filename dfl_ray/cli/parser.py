"""The commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from dfl_ray.cli import commands
from dfl_ray.errors import InputError, nearest

Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One command: its line in `--help`, its arguments, and what it does."""

    name: str
    usage: str
    summary: str
    details: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[Options], int]


class _Parser(argparse.ArgumentParser):
    """Parser whose complaints are `InputError`s like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(
            message[:1].upper() + message[1:], change=f"`{self.prog} --help` shows how it is used."
        )


def parse_words(words: Sequence[str]) -> tuple[Command, Options]:
    """Find the command among the words and read its options; flags may stand before or behind it.

    Returns:
        The command and its options.

    Raises:
        InputError: No such command or option.
        SystemExit: After `--help` or `--version`.
    """
    place = next((n for n, word in enumerate(words) if not word.startswith("-")), None)
    if place is None:
        _top_level().parse_args(list(words) or ["--help"])
        raise InputError(
            "No command given", expected=", ".join(_TABLE), change="`dfl-ray --help` explains them."
        )
    name = words[place]
    if name not in _TABLE:
        raise InputError(f"There is no command `{name}`", expected=nearest(name, _TABLE))
    command = _TABLE[name]
    parser = _Parser(
        prog=f"dfl-ray {name}",
        usage=f"dfl-ray {command.usage}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog=command.details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    _add_common(parser)
    return command, parser.parse_intermixed_args([*words[:place], *words[place + 1 :]])


def _top_level() -> argparse.ArgumentParser:
    width = max(len(command.usage) for command in _TABLE.values()) + 2
    rows = [f"  {command.usage.ljust(width)}{command.summary}" for command in _TABLE.values()]
    parser = _Parser(
        prog="dfl-ray",
        usage="dfl-ray COMMAND [arguments] [-v]",
        description="Simulates wireless devices that fine-tune one language model together without a server.",
        epilog="commands:\n" + "\n".join(rows) + "\n\n`dfl-ray COMMAND --help` says more about one command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    from dfl_ray.version import VERSION

    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show what libraries say, and tracebacks"
    )
    parser.add_argument("--version", action="version", version=f"dfl-ray {VERSION}", help="print the version")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG key=value",
        help="a preset's name or a YAML file (default: preset `default`), then overrides",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    _add_json(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds",
        type=_at_least_one,
        metavar="N",
        help="rounds to schedule, evenly sampled from the run's (default: all, or a sample where they are many)",
    )
    _run_arguments(parser)


def _at_least_one(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got `{text}`")
    return number


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of the run to go on with")
    _add_json(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders; several are compared")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write it (default: report.html in RUN, or comparison.html beside the runs)",
    )
    _add_json(parser)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


_COMMANDS = (
    Command(
        "run",
        "run [CONFIG] [key=value …]",
        "runs an experiment",
        "examples:\n  dfl-ray run\n  dfl-ray run method=dlora method.rank=4 seed=1\n"
        "  dfl-ray run real-text model.name=PATH tasks.path=PATH 'tasks.names=[trec,sst2]'",
        _run_arguments,
        commands.run,
    ),
    Command("resume", "resume RUN", "goes on where a run stopped", "", _resume_arguments, commands.resume),
    Command(
        "plan",
        "plan [CONFIG] [key=value …]",
        "says what one round would cost, without training",
        "Builds the graph and schedules one representative round over the radio; loads no model.\n"
        "examples:\n  dfl-ray plan devices.count=1000\n  dfl-ray plan radio-100k --json",
        _plan_arguments,
        commands.plan,
    ),
    Command(
        "report",
        "report RUN [RUN …]",
        "writes one HTML file of figures and tables",
        "",
        _report_arguments,
        commands.report,
    ),
    Command("presets", "presets", "lists the shipped configurations", "", _no_arguments, commands.presets),
    Command(
        "config",
        "config [CONFIG] [key=value …]",
        "prints the resolved configuration with every key's meaning",
        "The output is YAML that `dfl-ray run` takes: save it, edit it, run it.",
        _add_config,
        commands.config,
    ),
)
_TABLE = {command.name: command for command in _COMMANDS}
