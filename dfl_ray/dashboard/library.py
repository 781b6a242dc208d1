"""The runs below a folder, read when they are asked for and kept while their files stay the same."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from dfl_ray.errors import InputError
from dfl_ray.records import Run, load_run
from dfl_ray.records.schema import TABLES
from dfl_ray.records.states import RunState, find_runs, run_state

MOST_COMPARED = 60
"""Runs on one page, and runs whose small tables are kept in memory: fewer would be read again for every figure."""

FEWEST_STATES = 5_000
"""States that are kept at least; a larger folder has room for all of its runs."""

LOG_TAIL_BYTES = 32_768
LARGEST_TEXT_BYTES = 16 << 20
"""Largest `run.json` or `config.yaml` that is read: nobody's run folder may fill the memory."""

ENDED = ("finished", "failed", "stopped", "unreadable")

V = TypeVar("V")


class Kept(Generic[V]):
    """A small store that forgets what was not asked for the longest.

    Args:
        most: Sum of sizes that is kept.
        size: Size of a value; 1 each by default.
    """

    def __init__(self, most: int, size: Callable[[V], int] = lambda value: 1) -> None:
        self._most, self._size = most, size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value of a key; None where it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def make_room(self, most: int) -> None:
        """Keep a larger sum from now on; a smaller one than now changes nothing."""
        with self._lock:
            self._most = max(self._most, most)

    def put(self, key: Hashable, value: V) -> V:
        """Keep a value and give it back; a larger sum than `most` drops the oldest."""
        with self._lock:
            if key in self._values:
                self._total -= self._size(self._values.pop(key))
            self._values[key] = value
            self._total += self._size(value)
            while self._total > self._most and len(self._values) > 1:
                self._total -= self._size(self._values.popitem(last=False)[1])
        return value


class Library:
    """The runs of one folder, by their paths below it.

    Args:
        root: A run folder, a folder of runs, or one of sweeps, whose runs lie a level deeper.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs: Kept[Run] = Kept(MOST_COMPARED)
        self._states: Kept[tuple[str, RunState]] = Kept(FEWEST_STATES)
        self._texts: Kept[str] = Kept(4_000_000, len)
        self._making = threading.Lock()

    def ids(self) -> list[str]:
        """Paths below the root of all run folders, newest first; `.` where the root itself is one."""
        found = [path.relative_to(self.root).as_posix() for path in find_runs(self.root)]
        self._states.make_room(len(found))
        return found

    def path(self, name: str) -> Path:
        """Find a run's folder.

        Args:
            name: One of `ids`; no path that leads out of the root is opened.

        Returns:
            The folder.

        Raises:
            InputError: There is no such run.
        """
        words = name.split("/")
        plain = name == "." or (len(words) <= 2 and not any(word in ("", ".", "..") for word in words))
        if not plain or "\0" in name or not (self.root / name / "run.json").is_file():
            raise InputError(f"There is no run `{name}` in {self.root}")
        return self.root / name

    def version(self, name: str) -> str:
        """Give a short text that changes whenever a run's records do.

        Args:
            name: One of `ids`.

        Returns:
            A hash of name, size and time of `run.json`, `config.yaml` and every part of the record tables.
        """
        path, facts = self.path(name), []
        for table in ("", *(f"{table}.parquet" for table in TABLES), "topology/nodes.parquet"):
            try:
                entries = list(os.scandir(path / table))
            except OSError:
                continue
            for entry in entries:
                if not table and entry.name not in ("run.json", "config.yaml", "adapters"):
                    continue
                if table and not entry.name.startswith("part-"):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue
                facts.append((table, entry.name, status.st_size, status.st_mtime_ns))
        return hashlib.blake2b(repr(sorted(facts)).encode(), digest_size=8).hexdigest()

    def run(self, name: str) -> Run:
        """Open a run, or give the one that is open while its files stay the same.

        Args:
            name: One of `ids`.

        Returns:
            The run.

        Raises:
            InputError: No such run, or one that cannot be read.
        """
        key = (name, self.version(name))
        kept = self._runs.get(key)
        if kept is not None:
            return kept
        path = self.path(name)
        _refuse_large(path)
        return self._runs.put(key, load_run(path))

    def text(self, names: Sequence[str], what: str, make: Callable[..., str]) -> str:
        """Give a text about runs, made anew only when the files of one have changed.

        Args:
            names: Some of `ids`.
            what: Tells the texts about the same runs apart.
            make: Makes it; is given the runs.

        Returns:
            What `make` gives.

        Raises:
            InputError: No such run, or one that cannot be read.
        """
        key = (self._versions(names), what)
        kept = self._texts.get(key)
        if kept is not None:
            return kept
        with self._making:
            kept = self._texts.get(key)
            return kept if kept is not None else self._texts.put(key, make(*map(self.run, names)))

    def kept_text(self, names: Sequence[str], what: str) -> str | None:
        """The text that `text` has made of the runs as they are now; None where it would have to make it."""
        return self._texts.get((self._versions(names), what))

    def _versions(self, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        return tuple((name, self.version(name)) for name in names)

    def state(self, name: str) -> RunState:
        """Give the state of a run; of one that has ended from memory.

        Args:
            name: One of `ids`.

        Returns:
            The state; `unreadable` for a folder that cannot be read. Its name is the path below the root.

        Raises:
            InputError: There is no such run.
        """
        version = self.version(name)
        kept = self._states.get(name)
        if kept is not None and kept[0] == version and kept[1].state in ENDED:
            return kept[1]
        path = self.path(name)
        try:
            _refuse_large(path)
            found = run_state(path)
        except (InputError, OSError) as error:
            found = RunState(path, name, "unreadable", str(error))
        found = found if name == "." else replace(found, name=name)
        return self._states.put(name, (version, found))[1]

    def log_tail(self, name: str) -> str:
        """Read the end of a run's log.

        Args:
            name: One of `ids`.

        Returns:
            The last lines of `log.txt`; empty where there is none, or where it is no plain file.
        """
        path = self.path(name) / "log.txt"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ""
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            file.seek(max(0, size - LOG_TAIL_BYTES))
            text = file.read(LOG_TAIL_BYTES).decode("utf-8", errors="replace")
        return text if size <= LOG_TAIL_BYTES else text.partition("\n")[2]


def _refuse_large(path: Path) -> None:
    for name in ("run.json", "config.yaml"):
        file = path / name
        if file.exists() and (not file.is_file() or file.stat().st_size > LARGEST_TEXT_BYTES):
            raise InputError(
                f"{file} is not read", expected=f"a file of at most {LARGEST_TEXT_BYTES:,} bytes"
            )
