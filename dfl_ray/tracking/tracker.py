"""What the driver asks of a tracker, and the trackers of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dfl_ray.errors import InputError, first_line
from dfl_ray.records import RunFolder
from dfl_ray.tracking.guard import Guard
from dfl_ray.tracking.table import TRACKERS

if TYPE_CHECKING:
    from dfl_ray.config.schema import TrackConfig


class Tracker(Protocol):
    """Follows one run from start to finish; no call of it may stop or delay the run.

    What a tracker of an installed package raises is told in one line, and the run goes on (`GuardedTracker`).
    """

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Begin to follow a run.

        Args:
            run_folder: The run's folder, open for writing.
            config: The resolved configuration.
            resume_id: Identity the tracker gave this run before (`run.json`, `wandb.id`), to continue it.
        """
        ...

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Log one round.

        Args:
            row: One row of `rounds`; columns that are None or NaN are left out. A round that turns out to be the last
                may come again, with its number and what is new in it.
            extras: `accuracy_by_task` (task to mean accuracy), `sinr_db` (array in dB, one value an attempt),
                `device_accuracy` (array, one value a device), `actors` (count); any further number goes under
                its own name.
        """
        ...

    def save_adapters(self, path: Path) -> None:
        """Keep the final adapters (a file or a folder)."""
        ...

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """End: final figures, tables and pictures.

        Args:
            summary: Final numbers, by name.
            failed: The run ended with an error or was interrupted.
        """
        ...


class NullTracker:
    """Tracks nothing (`track=none`, `track.wandb.mode: disabled`)."""

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Do nothing."""

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def save_adapters(self, path: Path) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Do nothing."""


def no_tracker(track: TrackConfig, *, name: str | None, say: Callable[[str], None], verbose: bool) -> Tracker:
    """The tracker `none`, which follows nothing.

    Args:
        track: The section `track`.
        name: Name shown for the run.
        say: Prints one line to the user.
        verbose: Let a tracker's library speak for itself.

    Returns:
        A `NullTracker`.
    """
    del track, name, say, verbose
    return NullTracker()


class GuardedTracker:
    """A tracker of an installed package: the first of its failures is told in one line, and none stops the run.

    One that could not be started is told nothing more.

    Args:
        tracker: The package's own.
        name: Its name in `track.trackers`.
        say: Prints one line to the user.
    """

    def __init__(self, tracker: Tracker, name: str, say: Callable[[str], None]) -> None:
        self.tracker = tracker
        self._guard = Guard(f"Tracker `{name}`", say)
        self._started = False

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """See `Tracker.start`."""
        with self._guard("could not be started"):
            self.tracker.start(run_folder, config, resume_id)
            self._started = True

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """See `Tracker.log_round`."""
        if self._started:
            with self._guard("did not take a round's numbers"):
                self.tracker.log_round(row, extras)

    def save_adapters(self, path: Path) -> None:
        """See `Tracker.save_adapters`."""
        if self._started:
            with self._guard("did not take the adapters"):
                self.tracker.save_adapters(path)

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """See `Tracker.finish`."""
        if self._started:
            with self._guard("did not take the end"):
                self.tracker.finish(summary, failed=failed)


class Trackers:
    """Several trackers as one: each is told everything, in the order of `track.trackers`.

    Args:
        trackers: Those who follow the run.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """See `Tracker.start`."""
        for tracker in self.trackers:
            tracker.start(run_folder, config, resume_id)

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """See `Tracker.log_round`."""
        for tracker in self.trackers:
            tracker.log_round(row, extras)

    def save_adapters(self, path: Path) -> None:
        """See `Tracker.save_adapters`."""
        for tracker in self.trackers:
            tracker.save_adapters(path)

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """See `Tracker.finish`."""
        for tracker in self.trackers:
            tracker.finish(summary, failed=failed)


def make_tracker(
    track: TrackConfig,
    *,
    name: str | None = None,
    say: Callable[[str], None] = print,
    verbose: bool = False,
) -> Tracker:
    """The trackers that the section `track` names, as one.

    Args:
        track: The section.
        name: Name shown for the run; none = that of its folder.
        say: Prints one line to the user.
        verbose: Let a tracker's library speak for itself.

    Returns:
        The tracker itself if one is named, else `Trackers`, which tells each of them; those of installed packages
        are guarded.

    Raises:
        InputError: One cannot be made.
    """
    made: list[Tracker] = []
    for kind in track.trackers:
        make = partial(TRACKERS[kind], track, name=name, say=say, verbose=verbose)
        options = track.options.get(kind, {})
        made.append(
            make(**options) if kind in TRACKERS.own else _guarded(kind, partial(make, **options), say)
        )
    return made[0] if len(made) == 1 else Trackers(made)


def _guarded(kind: str, make: Callable[[], Tracker], say: Callable[[str], None]) -> GuardedTracker:
    try:
        return GuardedTracker(make(), kind, say)
    except InputError:
        raise
    except Exception as error:  # anything a foreign package can do; nothing has begun
        raise InputError(
            f"The tracker `{kind}` cannot be made",
            got=f"{type(error).__name__}: {first_line(error)}",
            change=f"Leave `{kind}` out of `track.trackers`, or mend the package that has it.",
        ) from error
