"""Trackio: a local tracker without an account; its data are one SQLite file a project."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.records import RunFolder
from dfl_ray.tracking.guard import Guard, optional_library
from dfl_ray.tracking.metrics import scalar_metrics, summary_metrics

if TYPE_CHECKING:
    from dfl_ray.config.schema import TrackConfig


def trackio_tracker(
    track: TrackConfig, *, name: str | None, say: Callable[[str], None], verbose: bool
) -> TrackioTracker:
    """The tracker `trackio`; project and group are those of `track.wandb`.

    Args:
        track: The section `track`.
        name: Name shown for the run; None = that of its folder.
        say: Prints one line to the user.
        verbose: Let the library speak for itself.

    Returns:
        The tracker.

    Raises:
        InputError: trackio is not installed.
    """
    return TrackioTracker(track.wandb.project, track.wandb.group, name=name, say=say, verbose=verbose)


class TrackioTracker:
    """Logs each round's numbers, with the metric names of W&B and the round as step.

    Where trackio keeps its files, and whether it sends them anywhere, is said by its own environment variables
    (`TRACKIO_DIR`, `TRACKIO_SERVER_URL`); without them they lie in the user's cache folder and go nowhere.

    Args:
        project: Name of the project.
        group: Group of the run; None = none.
        name: Name of the run; None = that of its folder.
        say: Prints one line to the user.
        verbose: Let the library speak for itself.
    """

    def __init__(
        self, project: str, group: str | None, *, name: str | None, say: Callable[[str], None], verbose: bool
    ) -> None:
        self._library = optional_library("trackio", "trackio", "pip install trackio")
        self._project, self._group, self._name = project, group, name
        self._say, self._verbose = say, verbose
        self._guard = Guard("Trackio", say)
        self._run: Any = None
        self._last = 0

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Begin a run, or go on with that of the same name; see `Tracker.start`."""
        del resume_id
        with self._guard("could not be started"), self._quiet():
            self._run = self._library.init(
                project=self._project,
                name=self._name or run_folder.path.name,
                group=self._group,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Log a round's numbers; see `Tracker.log_round`."""
        if self._run is None:
            return
        with self._guard("did not take a round's numbers"):
            self._last = int(row["round"])
            self._run.log(dict(scalar_metrics(row, extras or {})), step=self._last)

    def save_adapters(self, path: Path) -> None:
        """Do nothing: the run folder has them."""

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Log the final figures under `final/`, end, and say how to look at them."""
        del failed
        if self._run is None:
            return
        with self._guard("did not end in time"), self._quiet():
            final = {f"final/{name}": value for name, value in summary_metrics(summary or {}).items()}
            if final:
                self._run.log(final, step=self._last)
            # The module's own call: it also keeps the library from ending the run once more when Python exits.
            self._library.finish()
        self._say(f"Trackio, to look at: trackio show --project {self._project}")

    def _quiet(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._verbose else contextlib.redirect_stdout(io.StringIO())
