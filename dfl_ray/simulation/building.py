"""From a configuration to an experiment and its devices' hosts: all that is made before the first round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    from dfl_ray.simulation.experiment import Experiment

MakeBackend = Callable[[Path], Backend]
"""Given the run's folder, the backend whose devices are ready."""


@contextmanager
def building(
    config: Config, progress: Progress, verbose: bool, server: ForkServer | None
) -> Iterator[tuple[Experiment, MakeBackend]]:
    """Build the experiment while Ray starts beside it, and have its actors made.

    The rows are read and the resources compared first, so that most wrong input is refused before Ray is there. All
    of it is before any actor is. Actors are being made while the caller opens the run's folder.

    Args:
        config: The experiment.
        progress: Shows the set-up steps.
        verbose: Show what libraries say.
        server: A fork server started earlier, which the run uses or ends; None starts one if it is of use.

    Yields:
        The experiment and what waits for its devices. Ray and the actors end with the context.

    Raises:
        InputError: The input is wrong; nothing was written.
        RunError: Ray does not start.
    """
    if config.runtime.backend == "local" and server is not None:
        server.close()
    with progress.step("tasks"):
        loaded = read_tasks(config)
    if config.runtime.backend == "ray":
        with _on_ray(config, loaded, progress, verbose, server) as (experiment, make):
            yield experiment, make
        return
    from threadpoolctl import threadpool_limits

    from dfl_ray.simulation.experiment import build_experiment

    experiment = build_experiment(config, progress.step, loaded)
    with threadpool_limits(config.runtime.threads, user_api="blas"):  # torch is held to them by the group
        yield experiment, lambda _folder: LocalBackend(experiment.setup, experiment.channel)


@contextmanager
def _on_ray(
    config: Config, loaded: LoadedTasks, progress: Progress, verbose: bool, server: ForkServer | None
) -> Iterator[tuple[Experiment, MakeBackend]]:
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
        for note in starting.notes:
            progress.say(note)
        from dfl_ray.simulation.experiment import build_experiment

        experiment = build_experiment(
            config, progress.step, loaded, lambda weights: starting.prepare(weights.config_json)
        )
        with _making_actors(runtime, experiment, starting, progress) as make:
            yield experiment, make


@contextmanager
def _making_actors(
    runtime: RuntimeConfig, experiment: Experiment, starting: cluster.Starting, progress: Progress
) -> Iterator[MakeBackend]:
    """Wait for Ray, decide the packing for the workers there will be, and have the actors made; yields what waits."""
    from actors import cluster

    if runtime.address is None:
        choose_packing(experiment, local_resources())
    with progress.step("Ray"):
        resources = starting.resources()
        refusal = starting.why_no_forks()
    chosen = choose_packing(experiment, resources, cluster.nodes(), forks=refusal is None)
    progress.say(in_words(chosen, len(experiment.topology.cluster), refusal))
    from actors.pool import RayBackend

    with progress.stage("actors"):  # of a busy cluster they may wait for room
        backend = RayBackend(
            experiment.setup, experiment.channel, chosen, progress.say, starting.services_lost
        )

    def make(folder: Path) -> Backend:
        starting.note_run(folder)
        backend.await_ready()
        if refusal is None and backend.forked < backend.actors:
            progress.say(ordinary_after_all(backend, chosen))
        return backend

    try:
        yield make
    finally:
        if not starting.services_lost():
            backend.close()
