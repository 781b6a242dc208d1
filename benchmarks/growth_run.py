"""What `benchmarks.growth` measures of one size, in this process: a whole run, or its network and radio alone.

Seconds are processor seconds of this process, all its threads together, so that other programs on the machine count
little; the least of several repeats is taken. Bytes are counted, not estimated.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.garbage import collect_seldom
from dfl_ray.tracking.progress import QuietProgress

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.records import RunFolder
    from dfl_ray.simulation.experiment import Experiment

SET_UP = {
    "tasks": "rows", "base model": "base model", "radio and topology": "graph and radio", "topology": "graph and radio",
    "projections": "devices", "devices": "devices", "channel": "devices", "network": "network written",
    "base evaluation": "evaluate",
}  # fmt: skip
"""Step of a run's set-up -> the part that it is counted with."""


@dataclass
class Size:
    """What was found of one size.

    Attributes:
        seconds: Part -> processor seconds of the whole run.
        counts: Bytes and numbers, by name.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


class PartClock(QuietProgress):
    """Adds up the processor seconds of a run's parts; a `Progress` that shows nothing.

    What lies between two stages of a round belongs to the plan before the exchange (joining requests, expanding them to
    hops), and to the records behind it (making tables, writing them).
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._mark = 0.0
        self._in_stage = False

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step of the set-up; one inside a stage is the stage's."""
        began = time.process_time()
        yield
        if not self._in_stage:
            self.seconds[SET_UP.get(name, name)] += time.process_time() - began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of a round, and what came between it and the one before; one inside another is the other's."""
        if self._in_stage:
            yield
            return
        if name in ("plan", "exchange"):
            self._lap("plan")
        elif name == "evaluate":
            self._lap("records")
        else:
            self._mark = time.process_time()
        self._in_stage = True
        yield
        self._in_stage = False
        self._lap(name)

    def update(self, row: Mapping[str, Any]) -> None:
        """A round ended."""
        self._lap("records")

    def _lap(self, part: str) -> None:
        now = time.process_time()
        self.seconds[part] += now - self._mark
        self._mark = now


def whole_run(words: Sequence[str]) -> Size:
    """Run an experiment in this process, then write its report and load its page of the dashboard.

    Args:
        words: Settings `key=value` of a run.

    Returns:
        Seconds of all parts, and bytes: `message bytes` delivered, `bytes on air`, `record bytes` (tables of all
        rounds), `network bytes` (graph and holdings, written once), `checkpoint bytes` (one), `state bytes` (arrays
        of all devices' state in memory), `report bytes`; `links` of the graph.
    """
    from dfl_ray.config.load import load_config, resolved_yaml
    from dfl_ray.records import RunFolder
    from dfl_ray.simulation.backend import LocalBackend
    from dfl_ray.simulation.experiment import build_experiment
    from dfl_ray.tasks.load import read_tasks

    clock = PartClock()
    with tempfile.TemporaryDirectory() as runs:
        config = load_config(None, [*words, f"runtime.runs_dir={runs}", "name=run"])
        with clock.step("tasks"):
            loaded = read_tasks(config)
        experiment = build_experiment(config, clock.step, loaded)
        with clock.step("devices"):
            backend = LocalBackend(experiment.setup, experiment.channel)
        folder = RunFolder.create(runs, "run", resolved_yaml(config))
        try:
            with clock.step("network"):
                _write_network(folder, experiment)
            _rounds(experiment, backend, folder, clock)
            state = sum(a.nbytes for part in backend.snapshot().devices for a in part.arrays.values())
            folder.finish("done")
        finally:
            folder.close()
        counts = {"state bytes": float(state), "links": float(len(experiment.topology.edges))}
        for name, look in {"report": _report, "dashboard": _dashboard}.items():
            with clock.step(name):
                look(folder.path)
        return Size(dict(clock.seconds), {**counts, **_sizes(folder.path)})


def _write_network(folder: RunFolder, experiment: Experiment) -> None:
    """What `launch` writes before the first round."""
    from dfl_ray.records import topology_tables
    from dfl_ray.records.partition import write_partition

    setup = experiment.setup
    names = [t.name for t in setup.tasks]
    folder.write_topology(*topology_tables(experiment.topology, names), round=1)
    folder.list_files([write_partition(folder.path, names, setup.held, setup.rows)])


def _rounds(experiment: Experiment, backend: Any, folder: RunFolder, clock: PartClock) -> None:
    from dfl_ray.simulation.driver import Driver
    from dfl_ray.tracking.tracker import make_tracker

    tracker = make_tracker(experiment.config.track, name="run", say=clock.say, verbose=False)
    Driver(experiment, backend, folder, tracker, clock).run()


def _report(path: Path) -> None:
    from dfl_ray.views.report import write_report

    write_report([path], path / "report.html")


