"""The compiled gate against float64 autograd, for widths that fill no vector, and far out where e^x overflows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dfl_ray.engines.cpu import vector_ir
from dfl_ray.engines.cpu.gate import gated, gated_backward


def pulled(dout, gate_up):
    out = torch.empty_like(gate_up)
    gated_backward(dout, *gate_up.chunk(2, 1), *out.chunk(2, 1))
    return out


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("features", [1, 3, 8, 16, 17, 172])
def test_value_and_gradient(features, width, monkeypatch):
    monkeypatch.setattr(vector_ir, "width", lambda: width)
    generator = torch.Generator().manual_seed(features)
    gate_up = torch.randn(7, 2 * features, generator=generator) * 3
    dout = torch.randn(7, features, generator=generator)
    exact = gate_up.double().requires_grad_()
    gate, up = exact.chunk(2, 1)
    out = F.silu(gate) * up
    (gradient,) = torch.autograd.grad(out, exact, dout.double())
    torch.testing.assert_close(gated(*gate_up.chunk(2, 1)).double(), out.detach(), rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(pulled(dout, gate_up).double(), gradient, rtol=2e-6, atol=2e-6)


def test_large_gates_saturate_and_nan_stays_where_it_is():
    gate = torch.tensor([[200.0, -200.0, 1e30, -1e30, torch.nan, 2.0]])
    gate_up = torch.cat((gate, torch.ones_like(gate)), 1)
    expected = torch.tensor([[200.0, 0.0, 1e30, 0.0, torch.nan, float(F.silu(torch.tensor(2.0)))]])
    torch.testing.assert_close(gated(*gate_up.chunk(2, 1)), expected, equal_nan=True, rtol=1e-6, atol=1e-6)
    back = pulled(torch.ones_like(gate), gate_up)
    slope = torch.tensor([[1.0, 0.0, 1.0, 0.0, torch.nan]])
    torch.testing.assert_close(back[:, :5], slope, equal_nan=True, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(back[:, 5]).all()
