"""Starting and resuming runs: what the command line and notebooks call."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.config.schema import Config, RuntimeConfig
from dfl_ray.errors import Interrupted, RunError
from dfl_ray.records import RunFolder, load_run, topology_tables
from dfl_ray.records.info import State
from dfl_ray.simulation.backend import Backend, LocalBackend
from dfl_ray.simulation.checkpoint import Checkpoint, load_checkpoint
from dfl_ray.tracking.progress import Progress, make_progress
from dfl_ray.tracking.tracker import make_tracker

if TYPE_CHECKING:
    from actors import cluster
    from actors.forks import ForkServer
    from actors.pool import RayBackend
    from dfl_ray.packing.actors import Packing
    from dfl_ray.packing.partition import Node
    from dfl_ray.simulation.experiment import Experiment


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        folder: The run folder.
        summary: Its final figures, JSON-able.
    """

    folder: Path
    summary: Mapping[str, Any]


def launch(
    config: Config, *, verbose: bool = False, json: bool = False, server: ForkServer | None = None
) -> Outcome:
    """Run an experiment to its end.

    Args:
        config: The experiment.
        verbose: Show what libraries say.
        json: Show nothing but what the caller prints.
        server: A fork server started earlier, which the run uses or ends; None starts one if it is of use.

    Returns:
        The run's folder and final figures.

    Raises:
        InputError: The input is wrong; nothing was written or started.
        RunError: The run failed; what it had saved stays.
        Interrupted: The user stopped it; it has been saved.
    """
    from dfl_ray.config.load import resolved_yaml

    progress = make_progress(quiet=json)
    with _building(config, progress, verbose, server) as (experiment, make_backend):
        for note in experiment.notes:
            progress.say(note)
        folder = RunFolder.create(
            config.runtime.runs_dir, config.name or automatic_name(config), resolved_yaml(config),
            suffix_if_taken=config.name is None,
        )  # fmt: skip
        return _carry_out(experiment, folder, None, make_backend, progress, verbose)


def resume(
    path: Path, *, verbose: bool = False, json: bool = False, server: ForkServer | None = None
) -> Outcome:
    """Go on with a run from its newest checkpoint, or from its start if it has none.

    Args:
        path: The run folder.
        verbose: Show what libraries say.
        json: Show nothing but what the caller prints.
        server: See `launch`.

    Returns:
        The run's folder and final figures.

    Raises:
        InputError: No run, one in use, or its inputs are gone.
        RunError: The run failed again.
        Interrupted: The user stopped it again.
    """
    from dfl_ray.config.load import load_config

    config = load_config(str(path / "config.yaml"), [])
    progress = make_progress(quiet=json)
    folder = RunFolder.open(path)
    try:
        checkpoint = load_checkpoint(folder.checkpoints)
        done = checkpoint.round_index if checkpoint else 0
        progress.say(f"Resuming {path} after round {done} of {config.rounds}")
        with _building(config, progress, verbose, server) as (experiment, make_backend):
            folder.truncate(done if checkpoint else -1)
            return _carry_out(experiment, folder, checkpoint, make_backend, progress, verbose)
    except BaseException:
        folder.close()
        raise


def automatic_name(config: Config) -> str:
    """Run name from method, seed and time."""
    return f"{config.method.name}-s{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def _building(
    config: Config, progress: Progress, verbose: bool, server: ForkServer | None
) -> Iterator[tuple[Experiment, Callable[[], Backend]]]:
    """Build the experiment while Ray starts beside it; yields the experiment and what makes the backend.

    The rows are read and the resources compared first, so that most wrong input is refused before Ray is there. All
    of it is before any actor is.
    """
    from dfl_ray.tasks.load import read_tasks

    if config.runtime.backend == "local" and server is not None:
        server.close()
    with progress.step("tasks"):
        loaded = read_tasks(config)
    if config.runtime.backend == "local":
        from dfl_ray.simulation.experiment import build_experiment

        experiment = build_experiment(config, progress.step, loaded)
        yield experiment, lambda: LocalBackend(experiment.setup, experiment.channel)
        return
    from actors import cluster

    if config.runtime.address is None:
        _check_least(config.runtime, config.devices.count, cluster.local_resources())
    with cluster.Starting(config.runtime, verbose=verbose, server=server) as starting:
        for note in starting.notes:
            progress.say(note)
        from dfl_ray.simulation.experiment import build_experiment

        experiment = build_experiment(config, progress.step, loaded)
        starting.prepare(experiment.setup.weights.config_json)
        yield experiment, _backend_maker(config.runtime, experiment, starting, progress)


