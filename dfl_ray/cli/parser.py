"""The commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from dfl_ray.cli import (
    bundle,
    calibrate,
    commands,
    completion,
    dashboard,
    evaluate,
    export,
    methods,
    plans,
    plot,
    replan,
    status,
    sweep,
    verify,
)
from dfl_ray.cli.common import Command, Options, add_common, add_json
from dfl_ray.errors import InputError, nearest
from dfl_ray.tracking.terminal import broken, columns, named, prose


class _Parser(argparse.ArgumentParser):
    """Parser whose complaints are `InputError`s like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(
            message[:1].upper() + message[1:],
            expected=self._meant(message),
            change=f"`{self.prog} --help` shows how it is used.",
        )

    def _meant(self, message: str) -> str:
        """The nearest option to one that is not known, or nothing."""
        head, _, words = message.partition(": ")
        unknown = [word.split("=")[0] for word in words.split() if word.startswith("-")]
        if head != "unrecognized arguments" or not unknown:
            return ""
        return nearest(unknown[0], (name for action in self._actions for name in action.option_strings))


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
    command, width = _TABLE[name], columns(80) - 2
    parser = _Parser(
        prog=f"dfl-ray {name}",
        usage="\n  ".join(broken(f"dfl-ray {command.usage}", width - len("usage: "), rest="    ")),
        description=prose(command.summary[0].upper() + command.summary[1:] + ".", width),
        epilog=prose(command.details, width),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    add_common(parser)
    return command, parser.parse_intermixed_args([*words[:place], *words[place + 1 :]])


def _top_level() -> argparse.ArgumentParser:
    width = columns(80) - 2
    rows = named([(command.name, command.summary) for command in _COMMANDS], width, indent="  ")
    said = "Simulates wireless devices that fine-tune one language model together without a server."
    more = "`dfl-ray COMMAND --help` says how a command is used, and more about it."
    parser = _Parser(
        prog="dfl-ray",
        usage="dfl-ray COMMAND [arguments] [-v]",
        description=prose(said, width),
        epilog="\n".join(["commands:", *rows, "", prose(more, width)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common(parser)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="CONFIG key=value",
        help="a preset's name or a YAML file (default: preset `default`), then overrides",
    )


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--all", action="store_true", help="print every key, also those at their default")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run of this `name` if it has begun, and do nothing if it is done: for batch queues",
    )
    add_json(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds",
        type=_at_least_one,
        metavar="N",
        help="rounds to schedule, evenly sampled from the run's (default: all, or a sample where they are many)",
    )
    parser.add_argument(
        "--nodes",
        metavar="NODES",
        help="forecast the run's speed on the nodes of a cluster: [COUNTx]CPUS[@SPEED], separated by commas; "
        "3x16, or 8,8,4@0.5, where the speed of this machine's CPUs is 1",
    )
    parser.add_argument(
        "--link",
        metavar="MBIT[:MS]",
        default="",
        help="rate of each node's link in Mbit/s and its delay in ms, with `--nodes` (default: takes no time)",
    )
    _add_config(parser)
    add_json(parser)


def _at_least_one(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got `{text}`")
    return number


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of the run to go on with")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="rounds=N to lengthen the run, or keys of stop, evaluate, checkpoint, track and runtime",
    )
    parser.add_argument(
        "--changed",
        action="store_true",
        help="go on although rows, weights or code have changed since; noted in run.json",
    )
    add_json(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders or folders of runs; several are compared",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write it (default: report.html in RUN, or comparison.html beside the runs)",
    )
    add_json(parser)


def _plot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN … FIGURE",
        help="run folders or folders of runs, then the figure's name",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: FIGURE.pdf)")
    parser.add_argument(
        "--width-mm", type=float, default=180.0, metavar="MM", help="width on paper (default: 180)"
    )
    parser.add_argument("--dark", action="store_true", help="for dark paper")
    parser.add_argument(
        "--round", type=int, metavar="N", help="as of round N: device_map and schedule (default: the last)"
    )
    parser.add_argument("--device", type=int, metavar="N", help="whose figure: the six of one device")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", default=[], metavar="RUN", help="run folders, or folders of runs (default: runs)"
    )
    add_json(parser)


