"""Reading and replacing single files of a run so that every error names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from dfl_ray.errors import InputError, first_line


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into an `InputError` that names the file.

    Args:
        path: The file read inside the context.

    Raises:
        InputError: Arrow cannot read it.
        FileNotFoundError: It is gone.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged",
            got=first_line(error, 200),
            expected="a whole Parquet file",
            change="Restore it from a copy; `dfl-ray verify RUN` lists all that is damaged.",
        ) from error


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[None]:
    """Name the file in whatever the system says of a failed write, and leave no temporary file behind.

    Args:
        path: The file to be replaced.
        temporary: What is written first and then renamed.

    Raises:
        OSError: With `path` as its file name.
    """
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut.

    Args:
        folder: An existing folder.

    Raises:
        OSError: It cannot be opened or flushed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
