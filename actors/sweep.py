"""Runs of a sweep side by side, with Ray Tune: as many at once as the resources allow, each in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, Interrupted, RunError
from dfl_ray.simulation.sweep import is_done

FAILED = "failed"
"""Key of a trial's result under which it says why it failed."""


def run_trials(folder: Path, configs: Sequence[Config], say: Callable[[str], None]) -> dict[str, str]:
    """Run every configuration that is not done; one that has begun goes on.

    Args:
        folder: The sweep's folder; each configuration has its `name` in it.
        configs: The runs, with `runtime.backend: local`.
        say: Is told what happens, also of every run that ends.

    Returns:
        Name -> why, for the runs that failed; the others are kept.

    Raises:
        InputError: Ray Tune is not installed, or no machine has the CPUs or GPUs of one run.
        Interrupted: The user stopped the sweep; runs that have begun go on with the same words.
    """
    # With it, Tune prints a table of its own whatever `verbose` says.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        from ray import tune
    except ImportError:
        raise InputError(
            "A sweep needs Ray Tune", got="it is not installed", change="`pip install 'dfl-ray[tune]'`"
        ) from None
    waiting = [config for config in configs if not is_done(folder / str(config.name), config.rounds)]
    say(f"{len(waiting)} of {len(configs)} runs to do in {folder}")
    if not waiting:
        return {}
    with _ray(waiting[0]):
        threads = max(config.runtime.threads for config in waiting)
        gpus = max(config.runtime.gpus_per_actor for config in waiting)
        _check_room(threads, gpus)
        texts = [config.model_dump_json() for config in waiting]
        tuner = tune.Tuner(
            tune.with_resources(_run_one, {"cpu": threads, "gpu": gpus}),
            param_space={"config": tune.grid_search(texts)},
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder.absolute()),
                verbose=0,
                callbacks=[_told(len(waiting), say)],
            ),
        )
        results = tuner.fit()
    # In the grid's order; a trial that never ran knows no name.
    reasons = {str(config.name): _reason(results[number]) for number, config in enumerate(waiting)}
    failed = {name: why for name, why in reasons.items() if why is not None}
    done = len(configs) - len(waiting)
    done += sum(is_done(folder / str(config.name), config.rounds) for config in waiting)
    if done + len(failed) < len(configs):  # Tune itself takes Ctrl-C and returns
        raise Interrupted(
            f"Interrupted: {done} of {len(configs)} runs are done. Go on with the same words and name={folder.name}"
        )
    return failed


def _reason(result: Any) -> str | None:
    """Why a trial failed, whole; None of one that did not."""
    from ray.exceptions import RayTaskError

    error = result.error
    if error is None:
        return (result.metrics or {}).get(FAILED)
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {cause}".strip()


def _check_room(threads: int, gpus: float) -> None:
    """Refuse runs that no machine can hold: Tune would wait for ever."""
    from actors.nodes import alive_nodes

    nodes = alive_nodes()
    if any(node.cpus >= threads and node.gpus >= gpus for node in nodes):
        return
    have = sorted({f"{node.cpus:g} CPU and {node.gpus:g} GPU" for node in nodes})
    raise InputError(
        "No machine can hold a run of this sweep",
        got=f"runtime.threads={threads}, runtime.gpus_per_actor={gpus:g}",
        expected=f"CPUs for the threads, and GPUs, of one machine: at most {' or '.join(have) or 'none at all'}",
        change="Lower `runtime.threads` or `runtime.gpus_per_actor`, or join a larger cluster by `runtime.address`.",
    )


def _told(count: int, say: Callable[[str], None]) -> Any:
    """What has Tune tell of every run that ends, of so many."""
    from ray import tune

    class Told(tune.Callback):
        """Says a line for each; Tune saves it, without whom it tells."""

        ended = 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._tell(trial, "has failed" if FAILED in trial.last_result else "is done")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._tell(trial, "has failed")

        def _tell(self, trial: Any, how: str) -> None:
            self.ended += 1
            say(f"{json.loads(trial.config['config'])['name']} {how} ({self.ended} of {count})")

        def __reduce__(self) -> tuple[Any, ...]:
            return tune.Callback, ()

    return Told()


@contextmanager
def _ray(config: Config) -> Iterator[None]:
    """Ray for a sweep: the caller's, a cluster's, or one started here and ended again."""
    import ray

    from actors import cluster
    from actors.session import private_folder

    if ray.is_initialized():
        yield
        return
    with ExitStack() as ended:
        session = None
        if config.runtime.address is None:
            session = cluster.session_settings(config.runtime.object_store_mb)[0]
            session["_temp_dir"] = ended.enter_context(private_folder(session["_temp_dir"]))
        ended.callback(cluster.stop)
        # Tune gives each trial an environment of its own.
        cluster.start(config.runtime, session=session, environments=True)
        yield


def _run_one(given: dict[str, Any]) -> dict[str, Any]:
    """One trial: begin the run, or go on with it; its accuracy, or of one that fails for a known reason the reason."""
    from dfl_ray.simulation.launch import launch, resume

    config = Config.model_validate_json(given["config"])
    folder = Path(config.runtime.runs_dir) / str(config.name)
    begun = (folder / "run.json").is_file()
    try:
        outcome = (
            resume(folder, _as_wanted(folder, config), json=True) if begun else launch(config, json=True)
        )
    except Interrupted:
        raise
    except (InputError, RunError) as error:  # Tune would print the tracebacks of what is raised
        return {FAILED: str(error)}
    return {"accuracy": float(outcome.summary["accuracy_mean"] or 0.0)}


def _as_wanted(folder: Path, config: Config) -> list[str]:
    """Overrides with which a run that has begun goes on as the sweep says now, to the rounds that are wanted."""
    from dfl_ray.simulation.lengthen import as_given
    from dfl_ray.simulation.resuming import own_config

    own = own_config(folder)
    longer = [f"rounds={config.rounds}"] if own.rounds < config.rounds else []
    return [*longer, *as_given(own, config, folder)]