def _dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default="runs", metavar="RUNS", help="folder of runs, or one run (default: runs)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8700,
        metavar="N",
        help="port on 127.0.0.1; 0 takes a free one (default: 8700)",
    )


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
    Command(
        "resume",
        "resume RUN [key=value …]",
        "goes on where a run stopped, or lengthens it",
        "examples:\n  dfl-ray resume runs/NAME\n  dfl-ray resume runs/NAME rounds=40",
        _resume_arguments,
        commands.resume,
    ),
    Command(
        "plan",
        "plan [CONFIG …] [key=value …]",
        "says what a run would cost, or compares several, without training",
        "Builds the graph and schedules the run's rounds over the radio; loads no model.\n"
        "Several configurations are compared in one table, each with the same overrides.\n"
        "examples:\n  dfl-ray plan devices.count=1000\n  dfl-ray plan radio-100k --json\n"
        "  dfl-ray plan nr-sidelink wifi-direct mmwave-indoor rounds=4\n"
        "  dfl-ray plan scale-10k --nodes 4x16 --link 1000:1",
        _plan_arguments,
        plans.plan,
    ),
    Command(
        "calibrate",
        "calibrate [CONFIG] [key=value …]",
        "measures this machine's training steps and writes a class of devices",
        "Prints predicted and measured times of steps that the fit has not seen.\n"
        "examples:\n  dfl-ray calibrate -o mine.yaml --watts 25\n  dfl-ray run devices.classes=mine.yaml",
        calibrate.add_arguments,
        calibrate.execute,
    ),
    Command(
        "report",
        "report RUN [RUN …]",
        "writes one HTML file of figures and tables",
        "",
        _report_arguments,
        commands.report,
    ),
    Command(
        "plot",
        "plot RUN [RUN …] FIGURE",
        "draws one figure as pdf, svg, png, html or json",
        "FIGURE is a name such as accuracy_over_bytes or device_map.\nA wrong name is answered with the nearest.",
        _plot_arguments,
        plot.plot,
    ),
    Command(
        "dashboard",
        "dashboard [RUNS] [--port N]",
        "shows runs live in the browser, on 127.0.0.1",
        "It only reads the folders: it may be started, stopped and left running at any time.\n"
        "On another machine: ssh -L 8700:127.0.0.1:8700 HOST, then open http://localhost:8700/ here.",
        _dashboard_arguments,
        dashboard.dashboard,
    ),
    Command(
        "status",
        "status [RUN …]",
        "prints the state of runs, running or finished",
        "Each RUN is a run folder or a folder of them (default: runs). Nothing but the folders is asked.",
        _status_arguments,
        status.status,
    ),
    Command(
        "verify",
        "verify RUN",
        "compares every file of a run with its checksum",
        "Exit code 0: all is whole; 2: what is damaged or missing is named, one line each.",
        verify.add_arguments,
        verify.execute,
    ),
    Command(
        "evaluate",
        "evaluate RUN [key=value …] [--harness tasks=…]",
        "asks a run's saved state once more, by other rules, on more rows, or by lm-eval",
        "examples:\n  dfl-ray evaluate runs/NAME evaluate.rules=[all] evaluate.rows_per_task=null -o rows.csv\n"
        "  dfl-ray evaluate runs/NAME --device 3 --harness tasks=arc_easy,boolq limit=100",
        evaluate.add_arguments,
        evaluate.execute,
    ),
    Command(
        "export",
        "export RUN OUT [--device N | --all] [--experts | --merged | --gguf]",
        "writes a device's model as a PEFT adapter folder with a model card",
        "`peft.PeftModel.from_pretrained(base, OUT)` gives the simulator's logits; every folder is checked for that.",
        export.add_arguments,
        export.execute,
    ),
    Command(
        "sweep",
        "sweep [CONFIG] key=a,b,c … seeds=N",
        "runs every point of a grid for every seed and compares them",
        "examples:\n  dfl-ray sweep method=dlora,ffa seeds=5\n"
        "  dfl-ray sweep mine.yaml method.rank=4,8,16 samples=2 name=ranks\n"
        "The same words with the same name go on where a sweep stopped.",
        sweep.add_arguments,
        sweep.execute,
    ),
    Command(
        "bundle",
        "bundle RUN",
        "makes one archive of a finished run, which others can check and run again",
        "A zip with RO-Crate metadata: configuration, records, partition, report, adapters, versions, hashes.",
        bundle.add_bundle_arguments,
        bundle.bundle,
    ),
    Command(
        "replay",
        "replay BUNDLE [key=value …]",
        "runs a bundled run again and says where it first differs",
        "Exit code 0: bit for bit equal, or within the tolerance that is told; 1: different.\n"
        "example:\n  dfl-ray replay one.zip model.name=PATH tasks.path=PATH",
        bundle.add_replay_arguments,
        bundle.replay,
    ),
    Command(
        "methods",
        "methods [CONFIG] [key=value …]",
        "lists the learning methods: source, what is trained, sent and mixed, bytes a round",
        "Bytes are those of the configuration's devices, graph and model where nothing is lost.\n"
        "examples:\n  dfl-ray methods\n  dfl-ray methods topology=ring method.rank=4",
        methods.add_arguments,
        methods.execute,
    ),
    Command(
        "replan",
        "replan RUN [radio.key=value …]",
        "carries a run's recorded requests over another radio, without training",
        "Bytes, airtime, joules, simulated time and deliveries of both, and where other deliveries would have changed "
        "the learning.\nexample:\n  dfl-ray replan runs/NAME radio.scheduler=tdma radio.tx_power_dbm=10",
        replan.add_arguments,
        replan.execute,
    ),
    Command("presets", "presets", "lists the shipped configurations", "", _no_arguments, commands.presets),
    Command(
        "config",
        "config [CONFIG] [key=value …]",
        "prints what differs from the defaults, or every key",
        "The output is YAML that `dfl-ray run` takes: save it, edit it, run it.\n"
        "`--all` prints every key with its meaning, type and range.",
        _config_arguments,
        commands.config,
    ),
    Command(
        "completion",
        "completion SHELL",
        "prints a script by which bash or zsh completes commands, options, presets and keys",
        "For good: echo 'eval \"$(dfl-ray completion bash)\"' >> ~/.bashrc\n"
        "zsh: dfl-ray completion zsh > DIR/_dfl-ray, where DIR is a folder of $fpath",
        completion.add_arguments,
        lambda options: completion.execute(options, _COMMANDS),
    ),
)
_TABLE = {command.name: command for command in _COMMANDS}
