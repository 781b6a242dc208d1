"""Starting and resuming runs: what the command line and notebooks call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.config.run_name import automatic_name
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, Interrupted, LostError, RunError, resume_line, way_on_told
from dfl_ray.records import RunFolder, load_run
from dfl_ray.records.folder_checks import check_free, check_runs_dir
from dfl_ray.records.info import State
from dfl_ray.simulation.backend import Backend
from dfl_ray.simulation.building import Hosts, built
from dfl_ray.simulation.checkpoint import Checkpoint, drop_later
from dfl_ray.simulation.copies import copy_out, local_runs, mirrored
from dfl_ray.simulation.epsilon import record_privacy
from dfl_ray.simulation.fingerprint import KEY, fingerprint, refuse_changed_inputs
from dfl_ray.simulation.first_records import note_other_scores, record_network, record_notes
from dfl_ray.simulation.resuming import (
    not_written,
    only_to_close,
    own_config,
    refuse_ended,
    said_of_done,
    saved_state,
)
from dfl_ray.simulation.stopping import stop_on_signals
from dfl_ray.tracking.progress import Progress, make_progress
from dfl_ray.tracking.ray_metrics import with_ray_metrics
from dfl_ray.tracking.recorded import RecordedProgress
from dfl_ray.tracking.tracker import Tracker, make_tracker

if TYPE_CHECKING:
    from actors.forks import ForkServer
    from dfl_ray.simulation.driver import Driver
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
    config: Config,
    *,
    verbose: bool = False,
    json: bool = False,
    quiet: bool = False,
    server: ForkServer | None = None,
    on_round_end: Callable[[Path], bool] = lambda _folder: False,
) -> Outcome:
    """Run an experiment to its end.

    Args:
        config: The experiment.
        verbose: Show what libraries say.
        json: Show nothing but what the caller prints.
        quiet: Show nothing; `log.txt` in the run folder has it all.
        server: A fork server started earlier, which the run uses or ends; None starts one if it is of use.
        on_round_end: Called with the run's folder after every round; True ends the run there as done.

    Returns:
        The run's folder and final figures.

    Raises:
        InputError: The input is wrong; nothing was written, and nothing runs on.
        RunError: The run failed; what it had saved stays.
        Interrupted: The user stopped it; it has been saved.
    """
    from dfl_ray.config.load import resolved_yaml
    from dfl_ray.config.locations import with_absolute_paths

    config = with_absolute_paths(config)
    runs_dir, name = local_runs(config), config.name or automatic_name(config)
    if config.name is None:
        check_runs_dir(Path(runs_dir))
    else:
        check_free(Path(runs_dir) / name)
    with (
        RecordedProgress(make_progress(quiet=json or quiet)) as progress,
        nullcontext(make_tracker(config.track, say=progress.say, verbose=verbose)) as tracker,
        built(config, progress, verbose=verbose, server=server) as (experiment, hosts),
    ):
        for note in experiment.notes:
            progress.say(note)
        folder = RunFolder.create(
            runs_dir, name, resolved_yaml(experiment.config), suffix_if_taken=config.name is None
        )
        with way_on_told(_way_on(folder.path)):
            folder = _begun(folder, experiment, hosts, progress)
            return _carry_out(experiment, folder, None, hosts, progress, tracker, on_round_end)


def _way_on(folder: Path) -> str:
    return f"What was saved stays; go on with: {resume_line(folder)}"


def _begun(folder: RunFolder, experiment: Experiment, hosts: Hosts, progress: RecordedProgress) -> RunFolder:
    """Take up a new run folder: its copy, its log and what the run begins with; one that fails here says so."""
    try:
        hosts.note_run(folder.path)
        folder = mirrored(folder)
        progress.open(folder.path)
        with progress.stage("fingerprint"):
            folder.update_info(**{KEY: fingerprint(experiment)})
        copy_out(folder)
    except BaseException as error:
        with suppress(Exception):  # what has happened tells more
            if isinstance(error, KeyboardInterrupt):
                folder.finish("interrupted")
            else:
                folder.finish("failed", failed_by=str(error) or repr(error))
        folder.close()
        if isinstance(error, OSError):
            raise not_written(error, folder.path) from error
        raise
    return folder


def resume(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    verbose: bool = False,
    json: bool = False,
    quiet: bool = False,
    changed: bool = False,
    server: ForkServer | None = None,
    on_round_end: Callable[[Path], bool] = lambda _folder: False,
) -> Outcome:
    """Go on with a run from its newest checkpoint, or from its start if none was due yet.

    One that is done and has no round left stays as it is.

    Args:
        path: The run folder.
        overrides: Texts `a.b=c` of keys that may change on the way, `rounds` to lengthen the run; see `lengthen`.
        verbose: Show what libraries say.
        json: Show nothing but what the caller prints.
        quiet: See `launch`.
        changed: Go on although rows, weights or code are others than the run began with; it is noted in `run.json`.
        server: See `launch`.
        on_round_end: See `launch`.

    Returns:
        The run's folder and final figures.

    Raises:
        InputError: No run, one in use or damaged, or its checkpoints, configuration or inputs are gone or others than
            they were.
        RunError: The run failed again.
        Interrupted: The user stopped it again.
    """
    from dfl_ray.config.load import resolved_yaml
    from dfl_ray.records.info import write_text_atomically
    from dfl_ray.simulation.lengthen import resumed_config, way_noted

    own = own_config(path)
    folder = mirrored(RunFolder.open(path))
    try:
        if said := said_of_done(folder, own, overrides):
            make_progress(quiet=json or quiet).say(said)
            return _as_it_is(path)
        checkpoint, notes = saved_state(folder, own)
        done = checkpoint.round_index if checkpoint else 0
        config = resumed_config(own, overrides, str(path / "config.yaml"), done)
        if not (closing := only_to_close(folder.info, checkpoint, own, config)):
            refuse_ended(path, folder.info, checkpoint, config)
        with way_on_told(_way_on(path)), RecordedProgress(make_progress(quiet=json or quiet)) as progress:
            tracker, inputs = make_tracker(config.track, say=progress.say, verbose=verbose), dict[str, Any]()
            for note in (*notes, *_what_is_resumed(path, done, own, config, closing)):
                progress.say(note)

            def check(experiment: Experiment) -> None:
                inputs.update(_compared_inputs(folder, experiment, progress, changed))
                progress.open(path)  # with all that was said before

            with built(config, progress, verbose=verbose, server=server, folder=path, check=check) as (
                experiment,
                hosts,
            ):
                inputs |= way_noted({**folder.info, **inputs}, own, config, done, closing=closing)
                if overrides:
                    write_text_atomically(path / "config.yaml", resolved_yaml(config))
                # Only now: a run that is not gone on with stays as it was, but for its log if it was not refused.
                folder.update_info(**inputs)
                folder.begin(ended=closing)
                folder.truncate(done if checkpoint else -1)
                drop_later(folder.checkpoints, done)
                return _carry_out(experiment, folder, checkpoint, hosts, progress, tracker, on_round_end)
    finally:
        folder.close()


def _as_it_is(folder: Path) -> Outcome:
    from dfl_ray.records.results import summary

    report = folder / "report.html"
    return Outcome(folder, {**summary(load_run(folder)), "report": str(report) if report.is_file() else None})


def _what_is_resumed(path: Path, done: int, own: Config, config: Config, closing: bool) -> list[str]:
    from dfl_ray.simulation.lengthen import changed_measures

    what = f"Resuming {path} after round {done} of {config.rounds}"
    if closing:
        what = f"Finishing {path}, which ended after round {done} and died before its adapters and report were written"
    return [what, *changed_measures(own, config, done)]


def _compared_inputs(
    folder: RunFolder, experiment: Experiment, progress: Progress, changed: bool
) -> dict[str, Any]:
    """Refuse other inputs than the run began with, or with `changed` note them; what `run.json` is to hold of them."""
    with progress.stage("fingerprint"):
        found = fingerprint(experiment)
    try:
        refuse_changed_inputs(folder.path, folder.info, found)
    except InputError as error:
        if not changed:
            raise
        progress.say(f"Going on all the same: {error.got}")
        return {KEY: found, "changes": [*folder.info.get("changes", ()), error.got]}
    return {KEY: found}


def _carry_out(
    experiment: Experiment,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    hosts: Hosts,
    progress: Progress,
    tracker: Tracker,
    on_round_end: Callable[[Path], bool] = lambda _folder: False,
) -> Outcome:
    from dfl_ray.simulation.driver import Driver

    config = experiment.config
    if config.runtime.backend == "ray":  # its own metrics follow the run too
        tracker = with_ray_metrics(tracker, folder.path.name, progress.say)
    backend: Backend | None = None
    state: State = "failed"
    try:
        if checkpoint is None:
            record_network(folder, experiment)
        with progress.step("actors" if config.runtime.backend == "ray" else "devices"):
            backend = hosts.ready()
        folder.update_info(forked_actors=backend.forked)
        note_other_scores(folder, experiment, checkpoint, progress)
        record_notes(folder, experiment, checkpoint)
        with progress.stage("trackers"):
            tracker.start(folder, config.model_dump(mode="json"), (folder.info.get("wandb") or {}).get("id"))
        with stop_on_signals(folder.path, config.runtime.grace_s) as stop_wanted:
            driver = Driver(experiment, backend, folder, tracker, progress, stop_wanted, on_round_end)
            _play(driver, folder, checkpoint)
        _say_crossing(folder, backend, progress)
        record_privacy(folder, experiment.setup, progress)
        state = "done"
    except (Interrupted, KeyboardInterrupt):
        state = "interrupted"
        raise
    except LostError as error:
        raise RunError(f"{error} {_way_on(folder.path)}") from error
    except RunError as error:
        raise RunError(f"{error} The run folder is {folder.path}.") from error
    except OSError as error:
        raise not_written(error, folder.path) from error
    finally:
        _end(backend, folder, state, tracker, progress)
    outcome = _close(folder, tracker, progress, config.runtime.report)
    copy_out(folder, progress.say)
    return outcome


def _play(driver: Driver, folder: RunFolder, checkpoint: Checkpoint | None) -> None:
    """Play the rounds behind a checkpoint; where it is that of the end, write the adapters that are not there yet."""
    if checkpoint is None:
        driver.run()
        return
    driver.restore(checkpoint)
    info, done = folder.info, checkpoint.round_index
    ended = info.get("ended_early_after") == done
    if not ended:
        driver.run(done)
    if (ended or done == driver.config.rounds) and info.get("adapters_after") != done:
        driver.save_adapters(checkpoint)


def _end(
    backend: Backend | None, folder: RunFolder, state: State, tracker: Tracker, progress: Progress
) -> None:
    """Record what became of the actors and of the run, and end the actors; every step is tried.

    Raises:
        RunError: A step failed in a run that was done; after another error a failure is only told.
    """
    why = {"failed_by": str(error) or repr(error)} if state == "failed" and (error := sys.exception()) else {}
    steps: list[Callable[[], object]] = [progress.finish, lambda: folder.finish(state, **why)]
    if backend is not None:
        host = backend
        steps[1:1] = [lambda: _record_actors(folder, host), host.close]
    if state != "done":
        steps += [lambda: tracker.finish(None, failed=True), lambda: copy_out(folder)]
    errors: list[Exception] = []
    for step in steps:
        try:
            with progress.stage("end of the run"):
                step()
        except Exception as error:
            errors.append(error)
    folder.close()
    if errors and state == "done":
        raise not_written(errors[0], folder.path) from errors[0]
    for error in errors:
        progress.say(f"At the end of the run: {error}")


def _record_actors(folder: RunFolder, backend: Backend) -> None:
    restarts = folder.info.get("restarts", 0) + backend.restarts
    folder.update_info(restarts=restarts, forked_actors=backend.forked)


def _say_crossing(folder: RunFolder, backend: Backend, progress: Progress) -> None:
    """On several nodes, the share of message bytes that stayed inside them."""
    from dfl_ray.records.results import inside_nodes

    if backend.nodes == 1:
        return
    share = inside_nodes(load_run(folder.path))
    if share is not None:
        progress.say(f"{100 * share:.1f} % of the message bytes stayed inside the {backend.nodes} nodes")


def _close(folder: RunFolder, tracker: Any, progress: Progress, with_report: bool) -> Outcome:
    from dfl_ray.records.results import summary
    from dfl_ray.tracking.summary import closing_table

    with progress.stage("report"):
        report = _report(folder.path) if with_report else None
        run = load_run(folder.path)
        figures = summary(run)
    with progress.stage("trackers"):
        tracker.finish(figures)
    progress.finish(closing_table(run, report))
    return Outcome(folder.path, {**figures, "report": report and str(report)})


def _report(folder: Path) -> Path:
    from dfl_ray.views.report import write_report

    return write_report([folder], folder / "report.html")
