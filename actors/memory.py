"""What a process's memory is, as the system counts it."""

from __future__ import annotations

import sys


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
