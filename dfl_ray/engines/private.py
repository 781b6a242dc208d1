"""DP-SGD: local steps from clipped gradients of single rows, and Gaussian noise.

The engine trains many adapters at once, each on its own rows. So a step gives each row a copy of its adapter: the
gradient of a copy is that of the one row, whatever the model's layers. Rows go through in parts, so that the copies of
one part take bounded memory (`engines.private_memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.private_memory import GPU_ROW_VALUES, ROW_VALUES
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
    frozen: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
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
        frozen: One (S, R, d), (S, m, R) pair a layer that is added to the adapters and not trained.

    Returns:
        (rows, size) gradients and (rows,) losses in nats.
    """
    a = None if static_a is None else [x[owner] for x in static_a]
    held = None if frozen is None else [(x[owner], y[owner]) for x, y in frozen]
    copies = theta[owner].clone()
    without = copies.new_zeros(0)  # no step is made, so that moments are not asked for
    leaves = Leaves(layout, AdapterState(copies, without, without, without), a, held)
    losses = backward(model, leaves, [[row] for row in rows], scale)
    return leaves.gradient, losses


def clipped_sums(
    gradients: torch.Tensor,
    owner: torch.Tensor,
    adapters: int,
    clip_norm: float,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mask each row's gradient by what may change of its adapter, clip it, and sum the rows of each adapter.

    t_k = sum_i g_i min(1, C / |g_i|) over the rows i of adapter k, with g_i = 0 outside `keep`.

    Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1. Departure: a row whose gradient isn't finite is 0.

    Args:
        gradients: (rows, size).
        owner: (rows,) int64, the adapter of each row.
        adapters: Number of adapters.
        clip_norm: C.
        keep: (adapters, size) bool; None = all may change.

    Returns:
        (adapters, size).
    """
    finite = torch.isfinite(gradients).all(dim=1, keepdim=True)
    gradients = torch.where(finite if keep is None else finite & keep[owner], gradients, 0.0)
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    clipped = gradients * (clip_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
    return clipped.new_zeros(adapters, gradients.shape[1]).index_add_(0, owner, clipped)


def noisy_mean_(
    total: torch.Tensor, noise: ExampleNoise, step: int, keep: torch.Tensor | None = None
) -> None:
    """Add noise to the sum of each adapter's clipped gradients and divide by the expected number of rows, in place.

    g_k = (t_k + N(0, (s C)^2 I)) / L_k; the noise is 0 outside `keep`. Adapters that make no steps stay.

    Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1.

    Args:
        total: (adapters, size) t.
        noise: C, s and L.
        step: Number of the step, for its draw.
        keep: (adapters, size) bool; None = all may change.
    """
    deviation = noise.noise_multiplier * noise.clip_norm
    for adapter in np.flatnonzero(noise.expected_rows).tolist():
        drawn = torch.from_numpy(noise.draws(adapter, step).normal(0.0, deviation, total.shape[1])).to(total)
        total[adapter] += drawn if keep is None else drawn * keep[adapter]
        total[adapter] /= float(noise.expected_rows[adapter])


def row_parts(
    layout: Layout, fixed: Sequence[torch.Tensor] | None, rows: int, *, gpu: bool = False
) -> Iterator[slice]:
    """Divide a step's rows into those whose adapters' copies are held at once: `ROW_VALUES`, or one row.

    Args:
        layout: Where the factors lie; of a core the up factors are made for each row too.
        fixed: Stacks (S, ...) that are copied for each row: static A, frozen parts.
        rows: Number of rows.
        gpu: Whether they are held on a GPU.

    Yields:
        Consecutive parts.
    """
    one = layout.size + sum(x[0].numel() for x in fixed or ()) + 2 * sum(u.size for u in layout.ups)
    most = max(1, (GPU_ROW_VALUES if gpu else ROW_VALUES) // max(1, one))
    yield from (slice(first, first + most) for first in range(0, rows, most))


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
        gradient, losses = torch.zeros_like(state.theta), np.zeros(len(pairs), np.float32)
        for part in row_parts(layout, static_a, len(pairs), gpu=device.type == "cuda"):
            of_rows, told = row_gradients(
                model, layout, state.theta, owner[part], [row for _, row in pairs[part]], scale=scale,
                static_a=static_a,
            )  # fmt: skip
            gradient += clipped_sums(of_rows, owner[part], count, noise.clip_norm, keep)
            losses[part] = told.cpu().numpy()
        noisy_mean_(gradient, noise, step, keep)
        proximal_(gradient, state.theta, start, size)
        if keep is not None:
            gradient.mul_(keep)
        step_(state, gradient, size, active, keep)
        np.add.at(sums, owner.cpu().numpy(), losses)
        np.add.at(seen, owner.cpu().numpy(), 1)
        norms += torch.linalg.vector_norm(gradient, dim=1).cpu().numpy() / steps
        tokens += [sum(int(t.lengths[i]) - 1 for t, i in w.steps[step]) for w in work]
    with np.errstate(invalid="ignore"):
        loss = (sums / np.where(seen, seen, np.nan)).astype(np.float32)
    finite = np.isfinite(sums) & torch.isfinite(state.theta).all(dim=1).cpu().numpy()
    return TrainingResult(loss, norms.astype(np.float32), finite, tokens)
