"""What happens to freed memory, and what the products' library keeps: asked of the system and of glibc, not of us."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dfl_ray.engines.cpu.heap import limit_prepared_products

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


SIZES = """
import ctypes, os, sys
from dfl_ray.engines.cpu.heap import _Heap, limit_prepared_products
if sys.argv[1] == "limit":
    limit_prepared_products()
import torch
torch.set_num_threads(1)
library = ctypes.CDLL("libc.so.6")
library.mallinfo2.restype = _Heap
weight = torch.ones(64, 64, dtype=torch.bfloat16)
def multiply(sizes):
    for tokens in sizes:
        torch.nn.functional.linear(torch.ones(tokens, 64, dtype=torch.bfloat16), weight)
    return library.mallinfo2().uordblks
before = multiply(range(1, 9))
print(multiply(range(9, 500)) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_products_of_many_sizes_do_not_pile_up():
    unset = {
        k: v for k, v in os.environ.items() if not k.endswith("CACHE_CAPACITY")
    }  # an earlier test may have set them
    found: dict[str, int] = {}
    for way in ("limit", "usual"):
        command = [sys.executable, "-c", SIZES, way]
        found[way] = int(
            subprocess.run(command, capture_output=True, text=True, check=True, env=unset).stdout
        )
    if found["usual"] < 2**20:
        pytest.skip("this processor's products in bfloat16 keep nothing")
    assert found["limit"] < 0.5 * found["usual"]


def test_the_limit_that_a_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    limit_prepared_products()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_freed_memory_goes_back_where_there_is_enough_of_it():
    code = """
import numpy as np
from actors.memory import own_memory
from dfl_ray.engines.cpu.heap import free_bytes, keep_freed_memory, trim_heap
assert keep_freed_memory()
held = [np.ones(2**17) for _ in range(64)]  # 1 MiB each
pins = [np.ones(2**10)]
del held
free = free_bytes()
assert free > 60 * 2**20, free
before = own_memory()["private_bytes"]
trim_heap(2 * free)
kept = own_memory()["private_bytes"]
trim_heap(free // 2)
print(before - kept, before - own_memory()["private_bytes"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, trimmed = (int(x) for x in done.stdout.split())
    assert abs(kept) < 2**20
    assert trimmed > 55 * 2**20
