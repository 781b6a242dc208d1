"""From a configuration to an experiment and its devices' hosts: all that is made before the first round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dfl_ray.config.schema import Config, RuntimeConfig
from dfl_ray.packing.machine import local_resources
from dfl_ray.packing.store import object_store_mb
from dfl_ray.simulation.backend import Backend, LocalBackend
from dfl_ray.simulation.chosen_packing import check_least, choose_packing, in_words, ordinary_after_all
from dfl_ray.tasks.load import LoadedTasks, read_tasks
from dfl_ray.tracking.progress import Progress

if TYPE_CHECKING:
    from actors import cluster
    from actors.forks import ForkServer
    from actors.pool import RayBackend
    from dfl_ray.packing.actors import Packing
    from dfl_ray.simulation.experiment import Experiment


class Hosts(Protocol):
    """What will hold a run's devices, while it is being made."""

    def note_run(self, folder: Path) -> None:
        """Take down the run's folder as soon as it is there, for what is said if Ray dies."""
        ...

    def ready(self) -> Backend:
        """Wait until the devices are ready."""
        ...


@contextmanager
def built(
    config: Config,
    progress: Progress,
    *,
    verbose: bool = False,
    server: ForkServer | None = None,
    folder: Path | None = None,
    check: Callable[[Experiment], object] = lambda _experiment: None,
) -> Iterator[tuple[Experiment, Hosts]]:
    """Build the experiment while Ray starts beside it, and have its actors made.

    The rows are read and the resources compared first, so that most wrong input is refused before Ray is there. The
    experiment is whole, and checked, before an actor is asked for. In a Ray that was started here actors are being made
    while the caller opens the run's folder; on a joined cluster, where they may wait for room, when they are awaited.

    Args:
        config: The experiment.
        progress: Shows the set-up steps.
        verbose: Show what libraries say.
        server: A fork server started earlier, which the run uses or ends; None starts one if it is of use.
        folder: The folder of a run that goes on.
        check: Called with the experiment; what it raises ends all before an actor is asked for.

    Yields:
        The experiment and its devices' hosts. Ray ends with the context; the backend is closed by who asked for it.

    Raises:
        InputError: The input is wrong; nothing was written.
        RunError: Ray does not start.
    """
    if config.runtime.backend == "local" and server is not None:
        server.close()
    with progress.step("tasks"):
        loaded = read_tasks(config)
    if config.runtime.backend == "ray":
        with _on_ray(config, loaded, progress, verbose, server, folder) as (experiment, starting, runtime):
            check(experiment)
            with _actors(runtime, experiment, starting, progress) as hosts:
                yield experiment, hosts
        return
    from threadpoolctl import threadpool_limits

    from dfl_ray.simulation.experiment import build_experiment

    experiment = build_experiment(config, progress.step, loaded)
    check(experiment)
    with threadpool_limits(config.runtime.threads, user_api="blas"):  # torch is held to them by the group
        yield experiment, _Here(experiment)


@contextmanager
def _on_ray(
    config: Config,
    loaded: LoadedTasks,
    progress: Progress,
    verbose: bool,
    server: ForkServer | None,
    folder: Path | None,
) -> Iterator[tuple[Experiment, cluster.Starting, RuntimeConfig]]:
    from actors import cluster

    runtime = cluster.of_the_caller(config.runtime)
    if runtime.address is None:
        check_least(runtime, config.devices.count, local_resources())
    # A fork server that came with the call is the command line's, whose process is the run's alone.
    ours = server is not None
    store_mb = object_store_mb(config)
    with cluster.Starting(
        runtime, verbose=verbose, store_mb=store_mb, server=server, ends_process=ours
    ) as starting:
        if folder is not None:
            starting.note_run(folder)
        for note in starting.notes:
            progress.say(note)
        from dfl_ray.simulation.experiment import build_experiment

        experiment = build_experiment(
            config,
            progress.step,
            loaded,
            lambda weights: starting.prepare(weights.config_json, weights.longest),
        )
        yield experiment, starting, runtime


@contextmanager
def _actors(
    runtime: RuntimeConfig, experiment: Experiment, starting: cluster.Starting, progress: Progress
) -> Iterator[_Actors]:
    """Wait for Ray, decide the packing for the workers there will be, and have the actors made."""
    from actors import cluster

    if runtime.address is None:
        choose_packing(experiment, local_resources())
    with progress.step("Ray"):
        resources = starting.resources()
        refusal = starting.why_no_forks()
    chosen = choose_packing(experiment, resources, cluster.nodes(), forks=refusal is None)
    progress.say(in_words(chosen, len(experiment.topology.cluster), refusal))
    hosts = _Actors(experiment, starting, progress, chosen, forks=refusal is None)
    try:
        if runtime.address is None:
            hosts.begin()
        yield hosts
    except BaseException:
        with suppress(Exception):  # what is under way tells more
            hosts.end()
        raise


class _Here:
    """The devices of a run in this process; see `Hosts`."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def note_run(self, folder: Path) -> None:
        """See `Hosts.note_run`; without Ray nothing can die but this process."""

    def ready(self) -> Backend:
        """See `Hosts.ready`."""
        return LocalBackend(self._experiment.setup, self._experiment.channel)


class _Actors:
    """Ray actors; see `Hosts`."""

    def __init__(
        self,
        experiment: Experiment,
        starting: cluster.Starting,
        progress: Progress,
        chosen: Packing,
        *,
        forks: bool,
    ) -> None:
        self._experiment, self._starting, self._progress = experiment, starting, progress
        self._chosen, self._forks = chosen, forks
        self._backend: RayBackend | None = None

    def begin(self) -> RayBackend:
        """Have the actors made, unless they are; on a cluster without room this waits for some."""
        from actors.pool import RayBackend

        if self._backend is None:
            e = self._experiment
            self._backend = RayBackend(
                e.setup, e.channel, self._chosen, self._progress.say, self._starting.services_lost
            )
        return self._backend

    def note_run(self, folder: Path) -> None:
        """See `Hosts.note_run`."""
        self._starting.note_run(folder)

    def ready(self) -> Backend:
        """See `Hosts.ready`."""
        backend = self.begin()
        backend.await_ready()
        if self._forks and backend.forked < backend.actors:
            self._progress.say(ordinary_after_all(backend, self._chosen))
        return backend

    def end(self) -> None:
        """End what has been made, if Ray is there to do it."""
        if self._backend is not None and not self._starting.services_lost():
            self._backend.close()
