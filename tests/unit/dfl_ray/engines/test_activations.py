"""The memory of what a step keeps: handed out without overlap, taken again in the next step, not seen in results."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dfl_ray.engines.cpu.activations import ALIGNED_BYTES, ActivationMemory
from tests.plain_decoder import draw, large, rows_of, taken

STEPS = [([9, 5], [1, 1]), ([30, 19, 18], [2, 1]), ([9] * 4, [2, 2]), ([40] * 3, [1, 1, 1]), ([3], [1])]
SHAPES = [(3, 5), (1,), (70, 2), (4, 4, 4)]


def handed_out(memory, tokens, shapes, dtype=torch.bfloat16):
    memory.begin(tokens)
    return [memory.empty(torch.empty(0, dtype=dtype), *shape) for shape in shapes]


def test_tensors_of_a_step_share_no_byte_and_are_aligned():
    memory = ActivationMemory()
    handed_out(memory, 8, SHAPES)
    found = handed_out(memory, 8, SHAPES)
    for number, tensor in enumerate(found):
        tensor.fill_(number)
    assert all(bool((t == n).all()) for n, t in enumerate(found))
    assert [tuple(t.shape) for t in found] == SHAPES
    begin = found[0].data_ptr()
    assert all((t.data_ptr() - begin) % ALIGNED_BYTES == 0 for t in found)
    assert max(t.data_ptr() for t in found) - begin < memory.bytes


def test_a_step_takes_the_memory_of_the_one_before():
    memory = ActivationMemory()
    handed_out(memory, 8, SHAPES)
    first, second = ([t.data_ptr() for t in handed_out(memory, n, SHAPES[:k])] for n, k in [(8, 4), (6, 3)])
    assert second == first[:3]


def test_the_block_grows_with_the_tokens_and_what_is_beyond_it_is_memory_of_its_own():
    memory = ActivationMemory()
    handed_out(memory, 10, [(10, 32)])
    assert memory.bytes == 0
    handed_out(memory, 10, [(10, 32)])
    assert memory.bytes == 640
    inside, beyond = handed_out(memory, 20, [(20, 32), (20, 32)])  # twice as much a token as any step before
    assert memory.bytes == 1280
    assert beyond.data_ptr() not in range(inside.data_ptr(), inside.data_ptr() + 1280)
    handed_out(memory, 5, [(5, 32)])
    assert memory.bytes == 1280
    handed_out(memory, 20, [(20, 32)] * 2)
    assert memory.bytes == 2560


def test_what_is_released_is_taken_again_by_the_next_step():
    memory = ActivationMemory()
    for _ in range(2):
        handed_out(memory, 10, [(10, 32)])
    memory.release()
    assert memory.bytes == 0
    (own,) = handed_out(memory, 10, [(10, 32)])
    assert memory.bytes == 640
    own.fill_(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_of_any_sizes_are_those_without_it_bit_for_bit(dtype):
    """Larger and smaller steps, ragged and even rows, one part and several: nothing of an earlier step shows."""
    scored, layers, _, _ = large({}, dtype)
    kept = replace(scored.large, most_tokens=60)
    plain, _, _, _ = large({}, dtype)
    plain.large = replace(plain.large, most_tokens=60, activations=None)
    plain.large = replace(plain.large, kernels=replace(plain.large.kernels, add_norm=_fresh_add_norm(dtype)))
    scored.large = kept
    for lengths, counts in STEPS:
        rows = rows_of(lengths, counts)
        a, b = draw(layers, len(rows))
        one, two = (taken(x, a, b, rows) for x in (scored, plain))
        assert torch.equal(one[0], two[0])
        for got, wanted in zip((*one[1], *one[2]), (*two[1], *two[2]), strict=True):
            assert torch.equal(got, wanted)
    assert kept.activations is not None
    assert kept.activations.bytes > 0


def _fresh_add_norm(dtype):
    from dfl_ray.engines.gpu.kernels import make_kernels

    return make_kernels(torch.device("cpu"), "off", dtype).add_norm


ERRORS = """
import torch
from tests.plain_decoder import draw, expected, large, rows_of, taken
from tests.unit.dfl_ray.engines.test_activations import STEPS
scored, layers, shape, weights = large({}, torch.float32)
for lengths, counts in STEPS * 2:
    rows = rows_of(lengths, counts)
    a, b = draw(layers, len(rows))
    found, true = taken(scored, a, b, rows), expected(weights, shape, layers, a, b, rows)
    for f in (1, 2):
        for x, y in zip(found[f], true[f], strict=True):
            torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-4)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="has glibc fill freed memory")
def test_no_step_reads_memory_that_was_never_written_or_is_freed():
    """Glibc fills what is handed out and what is freed with a byte that makes floats of 3e38."""
    poisoned = {**os.environ, "MALLOC_PERTURB_": "127", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ERRORS], capture_output=True, text=True, env=poisoned, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
