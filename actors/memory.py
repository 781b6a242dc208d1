"""What a process's memory is, as the system counts it, and how freed memory is returned."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def own_memory() -> dict[str, int]:
    """Memory of this process in bytes.

    Returns:
        `resident_bytes`: all pages in memory. `private_bytes`: those that no other process shares.
        `proportional_bytes`: each page divided by the number of processes that share it; only Linux knows that, and
        elsewhere it is the private memory.
    """
    import psutil

    found = psutil.Process().memory_full_info()
    proportional = found.pss if sys.platform == "linux" else found.uss
    return {
        "resident_bytes": int(found.rss),
        "proportional_bytes": int(proportional),
        "private_bytes": int(found.uss),
    }


def trim_heap() -> None:
    """Return freed memory to the system, where the C library is glibc.

    Its allocator keeps what large transient arrays leave behind: orthogonal matrices drawn for the projections and the
    logits of an evaluation are tens of megabytes in every actor that nobody will use again.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
