"""How the C library's allocator treats the memory of freed tensors."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Names of `mallopt`'s settings in glibc's malloc.h."""

PAD_BYTES, LARGEST_BYTES = 2**24, 2**25
"""Larger blocks are taken from the system and returned as before: kept, they would leave holes in the heap."""


@cache
def keep_freed_memory() -> bool:
    """Keep what large tensors leave behind for the next ones, in place of giving it back to the system each time.

    A step of a large model makes thousands of tensors of some megabytes. glibc takes each from the system and returns
    it, page by page, which takes four times as long as writing it: 5.8 against 1.2 ms for 8 MB. What is kept is
    at most what was in use at once; `actors.memory.trim_heap` still gives it back.

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
