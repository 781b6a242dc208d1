"""A lock on a run folder that the operating system releases when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dfl_ray.errors import InputError

LOCK_NAME = ".lock"


@dataclass(frozen=True)
class FolderLock:
    """A held lock; `release` gives it back, and so does the end of the process, however it comes."""

    path: Path
    file: BinaryIO

    def release(self) -> None:
        """Give the lock back. Repeating it does nothing."""
        self.file.close()


def acquire(folder: Path) -> FolderLock:
    """Take the lock of an existing folder without waiting.

    Departure: on a file system that knows no locks (some network mounts) the run goes on unguarded, because
    refusing to run there would be worse than the rare second run.

    Raises:
        InputError: Another process holds it; its number is named.
    """
    path = folder / LOCK_NAME
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            file.seek(0)
            holder = file.read().decode(errors="replace").strip()
            file.close()
            raise InputError(
                f"Another run is writing to {folder}",
                got=f"a lock held by process {holder or 'unknown'}",
                change="Wait for it or stop it, or give this run another name with `name=...`.",
            ) from None
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
    return FolderLock(path, file)
