"""Freed memory of large tensors stays with the process: asked of the system's own count of pages it handed out."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from dfl_ray.engines.cpu.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import numpy as np
def fresh():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        [np.ones(2**20) for _ in range(4)]  # 8 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fresh()
print(fresh())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for page faults")
def test_large_arrays_are_not_fetched_anew():
    found = {
        way: int(subprocess.run([sys.executable, "-c", COUNT, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keep", "usual")
    }  # fmt: skip
    assert found["keep"] < 100
    assert found["usual"] > 100 * (found["keep"] + 1)