def _backend_maker(
    runtime: RuntimeConfig, experiment: Experiment, starting: cluster.Starting, progress: Progress
) -> Callable[[], Backend]:
    """Wait for Ray, decide the packing for the workers there will be, and return what makes the actors."""
    from actors import cluster

    if runtime.address is None:
        choose_packing(experiment, cluster.local_resources())
    with progress.step("Ray"):
        resources = starting.resources()
        refusal = starting.why_no_forks()
    chosen = choose_packing(experiment, resources, cluster.nodes(), forks=refusal is None)
    progress.say(_in_words(chosen, len(experiment.topology.cluster), refusal))
    from actors.pool import RayBackend

    def make() -> Backend:
        backend = RayBackend(experiment.setup, experiment.channel, chosen, progress.say)
        if refusal is None and backend.forked < backend.actors:
            progress.say(_ordinary_after_all(backend, chosen))
        return backend

    return make


def _check_least(runtime: RuntimeConfig, devices: int, resources: Mapping[str, float]) -> None:
    """Refuse at once what does not fit whatever the model: actors, CPUs and GPUs are known from the settings."""
    import numpy as np

    from dfl_ray.packing.actors import check_fits, pack

    check_fits(pack(runtime, np.zeros(devices, np.int64), resources, 0.0), resources)


def choose_packing(
    experiment: Experiment,
    resources: Mapping[str, float],
    nodes: Sequence[Node] = (),
    *,
    forks: bool | None = None,
) -> Packing:
    """Decide which actor hosts which devices, on which node, and check that all of it fits.

    Args:
        experiment: The run.
        resources: What the cluster has in sum.
        nodes: Its machines; none or one leaves nothing to place.
        forks: Whether actors are forks; None means as `dfl_ray.packing.workers.why_no_forks` expects.

    Returns:
        The packing.

    Raises:
        InputError: It does not fit.
    """
    from dfl_ray.network.traffic import message_graph
    from dfl_ray.packing.actors import check_fits, pack

    messages = None
    if len(nodes) > 1:
        config = experiment.config
        messages = message_graph(experiment.traffic_law(), config.devices.count, config.rounds)
    chosen = pack(
        experiment.config.runtime,
        experiment.topology.cluster,
        resources,
        _state_mb(experiment),
        nodes=nodes,
        messages=messages,
        forks=forks,
    )
    check_fits(chosen, resources, nodes)
    return chosen


def _in_words(chosen: Packing, devices: int, refusal: str | None) -> str:
    """The packing in a line, with the way its workers are made."""
    ways = "forks of one process" if refusal is None else f"ordinary workers, since {refusal}"
    line = f"{devices} devices in {len(chosen.groups)} actors ({chosen.reason}), about {chosen.memory_mb:.0f} MB each"
    if chosen.nodes:
        per_node = ", ".join(str(n) for n in Counter(chosen.nodes).values())
        line = f"{line}; {per_node} actors on {len(set(chosen.nodes))} nodes"
    return f"{line}; {ways}"


def _ordinary_after_all(backend: RayBackend, chosen: Packing) -> str:
    """What is said when the fork server, asked before, has not forked for all actors."""
    from dfl_ray.packing.workers import empty_actor_mb

    each = chosen.memory_mb + empty_actor_mb(False) - empty_actor_mb(True)
    return (
        f"{backend.actors - backend.forked} of {backend.actors} actors are ordinary workers, about {each:.0f} MB "
        "each: the fork server has died or refused"
    )


