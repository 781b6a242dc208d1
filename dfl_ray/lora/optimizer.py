"""AdamW, SGD and clipping for many adapters at once, each as if it were alone.

Everything is element-wise or reduces over one adapter's own row, so stepping S adapters together equals S
separate runs of `torch.optim.AdamW` or `torch.optim.SGD` after `clip_grad_norm_` (Loshchilov and Hutter 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from dfl_ray.engines.memory import VALUES_AT_ONCE
from dfl_ray.lora.range import LARGEST_VALUE

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class AdapterState:
    """Parameters and moments of S adapters; rows are adapters.

    Attributes:
        theta: (S, size) float32 parameters.
        exp_avg: (S, size) first moment.
        exp_avg_sq: (S, size) second moment.
        steps: (S,) int64, updates made so far.
    """

    theta: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    steps: torch.Tensor

    @classmethod
    def from_theta(cls, theta: torch.Tensor) -> AdapterState:
        """Make a fresh state around given parameters: both moments and all step counts are 0.

        Args:
            theta: (S, size) float32, kept and not copied.

        Returns:
            The state, on the device of `theta`.
        """
        zeros = torch.zeros(theta.shape[0], dtype=torch.int64, device=theta.device)
        return cls(theta, torch.zeros_like(theta), torch.zeros_like(theta), zeros)

    def rows(self, start: int, stop: int) -> AdapterState:
        """View some of the adapters; writing to the view writes to this state.

        Args:
            start: First adapter.
            stop: First adapter behind the last.

        Returns:
            State of `stop - start` adapters.
        """
        part = slice(start, stop)
        return AdapterState(self.theta[part], self.exp_avg[part], self.exp_avg_sq[part], self.steps[part])

    def take(self, rows: torch.Tensor) -> AdapterState:
        """Copy some of the adapters; `put` brings them back.

        Args:
            rows: (A,) int64, indices of adapters.

        Returns:
            State of A adapters.
        """
        return AdapterState(self.theta[rows], self.exp_avg[rows], self.exp_avg_sq[rows], self.steps[rows])

    def put(self, rows: torch.Tensor, state: AdapterState) -> None:
        """Write adapters that `take` has copied back to their places.

        Args:
            rows: (A,) int64, indices of adapters, each once.
            state: State of A adapters.
        """
        self.theta[rows], self.exp_avg[rows] = state.theta, state.exp_avg
        self.exp_avg_sq[rows], self.steps[rows] = state.exp_avg_sq, state.steps


@dataclass(frozen=True)
class StepSize:
    """Settings of one update.

    Attributes:
        learning_rate: lr, >= 0.
        weight_decay: wd, >= 0; decoupled from the gradient.
        clip_norm: Largest norm of an adapter's gradient, > 0.
        proximal: mu >= 0 of FedProx; see `proximal_`.
        optimizer: The rule of the update, `adamw_` or `sgd_`.
    """

    learning_rate: float
    weight_decay: float
    clip_norm: float
    proximal: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"


def proximal_(
    gradient: torch.Tensor, theta: torch.Tensor, start: torch.Tensor | None, size: StepSize
) -> None:
    """Add the gradient of the proximal term, in place: g <- g + mu (x - x0), of mu/2 |x - x0|^2.

    Source: Li et al. 2020 (arXiv 1812.06127), "Federated optimization in heterogeneous networks" (FedProx), equation 2.
    Departure: x0 is what the device itself began the round with, since there is no server whose model it could be.

    Args:
        gradient: (S, size), changed in place.
        theta: (S, size) x.
        start: (S, size) x0, or None where mu is 0.
        size: Step settings, with mu.
    """
    if start is not None:
        gradient.add_(theta - start, alpha=size.proximal)


def clip_(gradient: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """Scale each adapter's gradient g to norm <= clip_norm, in place.

    g <- g min(1, clip_norm / (|g| + 1e-6)), one norm an adapter.

    Source: Pascanu, Mikolov and Bengio 2013 (arXiv 1211.5063), algorithm 1, with the 1e-6 of
    `torch.nn.utils.clip_grad_norm_`.

    Args:
        gradient: (S, size), changed in place.
        clip_norm: Largest norm, > 0.

    Returns:
        (S,) norms before clipping.
    """
    norms = torch.linalg.vector_norm(gradient, dim=1)
    gradient.mul_((clip_norm / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1))
    return norms


def step_(
    state: AdapterState,
    gradient: torch.Tensor,
    size: StepSize,
    active: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> None:
    """Make one step of the active adapters by `size.optimizer`, in place; arguments are those of `adamw_`.

    On a CPU adapters are stepped `VALUES_AT_ONCE` at a time: what lies in between stays small and is not fetched anew.
    """
    rule = adamw_ if size.optimizer == "adamw" else sgd_
    adapters, values = state.theta.shape
    most = adapters if state.theta.is_cuda else max(1, VALUES_AT_ONCE // max(1, values))
    for first in range(0, adapters, max(1, most)):
        some = slice(first, min(first + most, adapters))
        part = state.rows(some.start, some.stop)
        rule(part, gradient[some], size, active[some], None if keep is None else keep[some])


def sgd_(
    state: AdapterState,
    gradient: torch.Tensor,
    size: StepSize,
    active: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> None:
    """Make one gradient step of the active adapters, in place: theta <- theta - lr (g + wd theta), without momentum.

    Both moments stay 0. Without momentum a decay that is coupled to the gradient, as in `torch.optim.SGD`, and one that
    is not, theta (1 - lr wd) - lr g, are the same.

    Source: Robbins and Monro 1951, "A stochastic approximation method"; `torch.optim.SGD` with momentum 0.

    Args:
        state: The adapters.
        gradient: (S, size), clipped and masked.
        size: Step settings.
        active: (S,) bool; the others keep parameters and step count.
        keep: (S, size) bool; entries outside it stay, None = all may change.
    """
    may = active.unsqueeze(1) if keep is None else keep & active.unsqueeze(1)
    change = gradient.add(state.theta, alpha=size.weight_decay) if size.weight_decay else gradient
    state.theta.copy_(torch.where(may, state.theta - size.learning_rate * change, state.theta))
    state.steps += active


def adamw_(
    state: AdapterState,
    gradient: torch.Tensor,
    size: StepSize,
    active: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> None:
    """Make one AdamW step of the active adapters, in place.

    m <- b1 m + (1-b1) g, v <- b2 v + (1-b2) g^2,
    theta <- theta (1 - lr wd) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps), with t counted per adapter.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2. Departure: the decay is multiplied by the
    learning rate, as in `torch.optim.AdamW`.

    Args:
        state: The adapters.
        gradient: (S, size), clipped and masked.
        size: Step settings.
        active: (S,) bool; the others keep parameters, moments and step count.
        keep: (S, size) bool; entries outside it keep parameters and moments, None = all may change.
    """
    if keep is not None:
        before = [t.clone() for t in (state.theta, state.exp_avg, state.exp_avg_sq)]
        adamw_(state, gradient, size, active)
        for now, old in zip((state.theta, state.exp_avg, state.exp_avg_sq), before, strict=True):
            now.copy_(torch.where(keep, now, old))
        return
    if bool(active.all()):
        _adamw_all_(state, gradient, size)
        return
    index = active.nonzero().squeeze(1)
    if index.numel() == 0:
        return
    part = AdapterState(state.theta[index], state.exp_avg[index], state.exp_avg_sq[index], state.steps[index])
    _adamw_all_(part, gradient[index], size)
    for whole, changed in zip(vars(state).values(), vars(part).values(), strict=True):
        whole[index] = changed


def _adamw_all_(state: AdapterState, gradient: torch.Tensor, size: StepSize) -> None:
    state.steps += 1
    if state.theta.is_cuda:
        _adamw_fused_(state, gradient, size)
    else:
        _adamw_plain_(state, gradient, size)


def _adamw_fused_(state: AdapterState, gradient: torch.Tensor, size: StepSize) -> None:
    """One pass over memory instead of a dozen: torch's own fused kernel, an adapter as a parameter."""
    torch._fused_adamw_(
        list(state.theta), list(gradient), list(state.exp_avg), list(state.exp_avg_sq), [],
        list(state.steps.float()), lr=size.learning_rate, beta1=BETA1, beta2=BETA2,
        weight_decay=size.weight_decay, eps=EPSILON, amsgrad=False, maximize=False,
    )  # fmt: skip


def _adamw_plain_(state: AdapterState, gradient: torch.Tensor, size: StepSize) -> None:
    t = state.steps.to(state.theta.dtype).unsqueeze(1)
    state.exp_avg.lerp_(gradient, 1 - BETA1)
    state.exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = state.exp_avg_sq.sqrt().div_((1 - BETA2**t).sqrt()).add_(EPSILON)
    if size.weight_decay:
        state.theta.mul_(1 - size.learning_rate * size.weight_decay)
    state.theta.sub_(state.exp_avg / denominator * (size.learning_rate / (1 - BETA1**t)))


def in_range(theta: torch.Tensor) -> torch.Tensor:
    """Tell which adapters hold only finite values that float16 can hold; others have diverged.

    Training from LoRA's start moves a value by at most about the learning rate a step, so that a value beyond
    65504 belongs to no adapter that could be sent, exported or used.

    Args:
        theta: (..., size) values of the adapters, size > 0.

    Returns:
        (...) bool, True where max |theta| <= `LARGEST_VALUE` and no value is NaN.
    """
    least, most = torch.aminmax(theta, dim=-1)
    return (least >= -LARGEST_VALUE) & (most <= LARGEST_VALUE)