def _dashboard(path: Path) -> None:
    """A server that has kept nothing, asked for a run's page, its tables and all its figures, as a browser would."""
    import re
    from html import unescape

    from starlette.testclient import TestClient

    from dfl_ray.dashboard.server import make_app

    client = TestClient(make_app(path), base_url="http://127.0.0.1:8700")
    page = client.get("/run?run=.")
    figures = [unescape(address) for address in re.findall(r'data-from="([^"]+)"', page.text)]
    answers = [page, client.get("/state?run=.&version="), *(client.get(f"/{one}") for one in figures)]
    failed = [answer.url for answer in answers if answer.status_code != 200]
    if failed or not figures:
        raise RuntimeError(f"The dashboard did not show {failed or 'any figure'}")


def _sizes(path: Path) -> dict[str, float]:
    """Bytes of a finished run folder, and what its rounds say of messages."""
    from dfl_ray.records import load_run

    rounds = load_run(path).rounds
    checkpoint = max((path / "checkpoints").iterdir(), default=None)
    network = tree_bytes(path / "topology") + sum(f.stat().st_size for f in path.glob("partition*"))
    return {
        "message bytes": float(rounds["message_bytes"].sum()),
        "bytes on air": float(rounds["payload_bytes"].sum()),
        "record bytes": float(sum(tree_bytes(table) for table in path.glob("*.parquet") if table.is_dir())),
        "network bytes": float(network),
        "checkpoint bytes": float(0 if checkpoint is None else tree_bytes(checkpoint)),
        "report bytes": float((path / "report.html").stat().st_size),
    }


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def network_alone(words: Sequence[str]) -> Size:
    """Place devices, build graph and radio, and play the rounds without models; write what the radio did.

    Args:
        words: Settings `key=value` of a run.

    Returns:
        Seconds of the set-up and of each round's parts (`requests` in place of training), and bytes as of
        `whole_run`, of the tables `transfers` and `attempts`.
    """
    from dfl_ray.config.load import load_config, resolved_yaml
    from dfl_ray.records import RunFolder
    from dfl_ray.simulation.dry_run import outline

    clock = PartClock()
    config = load_config(None, [*words, "name=run"])
    found = outline(config, clock.step)
    with tempfile.TemporaryDirectory() as runs:
        folder = RunFolder.create(runs, "run", resolved_yaml(config))
        try:
            counts = _planned_rounds(config, found, folder, clock)
            folder.finish("done")
        finally:
            folder.close()
        tables = [folder.path / f"{name}.parquet" for name in ("transfers", "attempts")]
        counts["record bytes"] = float(sum(map(tree_bytes, tables)))
    seconds = {"requests" if part == "train" else part: s for part, s in clock.seconds.items()}
    return Size(seconds, {**counts, "links": float(len(found.deployment.topology.edges))})


def _planned_rounds(config: Config, found: Any, folder: RunFolder, clock: PartClock) -> dict[str, float]:
    from dfl_ray.network.traffic import LawfulNetwork
    from dfl_ray.simulation.dry_backend import DryBackend
    from dfl_ray.simulation.radio_tables import attempt_table, bytes_on_air, transfer_table
    from dfl_ray.simulation.round_loop import RoundLoop, WallTimes

    with clock.step("channel"):
        network = LawfulNetwork(found.law, range(config.devices.count))
        channel = found.deployment.channel
        backend = DryBackend(network, channel.make(), found.tokens, found.law_on)
    loop = RoundLoop(backend, channel.classes, found.graph.relays, found.flops_per_token)
    names = [str(task) for task in range(found.tasks)]
    sums: dict[str, float] = defaultdict(float)
    for round_index in range(1, config.rounds + 1):
        done = loop.play(round_index, WallTimes(clock.stage))
        tables = {
            "transfers": transfer_table(done.plan, done.hops, done.requests, names),
            "attempts": attempt_table(done.plan),
        }
        folder.append(tables, round_index)
        clock.update({})
        sums["message bytes"] += float(done.requests.payload_bytes[done.arrived].sum())
        sums["bytes on air"] += float(bytes_on_air(done.plan))
    return dict(sums)


def load_code(words: Sequence[str], alone: bool) -> None:
    """Run something small twice, so that what follows imports and compiles nothing.

    Garbage is collected as seldom as by the command line.

    Args:
        words: Settings of a small run.
        alone: See `measured`.
    """
    collect_seldom()
    for exact in (5000, 2):  # both ways of the radio's interference
        (network_alone if alone else whole_run)([*words, f"radio.dense_devices={exact}"])


def measured(words: Sequence[str], alone: bool, repeats: int, most_s: float) -> Size:
    """Measure one size.

    Args:
        words: Settings of a run.
        alone: Whether the network and the radio alone are measured.
        repeats: Most repeats.
        most_s: No other repeat begins once they have taken so many processor seconds.

    Returns:
        The least seconds of each part; `peak bytes` is by how much the process's memory has grown at most.
    """
    before, began, found = _peak_bytes(), time.process_time(), list[Size]()
    while len(found) < repeats and (not found or time.process_time() - began < most_s):
        found.append((network_alone if alone else whole_run)(words))
    least = {part: min(one.seconds[part] for one in found) for part in found[0].seconds}
    return Size(least, {**found[-1].counts, "peak bytes": _peak_bytes() - before, "repeats": len(found)})


def _peak_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
