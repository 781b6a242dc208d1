"""The passes over memory between the products, each one function so that a compiler can make one kernel of it.

On a GPU `torch.compile` fuses each of them; elsewhere they run as written and the compiler is never imported. Sums
and square roots are done in float32, or in float64 where the input is; results are in the input's precision.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn import functional as F

from dfl_ray.engines.cpu import gate, passes
from dfl_ray.engines.cpu.activations import ActivationMemory
from dfl_ray.engines.cpu.arrays import KINDS
from dfl_ray.engines.gpu.linear import Outputs
from dfl_ray.errors import first_line

Compile = Literal["auto", "off"]


def wide(x: torch.Tensor) -> torch.Tensor:
    """Convert to the precision in which sums are done: float32, or float64 where the input is float64."""
    return x if x.dtype == torch.float64 else x.float()


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute RMSNorm over the last dimension, x / sqrt(mean(x^2) + eps) * weight.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4, with eps under the root as in the Llama models.

    Args:
        x: (..., width).
        weight: (width,).
        eps: Added to the mean square, > 0.

    Returns:
        The normed input, in its precision, and (..., 1) 1 / sqrt(mean(x^2) + eps) for `norm_backward`, in float32
        (float64).
    """
    inverse = torch.rsqrt(wide(x).square().mean(-1, keepdim=True) + eps)
    return renorm(x, inverse, weight), inverse


