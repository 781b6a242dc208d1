"""The compiled passes of a large model on a CPU against torch in float64, and bfloat16 against torch's own rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dfl_ray.engines.cpu import passes, vector_ir
from dfl_ray.engines.cpu.arrays import address, element
from dfl_ray.engines.cpu.weights import MOST_QUERIES, pull_attention
from dfl_ray.engines.gpu import kernels as plain
from tests.plain_decoder import decoder

EPS = 1e-5
KINDS = {torch.float32: (2e-6, 2e-6), torch.bfloat16: (2**-7, 2**-8)}
"""Precision -> relative and absolute error allowed; a bfloat16 result has been rounded twice."""


@pytest.fixture(params=[4, 8, 16])
def lanes(request, monkeypatch):
    monkeypatch.setattr(vector_ir, "width", lambda: request.param)
    return request.param


def draw(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(mine, exact, dtype):
    rtol, atol = KINDS[dtype]
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), exact, rtol=rtol, atol=atol * float(exact.abs().max() + 1))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("width", [1, 6, 16, 24, 64])
def test_norm_and_its_gradient(width, dtype, lanes):
    x, change, dout, beside = (draw(5, width, dtype=dtype, seed=s) for s in range(4))
    weight = 1 + 0.3 * draw(width, dtype=dtype, seed=9)
    exact = x.double().requires_grad_()
    true = F.rms_norm(exact, (width,), weight.double(), EPS)
    (slope,) = torch.autograd.grad(true, exact, dout.double())
    out, inverse = passes.norm(x, weight, EPS)
    near(out, true.detach(), dtype)
    assert torch.equal(passes.renorm(x, inverse, weight), out)
    near(passes.norm_backward_add(dout, x, inverse, weight, beside), slope + beside.double(), dtype)
    total, again, same = passes.add_norm(x, change, weight, EPS)
    assert torch.equal(total, x + change)
    wanted, other = passes.norm(total, weight, EPS)
    assert torch.equal(again, wanted) and torch.equal(same, other)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("head_dim", [2, 12, 32, 64])
def test_rotation_and_back(head_dim, dtype, lanes):
    x = draw(7, 3, head_dim, dtype=dtype)
    angle = draw(7, 1, head_dim // 2, dtype=torch.float64).repeat(1, 1, 2)
    cos, sin = angle.cos().float(), angle.sin().float()
    near(passes.rotate(x, cos, sin), plain.rotate(x.double(), cos.double(), sin.double()), dtype)
    near(passes.rotate(x, cos, sin, back=True), plain.rotate(x.double(), cos.double(), -sin.double()), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, *KINDS])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("length", [1, 5, 16, 33, MOST_QUERIES + 9])
def test_the_gradient_of_attention(length, heads, dtype, lanes):
    shapes = [(2, length, heads[i], 8) for i in (0, 1, 1, 0)]
    q, k, v, dout = (draw(*s, dtype=dtype, seed=n) for n, s in enumerate(shapes))
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    grouped = [t.transpose(1, 2) for t in exact]
    out = F.scaled_dot_product_attention(*grouped, is_causal=True, enable_gqa=True)
    true = [t.detach() for t in torch.autograd.grad(out, exact, dout.double().transpose(1, 2))]
    rtol, atol = KINDS.get(dtype, (1e-12, 1e-12))
    for mine, wanted in zip(pull_attention(q, k, v, dout), true, strict=True):
        assert mine.dtype == dtype and mine.shape == wanted.shape
        assert float((mine.double() - wanted).norm() / wanted.norm().clamp(min=1e-9)) < 2 * max(rtol, atol)


def test_a_row_with_a_nan_keeps_it_to_itself(lanes):
    q, k, v, dout = (draw(2, 20, 2, 8, dtype=torch.float32, seed=s) for s in range(4))
    whole = pull_attention(q, k, v, dout)
    q[1, 3] = torch.nan
    broken = pull_attention(q, k, v, dout)
    for mine, other in zip(broken, whole, strict=True):
        assert torch.equal(mine[0], other[0])
        assert mine[1].isnan().any()


def test_bfloat16_is_rounded_as_torch_rounds(lanes):
    special = [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, -3.4e38, 1e-40, torch.inf]
    values = torch.cat([torch.tensor([*special, -torch.inf]), draw(200, dtype=torch.float32) * 1e3])
    values = torch.cat([values, values.new_zeros(-len(values) % 16)])
    out = torch.empty(len(values), dtype=torch.bfloat16)
    into_nan = torch.full((16,), torch.nan)
    run = vector_ir.compile_kernel(
        "round", [vector_ir.FLOAT, element(out)], 1, lanes,
        lambda vec, x, to, count: _copy(vec, x, to, count),
    )  # fmt: skip
    run(address(values), address(out), len(values) // lanes)
    assert torch.equal(out.view(torch.int16), values.bfloat16().view(torch.int16))
    run(address(into_nan), address(out), 16 // lanes)
    assert out[:16].isnan().all()


def _copy(vec, x, to, count):
    with vec.loop(vector_ir.INT64(0), count) as i:
        at = vec.builder.mul(i, vector_ir.INT64(vec.width))
        vec.store(vec.load(x, at), to, at)


def test_other_precisions_and_gaps_are_refused():
    with pytest.raises(TypeError, match="float64"):
        element(torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="gaps"):
        address(torch.zeros(4, 4).t())


@pytest.mark.parametrize("dtype", KINDS)
def test_a_models_modules_take_the_passes_only_without_gradients(dtype):
    from dfl_ray.engines.gpu.make import take_compiled_passes

    model, _ = decoder({"hidden_size": 64, "intermediate_size": 96}, dtype)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        before = model(ids).logits
    take_compiled_passes(model)
    with torch.no_grad():
        after = model(ids).logits
    assert not torch.equal(before, after) or dtype == torch.bfloat16
    bound = 1e-5 if dtype == torch.float32 else 0.03
    assert float((after - before).float().norm() / before.float().norm()) < bound
    assert torch.equal(model(ids).logits, before)
