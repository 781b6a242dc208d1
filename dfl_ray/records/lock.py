"""A lock on a run folder that the operating system releases when its holder dies."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_NAME = ".lock"

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What a file system answers that knows no locks."""


@dataclass(frozen=True)
class FolderLock:
    """A held lock; `release` gives it back, and so does the end of the process, however it comes.

    Attributes:
        path: The lock file.
        held: The lock of the operating system; None on a file system that knows no locks.
    """

    path: Path
    held: BaseFileLock | None

    def release(self) -> None:
        """Give the lock back. Repeating it does nothing."""
        if self.held is not None:
            self.held.release()


def acquire(folder: Path) -> FolderLock:
    """Take the lock of a folder without waiting.

    The lock is `flock` on the file `.lock`, which holds the number of the process for the message of the one that is
    refused. A process forked from the holder does not hold it, so that no left-over child keeps a dead run's folder.

    Departure: on a file system that knows no locks (some network mounts) the run goes on unguarded, because
    refusing to run there would be worse than the rare second run.

    Args:
        folder: An existing folder.

    Returns:
        The lock, held by this process.

    Raises:
        InputError: Another process, or another part of this one, holds it, and is named; or the folder cannot be
            written to.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK_NAME
    # Shared between threads, so that any of them can release it; no lock files whose existence is the lock, because
    # those outlive a killed holder.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"Another run is writing to {folder}",
            got=f"a lock held by process {_holder(path) or 'unknown'}",
            change="Wait for it or stop it, or give this run another name with `name=...`.",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise _cannot_write(folder, error) from error
        return FolderLock(path, None)
    try:
        path.write_text(str(os.getpid()), encoding="utf-8")
    except OSError as error:
        lock.release()
        raise _cannot_write(folder, error) from error
    return FolderLock(path, lock)


def _cannot_write(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"The run folder {folder} cannot be written to",
        got=error.strerror or str(error),
        expected="a folder of yours, on a disk with room that is not read-only",
        change="Make it writable, or copy it elsewhere and go on with the copy: `dfl-ray resume` and its path.",
    )


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
