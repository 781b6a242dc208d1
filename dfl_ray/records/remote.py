"""Run folders on object stores and other machines: a local working folder, and a copy of it at a URL.

A run writes, renames, locks and maps files, which object stores cannot. So `runtime.runs_dir=s3://bucket/runs`, or any
other URL that fsspec reads, keeps the run in a working folder of the user's cache and copies it to the URL after every
checkpoint (docs/adr/0013). Data go first and the lists that name them last, and what is gone here is removed there at
the end, so that the copy can be gone on with whenever a machine dies.

Beside every working folder lies a list of what its copy held when both were last alike. By it a folder is known that
is newer than its copy, since a copy has failed or the machine has died: such a one is never fetched over.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError, RunError, resume_line, tell
from dfl_ray.records import checksums, lock
from dfl_ray.records.info import write_text_atomically

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory", "oss", "oci"})
"""Protocols without folders, where nothing has to be made before a file is written."""
_ORIGIN = ".url"
_KEPT_HERE = (lock.LOCK_NAME, "heartbeat.json")
_MADE_AGAIN = ("log.txt", "report.html", "wandb/")
"""What a run does not go on from: that it is newer here keeps nothing from being fetched."""
_FETCHING = "fetching"
REACH = "Check the URL, and what its file system needs: packages, credentials, endpoint."


def is_remote(place: str | Path) -> bool:
    """Whether a place is a URL and no path of this machine."""
    return "://" in str(place)


def folder_at(place: str | Path) -> Path:
    """The folder of a whole run, checkpoints too, to work on: a URL is fetched first.

    Args:
        place: The run's URL, or its folder; `~` is the user's home.

    Returns:
        The folder on this machine.
    """
    return fetched(str(place), whole=True) if is_remote(place) else Path(place).expanduser()


def working_folder(url: str) -> Path:
    """Make the folder in the user's cache in which what lies at a URL is worked on; it keeps the URL in a file.

    Args:
        url: Folder of runs.

    Returns:
        `dfl-ray/runs/<URL in letters and a hash>` in XDG_CACHE_HOME, or in `~/.cache` where that is not set.
    """
    url = url.rstrip("/")
    root = os.environ.get("XDG_CACHE_HOME")
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", url).strip("-")[:80]
    folder = (Path(root) if root else Path.home() / ".cache") / "dfl-ray" / "runs" / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / _ORIGIN, url)
    return folder


@dataclass
class Mirror:
    """Keeps a copy of a run folder at a URL.

    Attributes:
        folder: The working folder of the run.
        url: Where the copy is.
        copied: Path below the folder -> (bytes, time of the last change) of what the copy holds.
    """

    folder: Path
    url: str
    copied: dict[str, tuple[int, int]] = field(default_factory=dict)

    def push(self) -> None:
        """Bring the copy up to date.

        Raises:
            RunError: It cannot be written; what was copied before can still be gone on with.
        """
        with _telling(self.url, RunError, f"The working folder {self.folder} is whole."):
            system, root = _system(self.url)
            here = {name: _stamp(self.folder / name) for name in _names(self.folder)}
            changed = [n for n, stamp in here.items() if stamp is not None and self.copied.get(n) != stamp]
            try:
                for name in sorted(changed, key=_order):
                    if not _object_store(self.url):
                        system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                    system.put_file(str(self.folder / name), f"{root}/{name}")
                    self.copied[name] = here[name] or (0, 0)
                for name in [n for n in self.copied if n not in here]:
                    with suppress(FileNotFoundError):  # somebody else has removed it
                        system.rm_file(f"{root}/{name}")
                    del self.copied[name]
            finally:
                _note_alike(self.folder, self.copied)


def fetched(url: str, *, whole: bool = False, say: Callable[[str], None] = tell) -> Path:
    """Bring the working folder of a run to what its URL holds.

    Listed files (`checksums.json`) are fetched where they are missing or differ. A working folder newer than its copy
    is left as it is: one that a run on this machine is writing to, and one in which a file has changed since both
    were last alike, or of which that is not known; the latter is told.

    Args:
        url: The run.
        whole: Its checkpoints too, to go on with it or to ask its saved state. Without them none is removed here.
        say: Told of a folder that is left as it is.

    Returns:
        The working folder.

    Raises:
        InputError: Nothing can be read there, or no run.
    """
    url = url.rstrip("/")
    folder = working_folder(url.rpartition("/")[0]) / url.rpartition("/")[2]
    with _telling(url, InputError, REACH):
        system, root = _system(url)
        there = {name[len(root) :].lstrip("/"): info for name, info in system.find(root, detail=True).items()}
        if "run.json" not in there:
            raise InputError(f"`{url}` is not a run", got=f"{len(there)} files, no run.json among them")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(folder)
        except InputError:
            return folder
        try:
            newer = _newer_here(folder)
            if newer is None:
                _note_alike(folder, _FETCHING)
                _take(system, root, folder, {n: int(i["size"]) for n, i in there.items()}, whole)
                _note_alike(folder, {name: _stamp(folder / name) for name in _names(folder)})
            else:
                say(
                    f"The working folder {folder} is newer than its copy at {url} ({newer} has not been copied) and is "
                    f"used as it is. `{resume_line(url)}` copies it; to have the copy instead, move the folder away."
                )
        finally:
            held.release()
    return folder


def runs_at(url: str) -> list[str]:
    """List the names of the runs in a folder of runs; none where nothing is there yet.

    Args:
        url: Folder of runs.

    Raises:
        InputError: The place cannot be asked.
    """
    with _telling(url, InputError, REACH):
        system, root = _system(url)
        try:
            found = system.ls(root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def known_copy(folder: Path, url: str) -> Mirror:
    """Go on with a copy: all that is here is copied once more, and what only the copy has is dropped.

    Args:
        folder: The working folder.
        url: Where the copy is.

    Returns:
        The copy.
    """
    with _telling(url, InputError, REACH):
        system, root = _system(url)
        names = [name[len(root) :].lstrip("/") for name in system.find(root)]
    return Mirror(folder, url, dict.fromkeys(names, (-1, -1)))


def working_copy(path: Path) -> str | None:
    """Find the URL that a run folder is the working folder of.

    Args:
        path: The run folder.

    Returns:
        The run's URL; None for a folder that is no working folder.
    """
    try:
        return f"{(path.parent / _ORIGIN).read_text(encoding='utf-8')}/{path.name}"
    except OSError:
        return None


def _take(system: Any, root: str, folder: Path, there: dict[str, int], whole: bool) -> None:
    """Fetch what differs and drop what is gone; names that lead out of the folder are refused."""
    wrong = [name for name in there if not (folder / name).resolve().is_relative_to(folder.resolve())]
    if wrong:
        raise InputError(f"`{root}` holds a name that leads out of it", got=wrong[0])
    wanted = {n: size for n, size in there.items() if whole or not n.startswith("checkpoints/")}
    listed: dict[str, Any] = {}
    if checksums.FILE in wanted:
        system.get_file(f"{root}/{checksums.FILE}", str(folder / checksums.FILE))
        listed = json.loads((folder / checksums.FILE).read_bytes())
    for name in wanted:
        place = folder / name
        if name == checksums.FILE or (name in listed and _holds(place, listed[name])):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(f"{root}/{name}", str(place))
    (folder / "checkpoints").mkdir(exist_ok=True)
    for name in list(_names(folder)):
        if name not in there and (whole or not name.startswith("checkpoints/")):
            (folder / name).unlink()


def _newer_here(folder: Path) -> str | None:
    """The first file of a working folder that has changed since folder and copy were last alike; None without one."""
    try:
        alike = json.loads(_alike_file(folder).read_bytes())
    except (OSError, ValueError):
        alike = {}  # not known: whatever is here may be newer
    if alike == _FETCHING:
        return None  # half fetched, and nothing was written here since
    known = alike if isinstance(alike, dict) else {}
    for name in _names(folder):
        if not name.startswith(_MADE_AGAIN) and known.get(name) != list(_stamp(folder / name) or ()):
            return name
    return None


def _note_alike(folder: Path, names: Mapping[str, tuple[int, int] | None] | str) -> None:
    """Note beside a working folder which of its files, by size and time, its copy holds."""
    write_text_atomically(_alike_file(folder), json.dumps(names))


def _alike_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.copied.json"


def _holds(place: Path, entry: list[Any]) -> bool:
    return place.is_file() and place.stat().st_size == entry[0] and checksums.checksum(place) == entry


def _names(folder: Path) -> Iterator[str]:
    """The files of a run that are copied: all but the lock, what is half written, and the sign of life."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        half_written = any(part.endswith(".tmp") for part in inside.parts)
        if path.is_file() and inside.as_posix() not in _KEPT_HERE and not half_written:
            yield inside.as_posix()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None for a file that is gone meanwhile."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _order(name: str) -> tuple[int, str]:
    """Data first, a checkpoint's manifest behind its files, then what tells the state, the list of checksums last."""
    last = name.rpartition("/")[2]
    late = {"manifest.json": 1, "config.yaml": 2, "run.json": 2, "log.txt": 2, checksums.FILE: 3}
    return late.get(last, 0), name


def _object_store(url: str) -> bool:
    return url.partition("://")[0] in _OBJECT_STORES


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, its listings not remembered, and the path in it."""
    import fsspec

    system, root = fsspec.url_to_fs(url)
    system.invalidate_cache()
    return system, str(root).rstrip("/")


@contextmanager
def _telling(url: str, kind: Callable[..., Exception], change: str) -> Iterator[None]:
    """Turn whatever a file system raises into our own error."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # every file system has errors of its own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if kind is InputError:
            raise InputError(f"`{url}` cannot be reached", got=reason, change=change) from error
        raise RunError(f"The copy at {url} cannot be written: {reason}. {change}") from error
