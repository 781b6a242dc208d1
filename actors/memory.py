"""What a process's memory is, read from the kernel."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

_FIELDS = {"Rss": "resident_bytes", "Pss": "proportional_bytes"}


def own_memory() -> dict[str, int]:
    """Memory of this process: resident, proportional (shared pages divided), private (clean and dirty), in bytes."""
    out = {"resident_bytes": 0, "proportional_bytes": 0, "private_bytes": 0}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        kilobytes = int(rest.split()[0]) if rest.split() else 0
        if name in _FIELDS:
            out[_FIELDS[name]] = 1024 * kilobytes
        elif name in ("Private_Clean", "Private_Dirty"):
            out["private_bytes"] += 1024 * kilobytes
    return out


def trim_heap() -> None:
    """Return freed memory to the system, where the C library is glibc.

    Its allocator keeps what large transient arrays leave behind: orthogonal matrices drawn for the projections and the
    logits of an evaluation are tens of megabytes in every actor that nobody will use again.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
