"""A file of the devices' state that is mapped into memory: read ahead, written behind, and gone with its process."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dfl_ray.errors import RunError

PIECE_BYTES = 2**20
"""Bytes that are read ahead by one call."""
AROUND_BYTES = 2**16
"""Bytes that Linux maps around one that is read, where the file cache has them."""
BLOCK_BYTES = 2**21
"""Largest piece of the file cache; newer kernels map the whole of one for a byte in it. Pieces do not cross blocks."""
_START_WRITING = 2
"""`SYNC_FILE_RANGE_WRITE` of Linux."""
READ_AHEAD_PARTS = 2
"""Parts that may be waiting to be read, and as many to be written; more would be read before there is room."""

Span = tuple[int, int]
"""Where bytes lie in a file: first, and first behind the last."""


@dataclass(frozen=True)
class Region:
    """A piece of a file that is mapped by itself.

    Attributes:
        first: Where it begins in the file.
        map: Its bytes.
    """

    first: int
    map: mmap.mmap = field(repr=False)


class MappedFile:
    """A file without a name, mapped region by region; its disk space is taken before anything is written.

    Args:
        folder: Where it lies, made if it is not there; None = the system's folder for temporary files.

    Raises:
        RunError: No file can be made there, or it would lie in memory.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = Path(folder or tempfile.gettempdir()).expanduser()
        if lies_in_memory(self.folder):
            raise RunError(
                f"{self.folder} is kept in memory (tmpfs), so a file of the devices' state there would save none. Name "
                "a folder on a disk by `runtime.state_dir`, or leave `runtime.state_memory_mb` out."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # No name is left of it: it ends with the process, however that ends.
            self._file = tempfile.TemporaryFile(dir=self.folder, prefix="dfl-ray-state-")  # noqa: SIM115
        except OSError as error:
            raise RunError(_no_room(self.folder, error)) from error
        self._size = 0
        self._regions: list[Region] = []
        self._worker = ThreadPoolExecutor(1, "state-file")
        self._under_way: deque[Future[None]] = deque()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def grow(self, size: int) -> np.ndarray:
        """Add a region.

        Args:
            size: Bytes, > 0; rounded up to whole pages.

        Returns:
            (bytes,) uint8 zeros; writing to it writes to the file.

        Raises:
            RunError: The disk has no room.
        """
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        first, self._size = self._size, self._size + size
        try:
            # A page without room on the disk would end the process by a signal when it is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), first, size)
            else:
                os.ftruncate(self._file.fileno(), self._size)
        except OSError as error:
            raise RunError(_no_room(self.folder, error, size)) from error
        region = Region(first, mmap.mmap(self._file.fileno(), size, offset=first))
        self._regions.append(region)
        return np.frombuffer(region.map, np.uint8)

    def read_ahead(self, spans: Sequence[Span]) -> None:
        """Bring bytes from the disk into the system's file cache, while the caller goes on.

        Args:
            spans: Where they lie.
        """
        self._later(self._read, tuple(spans))

    def write_behind(self, spans: Sequence[Span]) -> None:
        """Let go of bytes, and have what was changed start on its way to the disk.

        Args:
            spans: Where they lie.
        """
        self.let_go(spans)
        self._later(self._write, tuple(spans))

    def let_go(self, spans: Sequence[Span]) -> None:
        """Have bytes leave the process's memory.

        Args:
            spans: Where they lie. They stay readable and writable through the same arrays.
        """
        for region in self._regions:
            for first, stop in spans:
                low, high = max(first, region.first), min(stop, region.first + len(region.map))
                if low < high:
                    _drop(region, low - region.first, high - region.first)

    def _later(self, work: Callable[[tuple[Span, ...]], None], spans: tuple[Span, ...]) -> None:
        """Do something in the thread; wait for the oldest work where too much is under way."""
        if len(self._under_way) >= 2 * READ_AHEAD_PARTS:
            self._under_way.popleft().result()
        self._under_way.append(self._worker.submit(work, spans))

    def _read(self, spans: tuple[Span, ...]) -> None:
        """Read and forget: the system keeps the pages. Its own read-ahead ends after a small piece."""
        into = bytearray(PIECE_BYTES)
        for first, stop in spans:
            for at in range(first, stop, PIECE_BYTES):
                os.preadv(self._file.fileno(), [memoryview(into)[: min(PIECE_BYTES, stop - at)]], at)

    def _write(self, spans: tuple[Span, ...]) -> None:
        start = _sync_file_range()
        if start is None:
            return
        for first, stop in spans:
            start(self._file.fileno(), first, stop - first, _START_WRITING)


def _drop(region: Region, first: int, stop: int) -> None:
    """Take pages out of the process, with what was mapped around them; the file cache has what was written to them.

    What other devices have there is mapped again when it is used, from the file cache.
    """
    low = (region.first + first - AROUND_BYTES) // BLOCK_BYTES * BLOCK_BYTES
    high = -(-(region.first + stop + AROUND_BYTES) // BLOCK_BYTES) * BLOCK_BYTES
    first, stop = max(0, low - region.first), min(high - region.first, len(region.map))
    if hasattr(mmap, "MADV_DONTNEED") and os.uname().sysname == "Linux":
        region.map.madvise(mmap.MADV_DONTNEED, first, stop - first)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's call that starts writing pages and does not wait; elsewhere the system writes them when it likes."""
    with suppress(OSError, AttributeError):
        call = ctypes.CDLL(None).sync_file_range
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        return call
    return None


def lies_in_memory(folder: Path) -> bool:
    """Whether files of a folder are kept in memory, so that they would save none; only Linux says so.

    Args:
        folder: The folder.

    Returns:
        True where it is on a tmpfs or ramfs.
    """
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return False
    here, kind, depth = folder.absolute().resolve(), "", -1
    for line in mounts.read_text().splitlines():
        _, point, of, *_ = line.split(" ")
        at = Path(point.encode().decode("unicode_escape"))
        if here.is_relative_to(at) and len(at.parts) >= depth:
            kind, depth = of, len(at.parts)
    return kind in ("tmpfs", "ramfs")


def _no_room(folder: Path, error: OSError, size: int | None = None) -> str:
    more = "" if size is None else f" ({size / 2**20:.0f} MB more)"
    return (
        f"The state of the devices cannot be kept in a file in {folder}{more}: {error.strerror or error}. Free some "
        "room there, name another folder by `runtime.state_dir`, or raise `runtime.state_memory_mb`."
    )
