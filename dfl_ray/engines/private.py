"""DP-SGD: local steps from clipped gradients of single rows, and Gaussian noise.

The engine trains many adapters at once, each on its own rows. So a step gives each row a copy of its adapter: the
gradient of a copy is that of the one row, whatever the model's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.training import LocalWork, ScoredModel, TrainingResult, backward
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize, proximal_, step_
from dfl_ray.tasks.tokens import TokenRows

Pair = tuple[TokenRows, int]


@dataclass(frozen=True)
class ExampleNoise:
    """The mechanism `examples`.

    Attributes:
        clip_norm: C, the largest norm of one row's gradient.
        noise_multiplier: s; the noise on the sum of the gradients is N(0, (s C)^2) in every entry.
        expected_rows: (adapters,) rows that a step draws on average; 0 for an adapter that makes no steps.
        draws: (adapter, step) -> the generator of this step's noise.
    """

    clip_norm: float
    noise_multiplier: float
    expected_rows: np.ndarray
    draws: Callable[[int, int], np.random.Generator]


def row_gradients(
    model: ScoredModel, layout: Layout, theta: torch.Tensor, owner: torch.Tensor, rows: Sequence[Pair], *,
    scale: float, static_a: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradient of each row's mean token loss with respect to its own adapter.

    Args:
        model: The shared base.
        layout: Where the factors lie.
        theta: (S, size) adapters.
        owner: (rows,) int64, the adapter of each row.
        rows: The rows, as (table, row index), at least one.
        scale: alpha / r.
        static_a: One (S, r, d) stack a layer when A is not stored in the layout.

    Returns:
        (rows, size) gradients and (rows,) losses in nats.
    """
    a = None if static_a is None else [x[owner] for x in static_a]
    leaves = Leaves(layout, AdapterState.from_theta(theta[owner].clone()), a)
    losses = backward(model, leaves, [[row] for row in rows], scale)
    return leaves.gradient, losses


def private_mean(
    gradients: torch.Tensor, owner: torch.Tensor, noise: ExampleNoise, step: int
) -> torch.Tensor:
    """Clip each row's gradient, sum them for each adapter, add noise, divide by the expected number of rows.

    g_k = (sum_i g_i min(1, C / |g_i|) + N(0, (s C)^2 I)) / L_k over the rows i of adapter k.

    Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1. Departure: a row whose gradient isn't finite is 0.

    Args:
        gradients: (rows, size).
        owner: (rows,) int64, the adapter of each row.
        noise: C, s and L.
        step: Number of the step, for its draw.

    Returns:
        (adapters, size); zeros for an adapter that makes no steps.
    """
    finite = torch.isfinite(gradients).all(dim=1, keepdim=True)
    gradients = torch.where(finite, gradients, 0.0)
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    clipped = gradients * (noise.clip_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
    total = clipped.new_zeros(len(noise.expected_rows), gradients.shape[1]).index_add_(0, owner, clipped)
    deviation = noise.noise_multiplier * noise.clip_norm
    for adapter in np.flatnonzero(noise.expected_rows).tolist():
        drawn = noise.draws(adapter, step).normal(0.0, deviation, total.shape[1])
        total[adapter] += torch.from_numpy(drawn).to(total)
        total[adapter] /= float(noise.expected_rows[adapter])
    return total


def train_privately(
    model: ScoredModel,
    layout: Layout,
    state: AdapterState,
    work: Sequence[LocalWork],
    *,
    size: StepSize,
    scale: float,
    noise: ExampleNoise,
    static_a: Sequence[torch.Tensor] | None = None,
    keep: torch.Tensor | None = None,
) -> TrainingResult:
    """Train S adapters for their local steps by DP-SGD, in place; see `engines.training.train_adapters`.

    A step without rows adds its noise all the same: whether a row was drawn must not show. `size.clip_norm` isn't used.

    Args:
        model: The shared base.
        layout: Where the factors lie.
        state: The adapters, (S, layout.size).
        work: One entry an adapter, all with the same number of steps.
        size: Settings of a step.
        scale: alpha / r.
        noise: Clipping and noise.
        static_a: As in `train_adapters`.
        keep: As in `train_adapters`.

    Returns:
        Mean losses, norms of the noisy gradients, finiteness and tokens of each adapter.
    """
    count = len(work)
    sums, norms, tokens, seen = np.zeros(count), np.zeros(count), np.zeros(count, np.int64), np.zeros(count)
    device = state.theta.device
    active = torch.from_numpy(noise.expected_rows > 0).to(device)
    steps = len(work[0].steps)
    start = state.theta.clone() if size.proximal else None
    for step in range(steps):
        pairs = [(k, row) for k, w in enumerate(work) for row in w.steps[step]]
        owner = torch.tensor([k for k, _ in pairs], dtype=torch.int64, device=device)
        gradients, losses = state.theta.new_zeros(0, layout.size), torch.zeros(0)
        if pairs:
            rows = [row for _, row in pairs]
            gradients, losses = row_gradients(
                model, layout, state.theta, owner, rows, scale=scale, static_a=static_a
            )
        gradient = private_mean(gradients, owner, noise, step)
        proximal_(gradient, state.theta, start, size)
        if keep is not None:
            gradient.mul_(keep)
        step_(state, gradient, size, active, keep)
        np.add.at(sums, owner.cpu().numpy(), losses.cpu().numpy())
        np.add.at(seen, owner.cpu().numpy(), 1)
        norms += torch.linalg.vector_norm(gradient, dim=1).cpu().numpy() / steps
        tokens += [sum(int(t.lengths[i]) - 1 for t, i in w.steps[step]) for w in work]
    with np.errstate(invalid="ignore"):
        loss = (sums / np.where(seen, seen, np.nan)).astype(np.float32)
    finite = np.isfinite(sums) & torch.isfinite(state.theta).all(dim=1).cpu().numpy()
    return TrainingResult(loss, norms.astype(np.float32), finite, tokens)
