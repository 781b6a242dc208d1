"""TensorBoard: scalars and histograms as event files in the run folder, written by `tensorboardX`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.yamlio import dump
from dfl_ray.records import RunFolder, load_run
from dfl_ray.tracking.guard import Guard, optional_library
from dfl_ray.tracking.metrics import HISTOGRAM_OF_EXTRA, scalar_metrics, summary_metrics

if TYPE_CHECKING:
    from dfl_ray.config.schema import TrackConfig

FOLDER = "tensorboard"


def tensorboard_tracker(
    track: TrackConfig, *, name: str | None, say: Callable[[str], None], verbose: bool
) -> TensorboardTracker:
    """The tracker `tensorboard`.

    Args:
        track: The section `track`; nothing of it is used.
        name: Name shown for the run; the event files bear none.
        say: Prints one line to the user.
        verbose: Let the library speak for itself; it does not.

    Returns:
        The tracker.

    Raises:
        InputError: tensorboardX is not installed.
    """
    del track, name, verbose
    return TensorboardTracker(say)


class TensorboardTracker:
    """Writes `tensorboard/` in the run folder, with the metric names of W&B and the round as step.

    Args:
        say: Prints one line to the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._library = optional_library("tensorboardX", "tensorboard", "pip install 'dfl-ray[tensorboard]'")
        self._say = say
        self._guard = Guard("TensorBoard", say)
        self._writer: Any = None
        self._folder: Path | None = None
        self._last = 0

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Open the event file; of a resumed run the events after its last round are marked as void."""
        del resume_id
        with self._guard("could not be started"):
            self._folder = run_folder.path / FOLDER
            self._last = load_run(run_folder.path).last_round
            purge = self._last + 1 if self._folder.is_dir() else None
            self._writer = self._library.SummaryWriter(str(self._folder), purge_step=purge)
            self._writer.add_text("config", f"```\n{dump(dict(config))}```", 0)

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Write a round's numbers and histograms; see `Tracker.log_round`."""
        if self._writer is None:
            return
        with self._guard("did not take a round's numbers"):
            step, extras = int(row["round"]), extras or {}
            self._last = step
            for metric, value in scalar_metrics(row, extras).items():
                if metric != "round":
                    self._writer.add_scalar(metric, value, step)
            for name, metric in HISTOGRAM_OF_EXTRA.items():
                values = np.asarray([] if extras.get(name) is None else extras[name], dtype=float).ravel()
                values = values[np.isfinite(values)]
                if values.size:
                    self._writer.add_histogram(metric, values, step)
            self._writer.flush()

    def save_adapters(self, path: Path) -> None:
        """Do nothing: TensorBoard keeps no files, and the run folder has them."""

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Write the final figures under `final/`, close the file and say how to look at it."""
        del failed
        if self._writer is None:
            return
        with self._guard("did not take the final figures"):
            for metric, value in summary_metrics(summary or {}).items():
                self._writer.add_scalar(f"final/{metric}", value, self._last)
            self._writer.close()
        self._say(f"TensorBoard: tensorboard --logdir {self._folder}")