def _state_mb(experiment: Experiment) -> float:
    from dfl_ray.methods.spec import method_spec
    from dfl_ray.packing.actors import device_state_mb

    per_task = method_spec(experiment.config.method).per_task
    return device_state_mb(
        experiment.layout.size, max(map(len, experiment.setup.held.values())) if per_task else 1
    )


def _carry_out(
    experiment: Experiment,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    make_backend: Callable[[], Backend],
    progress: Progress,
    verbose: bool,
) -> Outcome:
    from dfl_ray.simulation.driver import Driver

    config = experiment.config
    tracker = make_tracker(config.track, name=folder.path.name, say=progress.say, verbose=verbose)
    backend: Backend | None = None
    state: State = "failed"
    try:
        with progress.step("actors" if config.runtime.backend == "ray" else "devices"):
            backend = make_backend()
        folder.update_info(forked_actors=backend.forked)
        if checkpoint is None:
            nodes, edges = topology_tables(experiment.topology, [t.name for t in experiment.setup.tasks])
            folder.write_topology(nodes, edges, round=1)
        _record_notes(folder, experiment)
        tracker.start(folder, config.model_dump(mode="json"), (folder.info.get("wandb") or {}).get("id"))
        with _stop_on_interrupt(progress) as stop_wanted:
            driver = Driver(experiment, backend, folder, tracker, progress, stop_wanted)
            if checkpoint is not None:
                driver.restore(checkpoint)
            driver.run(checkpoint.round_index if checkpoint else 0)
        _say_crossing(folder, backend, progress)
        state = "done"
    except Interrupted:
        state = "interrupted"
        raise
    except RunError as error:
        raise RunError(f"{error} The run folder is {folder.path}.") from error
    finally:
        progress.finish()
        _end(backend, folder, state)
        if state != "done":
            tracker.finish(None, failed=True)
    return _close(folder, tracker, progress)


def _end(backend: Backend | None, folder: RunFolder, state: State) -> None:
    """Record what became of the actors and of the run, and end the actors."""
    if backend is not None:
        restarts = folder.info.get("restarts", 0) + backend.restarts
        folder.update_info(restarts=restarts, forked_actors=backend.forked)
        backend.close()
    folder.finish(state)


def _record_notes(folder: RunFolder, experiment: Experiment) -> None:
    """Write into `run.json` what was told when the run was set up, and how each task is scored."""
    from dfl_ray.tasks.score_words import score_lines, score_records

    tasks = experiment.setup.tasks
    warnings = [note for note in experiment.notes if note not in score_lines(tasks)]
    folder.update_info(warnings=warnings, scores=score_records(tasks))


def _say_crossing(folder: RunFolder, backend: Backend, progress: Progress) -> None:
    """On several nodes, the share of message bytes that stayed inside them."""
    from dfl_ray.records.results import inside_nodes

    share = inside_nodes(load_run(folder.path))
    if backend.nodes > 1 and share is not None:
        progress.say(f"{100 * share:.1f} % of the message bytes stayed inside the {backend.nodes} nodes")


def _close(folder: RunFolder, tracker: Any, progress: Progress) -> Outcome:
    from dfl_ray.records.results import summary
    from dfl_ray.tracking.summary import closing_table
    from dfl_ray.views.report import write_report

    report = write_report([folder.path], folder.path / "report.html")
    run = load_run(folder.path)
    figures = summary(run)
    tracker.finish(figures)
    progress.finish(closing_table(run, report))
    return Outcome(folder.path, {**figures, "report": str(report)})


@contextmanager
def _stop_on_interrupt(progress: Progress) -> Iterator[Callable[[], bool]]:
    """First Ctrl-C: stop at the next round boundary; second: at once. Elsewhere than in the main thread: never."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted.is_set
        return

    def ask(_signal: int, _frame: object) -> None:
        if wanted.is_set():
            signal.signal(signal.SIGINT, previous)
            raise KeyboardInterrupt
        wanted.set()
        print("\nStopping after this round; press Ctrl-C again to stop at once.", file=sys.stderr)

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield wanted.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