def add_norm(
    x: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add a change to the residual path and norm the sum.

    Args:
        x: (tokens, d).
        change: (tokens, d).
        weight: (d,) weight of the norm.
        eps: See `norm`.

    Returns:
        x + change, and the two results of `norm` of it.
    """
    total = x + change
    return total, *norm(total, weight, eps)


def renorm(x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute the norm's output once more, x * inverse * weight.

    Args:
        x: (..., width), the norm's input.
        inverse: (..., 1), the second result of `norm`.
        weight: (width,).

    Returns:
        (..., width), in the precision of x.
    """
    return weight * (wide(x) * inverse).to(x.dtype)


def norm_backward(
    dout: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Compute the gradient of the norm's input: dx = inverse (g - x inverse^2 mean(g x)) with g = dout * weight.

    The weight is frozen and gets no gradient.

    Args:
        dout: (..., width), gradient of the norm's output.
        x: (..., width), the norm's input.
        inverse: (..., 1), the second result of `norm`.
        weight: (width,).

    Returns:
        (..., width), in the precision of `dout`.
    """
    g, input_ = wide(dout) * wide(weight), wide(x)
    mean = (g * input_).mean(-1, keepdim=True)
    return (inverse * (g - input_ * inverse.square() * mean)).to(dout.dtype)


def norm_backward_add(
    dout: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, beside: torch.Tensor
) -> torch.Tensor:
    """Compute `norm_backward` plus the gradient that comes along the residual path.

    Args:
        dout: (tokens, d), gradient of the norm's output.
        x: (tokens, d), the norm's input.
        inverse: (tokens, 1), the second result of `norm`.
        weight: (d,).
        beside: (tokens, d), gradient of the norm's input along the residual path.

    Returns:
        (tokens, d).
    """
    return beside + norm_backward(dout, x, inverse, weight)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions: pairs (i, i + head_dim/2) of each head are turned by the angle of their token.

    The gradient's way is `rotate` with the sines negated.

    Source: Su et al. 2021 (arXiv 2104.09864). Departure: the two halves of a head are paired, as in `transformers`,
    in place of neighbouring features.

    Args:
        x: (tokens, heads, head_dim).
        cos: (tokens, 1, head_dim) cosines.
        sin: (tokens, 1, head_dim) sines.

    Returns:
        (tokens, heads, head_dim), in the precision of x.
    """
    first, second = wide(x).chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return (wide(x) * cos + turned * sin).to(x.dtype)


def split_heads(
    qkv: Outputs, cos: torch.Tensor, sin: torch.Tensor, heads: int, kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split a joined projection into heads, and rotate queries and keys.

    Args:
        qkv: (tokens, (heads + 2 kv_heads) head_dim): queries, keys, values; or one matrix each.
        cos: (tokens, 1, head_dim) cosines of the rotary angles.
        sin: The sines.
        heads: Query heads.
        kv_heads: Key and value heads.

    Returns:
        Queries (tokens, heads, head_dim), keys and values (tokens, kv_heads, head_dim); none shares the input's
        memory where that is one matrix.
    """
    q, k, v = by_head(qkv, heads, kv_heads)
    apart = v if len(qkv) > 1 else v.clone(memory_format=torch.contiguous_format)
    return rotate(q, cos, sin), rotate(k, cos, sin), apart


def by_head(qkv: Outputs, heads: int, kv_heads: int) -> list[torch.Tensor]:
    """See a joined projection as heads.

    Args:
        qkv: (tokens, (heads + 2 kv_heads) head_dim): queries, keys, values; or one matrix each.
        heads: Query heads.
        kv_heads: Key and value heads.

    Returns:
        Queries (tokens, heads, head_dim), keys and values (tokens, kv_heads, head_dim): views.
    """
    counts = [heads, kv_heads, kv_heads]
    if len(qkv) > 1:
        return [t.view(len(t), count, -1) for t, count in zip(qkv, counts, strict=True)]
    return list(qkv[0].view(len(qkv[0]), sum(counts), -1).split(counts, 1))


def join_heads(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pieces: int
) -> Outputs:
    """Compute the gradient of `split_heads`' input from those of its outputs.

    Args:
        dq: (tokens, heads, head_dim).
        dk: (tokens, kv_heads, head_dim).
        dv: (tokens, kv_heads, head_dim).
        cos: (tokens, 1, head_dim), as in `split_heads`.
        sin: The sines.
        pieces: Matrices that the input was, 1 or 3.

    Returns:
        (tokens, (heads + 2 kv_heads) head_dim), or one matrix each.
    """
    own = (rotate(dq, cos, -sin), rotate(dk, cos, -sin), dv)
    return tuple(t.flatten(1) for t in own) if pieces > 1 else (torch.cat(own, 1).flatten(1),)


def _halves(gate_up: Outputs) -> Sequence[torch.Tensor]:
    return gate_up if len(gate_up) > 1 else gate_up[0].chunk(2, 1)


def gated(gate_up: Outputs) -> torch.Tensor:
    """Compute silu(gate) * up with silu(g) = g / (1 + e^-g).

    Source: Shazeer 2020 (arXiv 2002.05202), the variant SwiGLU.

    Args:
        gate_up: (tokens, 2 m): gate, then up; or one matrix each.

    Returns:
        (tokens, m), in the precision of the input.
    """
    gate, up = _halves(gate_up)
    return (F.silu(wide(gate)) * wide(up)).to(gate.dtype)


def gated_backward(
    dout: torch.Tensor, gate_up: Outputs, again: bool = True
) -> tuple[Outputs, torch.Tensor | None]:
    """Compute the gradient of `gated`'s input, and `gated`'s output once more.

    dgate = dout up s (1 + gate - gate s) and dup = dout gate s, with s = 1 / (1 + e^-gate).

    Args:
        dout: (tokens, m), gradient of `gated`'s output.
        gate_up: `gated`'s input.
        again: Whether `gated`'s output is wanted.

    Returns:
        dgate and then dup, in one matrix or two as `gate_up` is, and (tokens, m) or None; all in the precision of
        `dout`.
    """
    gate, up = (wide(t) for t in _halves(gate_up))
    d, share = wide(dout), torch.sigmoid(gate)
    switched = gate * share
    dgate, dup = d * up * share * (1 + gate - switched), d * switched
    active = (switched * up).to(dout.dtype) if again else None
    pulled = (dgate, dup) if len(gate_up) > 1 else (torch.cat((dgate, dup), 1),)
    return tuple(t.to(dout.dtype) for t in pulled), active


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute -log softmax(logits)[target] of each row, and the gradient of its weighted sum in the logits.

    Args:
        logits: (rows, vocabulary).
        targets: (rows,) int64.
        weights: (rows,).

    Returns:
        (rows,) losses in nats, float32 (float64 for float64), and (rows, vocabulary) weight * (softmax - onehot) in
        the logits' precision.
    """
    values = wide(logits)
    whole = torch.logsumexp(values, -1, keepdim=True)
    loss = whole - values.gather(1, targets.unsqueeze(1))
    hit = torch.arange(logits.shape[1], device=logits.device) == targets.unsqueeze(1)
    slope = (torch.exp(values - whole) - hit.to(values.dtype)) * weights.to(values.dtype).unsqueeze(1)
    return loss.squeeze(1), slope.to(logits.dtype)


@dataclass(frozen=True)
class Kernels:
    """The functions above, compiled or as written; same names, arguments and results."""

    norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = norm
    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = add_norm
    renorm: Callable[..., torch.Tensor] = renorm
    norm_backward: Callable[..., torch.Tensor] = norm_backward
    norm_backward_add: Callable[..., torch.Tensor] = norm_backward_add
    split_heads: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = split_heads
    join_heads: Callable[..., Outputs] = join_heads
    gated: Callable[..., torch.Tensor] = gated
    gated_backward: Callable[..., tuple[Outputs, torch.Tensor | None]] = gated_backward
    cross_entropy: Callable[..., tuple[torch.Tensor, torch.Tensor]] = cross_entropy


class _Compiled:
    """A function compiled at its first call, and taken as written for good where compiling fails."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain
        self.chosen: Callable[..., Any] = torch.compile(plain)
        self.proven = False

    def __call__(self, *arguments: Any) -> Any:
        """The function's result."""
        try:
            out = self.chosen(*arguments)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            if self.proven:
                raise
            warnings.warn(
                f"`{self.plain.__name__}` runs without torch.compile ({type(error).__name__}: "
                f"{first_line(error, 200)}); slower, same results. Set `runtime.compile` to `off` to try no more.",
                RuntimeWarning,
                stacklevel=2,
            )
            self.chosen = self.plain
            out = self.plain(*arguments)
        self.proven = True
        return out


def _gated_on_cpu(gate_up: Outputs) -> torch.Tensor:
    """`gated` by the compiled loop."""
    return gate.gated(*_halves(gate_up))


def _gated_backward_on_cpu(
    dout: torch.Tensor, gate_up: Outputs, again: bool = True
) -> tuple[Outputs, torch.Tensor | None]:
    """`gated_backward` by the compiled loops."""
    out = tuple(torch.empty_like(t) for t in gate_up)
    gate.gated_backward(dout, *_halves(gate_up), *_halves(out))
    return out, _gated_on_cpu(gate_up) if again else None


def _split_heads_on_cpu(
    qkv: Outputs, cos: torch.Tensor, sin: torch.Tensor, heads: int, kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`split_heads` of three matrices by the compiled loop."""
    q, k, v = by_head(qkv, heads, kv_heads)
    return passes.rotate(q, cos, sin), passes.rotate(k, cos, sin), v


def _join_heads_on_cpu(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, _pieces: int
) -> Outputs:
    """`join_heads` into three matrices by the compiled loop."""
    turned = (passes.rotate(t, cos, sin, back=True) for t in (dq, dk))
    return tuple(t.flatten(1) for t in (*turned, dv))


def _cross_entropy_on_cpu(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cross_entropy` of logits whose memory, in float32, the slope takes over: three passes over it and not eight."""
    values = logits.float()
    whole = torch.logsumexp(values, -1, keepdim=True)
    at = targets.unsqueeze(1)
    loss = (whole - values.gather(1, at)).squeeze(1)
    slope = values.sub_(whole).exp_()
    slope.scatter_add_(1, at, torch.full_like(whole, -1.0))
    return loss, slope.mul_(weights.to(slope.dtype).unsqueeze(1)).to(logits.dtype)


def make_kernels(
    device: torch.device,
    compile: Compile = "auto",
    dtype: torch.dtype = torch.bfloat16,
    activations: ActivationMemory | None = None,
) -> Kernels:
    """The functions for a device.

    Args:
        device: Where the tensors live; only CUDA is ever compiled for by torch.
        compile: "off" has torch compile nothing.
        dtype: Precision of the products.
        activations: Memory of what a step keeps, where it has one of its own.

    Returns:
        The functions, each compiled at its first call on CUDA; one that cannot be compiled runs as written, with a
        warning. On a CPU in float32 and bfloat16 they are the loops of `engines.cpu`, and the loss works in the
        logits' memory.
    """
    if device.type == "cpu" and dtype in KINDS:
        add_norm = partial(passes.add_norm, empty=activations.empty) if activations else passes.add_norm
        return Kernels(
            norm=passes.norm, add_norm=add_norm, renorm=passes.renorm,
            norm_backward_add=passes.norm_backward_add,
            split_heads=_split_heads_on_cpu, join_heads=_join_heads_on_cpu, gated=_gated_on_cpu,
            gated_backward=_gated_backward_on_cpu, cross_entropy=_cross_entropy_on_cpu,
        )  # fmt: skip
    if device.type != "cuda" or compile == "off":
        return Kernels()
    plain = Kernels()
    return Kernels(**{name: _Compiled(getattr(plain, name)) for name in vars(plain)})
