"""The GPU benchmark on a tiny shape: what it prints, and its count of operations against torch's own counter."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import gpu_training
from benchmarks.gpu_sides import Batched, random_base
from benchmarks.gpu_work import step_operations
from dfl_ray.engines.gpu import attention

ROOT = Path(__file__).resolve().parents[3]
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1}
"""Every product torch has, and which of its arguments is the left factor."""


class Counter(TorchDispatchMode):
    """Counts 2 operations for every pair of numbers that a product multiplies, as torch really calls them.

    Those of attention's gradient are left out, as torch's own fused kernels leave theirs.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.products = 0
        self.inside = False
        monkeypatch.setattr(attention, "pull_attention", partial(self._uncounted, attention.pull_attention))

    def _uncounted(self, pull, *heads):
        self.inside = True
        found = pull(*heads)
        self.inside = False
        return found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in PRODUCTS and not self.inside:
            left, right = args[PRODUCTS[name] :][:2]
            self.products += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def work():
    return gpu_training._work(gpu_training._options(["--tiny"]))


def test_both_sides_run_and_agree(capsys):
    pytest.importorskip("peft")
    given = gpu_training.main(["--tiny", "--scored", "0.5", "--json"])
    shown = capsys.readouterr().out.strip().splitlines()
    assert json.loads(shown[-1]) == json.loads(json.dumps(given))
    assert given["options"]["device"] == "cpu"
    assert [t["trains"] for t in given["training"]] == ["ab", "b"]
    for side in given["training"]:
        for peft in side["peft"].values():
            assert peft["first_losses"] == pytest.approx(
                side["first_losses"][: len(peft["first_losses"])], abs=1e-5
            )
        done = sum(side["operations"].values()) / side["step_s"] * 1e-12
        assert side["tflops"] == pytest.approx(done)
        assert side["share_of_square"] == pytest.approx(done / given["matrix_tflops"]["square"])
        fastest = min(p["step_s"] for p in side["peft"].values())
        assert side["times_peft"] == pytest.approx(fastest / side["step_s"])
    assert len(given["training"][0]["peft"]["the same, with set_adapter"]["first_losses"]) == 3
    assert sum("times the fastest PEFT" in line for line in shown) == 2


@pytest.mark.parametrize("trains_a", [True, False])
@pytest.mark.parametrize("scored", [16, 5])
def test_operations_are_those_torch_counts(work, trains_a, scored, monkeypatch):
    work = replace(work, scored=scored)
    side = Batched(work, random_base(work), trains_a=trains_a, compile="off")
    side.step()
    with Counter(monkeypatch) as counter:
        side.step()
    expected = step_operations(work, trains_a=trains_a)
    assert counter.products == sum(n for k, n in expected.items() if k != "attention")


def test_operations_of_the_stated_step():
    """Qwen2.5-1.5B, 16 devices x 4 x 512 tokens, rank 32: the terms written out by hand, in 10^12."""
    full = gpu_training._work(gpu_training._options(["--device", "cpu"]))
    tokens = 16 * 4 * 512
    block = 1536 * (1536 + 2 * 256) + 1536 * 1536 + 3 * 1536 * 8960
    adapter = 32 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
    found = step_operations(full, trains_a=True)
    assert found["base"] == 4 * 28 * block * tokens - 2 * 2048 * 1536 * tokens
    assert found["head"] == 4 * 151_936 * 1536 * tokens
    assert found["adapters"] == 6 * 28 * adapter * tokens - 2 * 3 * 32 * 1536 * tokens
    assert found["attention"] == 28 * 12 * 64 * (512 * 513 // 2) * 1536
    assert sum(found.values()) == pytest.approx(213.7e12, rel=1e-3)


def test_no_ray_and_no_compiler_on_the_cpu():
    program = (
        "import sys; from benchmarks import gpu_training as g; g.main(['--tiny', '--no-peft'])\n"
        "bad = [m for m in ('ray', 'pydantic', 'pandas', 'transformers', 'torch._inductor') if m in sys.modules]\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said():
    with pytest.raises(SystemExit, match="No CUDA device is here"):
        gpu_training.main(["--device", "cuda"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_small_step_on_the_gpu(capsys):
    small = {"layers": 2, "hidden": 256, "heads": 4, "intermediate": 512, "vocabulary": 1000, "length": 64,
             "devices": 4, "square": 1024, "steps": 2, "passes": 1}  # fmt: skip
    given = gpu_training.main([f"--{k}={v}" for k, v in small.items()])
    capsys.readouterr()
    for side in given["training"]:
        for peft in side["peft"].values():
            losses = side["first_losses"][: len(peft["first_losses"])]
            assert peft["first_losses"] == pytest.approx(losses, rel=0.01)
