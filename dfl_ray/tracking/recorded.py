"""Progress that is also kept in the run folder: `log.txt` with every line, `heartbeat.json` with what goes on now."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from dfl_ray.records.states import HEARTBEAT_NAME
from dfl_ray.tracking.progress import PlainProgress, Progress
from dfl_ray.tracking.stages import Stages
from dfl_ray.tracking.tally import Tally

LOG_NAME = "log.txt"

BEAT_EVERY_S = 5.0


class LogFile(io.TextIOBase):
    """A text stream that writes each line behind its time in UTC; what comes before `open` is kept until then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = ""
        self._waiting: list[str] = []
        self._file: io.TextIOBase | None = None

    def open(self, path: Path) -> None:
        """Write to a file from now on, behind what it holds.

        Args:
            path: The file; made when missing.
        """
        with self._lock:
            self._file = path.open("a", encoding="utf-8")
            self._file.writelines(self._waiting)
            self._file.flush()
            self._waiting = []

    def write(self, text: str, /) -> int:
        """Take in text; complete lines are written at once."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            stamped = [f"{now}  {line.rstrip()}\n" for line in lines if line.strip()]
            if self._file is None:
                self._waiting += stamped
            elif stamped:
                self._file.writelines(stamped)
                self._file.flush()
        return len(text)

    def close(self) -> None:
        """Close the file. Repeating it does nothing."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
        super().close()


class RecordedProgress:
    """Shows a run to the user and keeps the same in its folder; a context manager around the whole command.

    Library warnings (Python's `logging`, from level WARNING on) and the traceback of an error that ends the run go into
    `log.txt` too, whatever the user is shown. The heartbeat is written every five seconds by a thread of its own, so
    that its age tells a run that works from one that was killed.

    Args:
        shown: What the user sees.
        clock: Gives real time in seconds.
    """

    def __init__(self, shown: Progress, clock: Any = time.monotonic) -> None:
        from rich.console import Console

        self._shown = shown
        self._log = LogFile()
        self._kept = PlainProgress(
            Console(file=cast("IO[str]", self._log), width=160, color_system=None, force_terminal=False),
            clock,
        )
        self._tally = Tally(clock)
        self._stages = Stages(None, clock)
        self._folder: Path | None = None
        self._ended = threading.Event()
        self._handler = logging.StreamHandler(self._log)
        self._handler.setLevel(logging.WARNING)
        self._handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def __enter__(self) -> RecordedProgress:
        """Begin to keep what is said and what libraries warn of."""
        logging.getLogger().addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the traceback of an error into the log and close it."""
        self._ended.set()
        logging.getLogger().removeHandler(self._handler)
        if error is not None:
            self._log.write("".join(traceback.format_exception(kind, error, trace)) + "\n")
        self._log.close()

    def open(self, folder: Path) -> None:
        """Begin to write into a run folder.

        Args:
            folder: The run folder, made and locked.
        """
        self._folder = folder
        self._log.open(folder / LOG_NAME)
        self._beat()
        threading.Thread(target=self._keep_beating, daemon=True, name="heartbeat").start()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """See `Progress.step`."""
        with self._stages.open(name), self._kept.step(name), self._shown.step(name):
            self._beat()
            yield

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `Progress.stage`."""
        with self._stages.open(name), self._kept.stage(name), self._shown.stage(name):
            yield

    def advance(self, done: int, total: int) -> None:
        """See `Progress.advance`."""
        for each in (self._stages, self._kept, self._shown):
            each.advance(done, total)

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._kept.say(text)
        self._shown.say(text)

    def rounds(self, total: int, start: int = 0, sent_bytes: int = 0) -> None:
        """See `Progress.rounds`."""
        for each in (self._kept, self._shown):
            each.rounds(total, start, sent_bytes)
        self._tally.begin(total, start, sent_bytes)
        self._beat()

    def update(self, row: Mapping[str, Any]) -> None:
        """See `Progress.update`."""
        self._tally.add(row)
        self._kept.update(row)
        self._shown.update(row)
        self._beat()

    def finish(self, closing: Any = None) -> None:
        """See `Progress.finish`."""
        self._kept.finish(closing)
        self._shown.finish(closing)

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            self._beat()

    def _beat(self) -> None:
        """Write the heartbeat; a folder that cannot be written to stops no run."""
        if self._folder is None:
            return
        stage = self._stages.current
        beat = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "pid": os.getpid(),
            "stage": stage.name if stage else None,
            "stage_s": round(self._stages.clock() - stage.began_s, 1) if stage else None,
            "parts_done": stage.done if stage else 0,
            "parts": stage.total if stage else 0,
            "round": self._tally.done,
            "rounds": self._tally.total,
            "left_s": self._tally.left_s,
        }
        temporary = self._folder / f".{HEARTBEAT_NAME}.{threading.get_ident()}.tmp"
        try:
            temporary.write_text(json.dumps(beat), encoding="utf-8")
            temporary.replace(self._folder / HEARTBEAT_NAME)
        except OSError:
            temporary.unlink(missing_ok=True)
