"""How the C library's allocator treats the memory of freed tensors, and what the products' library keeps."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache

from dfl_ray.engines.memory import PREPARED_PRODUCTS

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Names of `mallopt`'s settings in glibc's malloc.h."""

ENOUGH_FREE_BYTES = 2**27
"""Freed memory that is worth keeping from one round to the next."""

PAD_BYTES, LARGEST_BYTES = 2**24, 2**25
"""Larger blocks are taken from the system and returned as before: kept, they would leave holes in the heap."""


@cache
def keep_freed_memory() -> bool:
    """Keep what large tensors leave behind for the next ones, in place of giving it back to the system each time.

    A step of a large model makes thousands of tensors of some megabytes. glibc takes each from the system and returns
    it, page by page, which takes four times as long as writing it: 5.8 against 1.2 ms for 8 MB. What is kept is
    at most what was in use at once; `trim_heap` still gives it back.

    Returns:
        Whether the allocator took all settings; False where it is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        set_ = ctypes.CDLL("libc.so.6").mallopt
        wanted = {MMAP_THRESHOLD: LARGEST_BYTES, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: PAD_BYTES}
        return all([set_(name, value) for name, value in wanted.items()])
    return False


def limit_prepared_products() -> None:
    """Have torch and oneDNN keep `PREPARED_PRODUCTS` each prepared, unless the environment says how many.

    A step of one size has about thirty products. Their own limits, 1,024 each, are half a gigabyte after some rounds of
    steps of all sizes. Both ask the environment at a process's first product in bfloat16; later calls change nothing.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(PREPARED_PRODUCTS))


class _Heap(ctypes.Structure):
    """What `mallinfo2` gives, by glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def free_bytes() -> int | None:
    """Bytes of freed memory that the allocator holds; None where it is not glibc's, or older than 2.33."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallinfo2.restype = _Heap
        return int(library.mallinfo2().fordblks)
    return None


def trim_heap(above_bytes: int = 0) -> None:
    """Return freed memory to the system, where the C library is glibc.

    Its allocator keeps what large transient arrays leave behind: orthogonal matrices drawn for the projections and the
    logits of an evaluation are tens of megabytes in every actor that nobody will use again.

    Args:
        above_bytes: Return it only where there is more of it than this, or nobody knows how much.
    """
    free = free_bytes()
    if free is None or free > above_bytes:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
