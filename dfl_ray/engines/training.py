"""Local training of many devices in one batched forward and backward.

The loss is the sum over adapters of their own mean token loss, gradients are clipped per adapter and the optimiser is
element-wise, so K devices together are exactly K separate runs up to the order of floating-point sums.

Source: Hu et al. 2021 (arXiv 2106.09685), equation 3 (low-rank adapters); Loshchilov and Hutter 2019
(arXiv 1711.05101) (AdamW); Pascanu et al. 2013 (arXiv 1211.5063), algorithm 1 (clipping by the norm).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from dfl_ray.engines.batches import Batch, collate, within
from dfl_ray.engines.classes import class_logits
from dfl_ray.engines.correction import Correction
from dfl_ray.engines.cpu.decoder import MergedDecoder
from dfl_ray.engines.cpu.heap import trim_heap
from dfl_ray.engines.cpu.linear import Factors
from dfl_ray.engines.cpu.make import MERGED_BYTES, fits, merged_decoder
from dfl_ray.engines.cpu.plan import Plan, make_plan
from dfl_ray.engines.gpu.kernels import Compile
from dfl_ray.engines.gpu.make import Choice, large_decoder
from dfl_ray.engines.gpu.step import step_gradients
from dfl_ray.engines.leaves import Leaves
from dfl_ray.lora.inject import AdaptedLinear, Binding, BindingCell, classifies
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize, clip_, proximal_, step_
from dfl_ray.models.cache import KeyValueCache
from dfl_ray.models.llama import CausalDecoder
from dfl_ray.models.positions import longest_constant
from dfl_ray.tasks.tokens import TokenRows


class ScoredModel:
    """A causal language model, or a classifier, that computes logits only where they are asked for.

    Args:
        model: The frozen base with adapted layers (`inject`).
        cell: The cell that `inject` gave.
        large: Whether training takes `dfl_ray.engines.gpu`: "auto" on CUDA and for models too large to merge, "on"
            wherever it can, "off" never.
        compile: Whether that path compiles its passes over memory on CUDA.

    Attributes:
        most_positions: Length beyond which padding might change a row; None where it never does.
    """

    def __init__(
        self, model: torch.nn.Module, cell: BindingCell, *, large: Choice = "auto", compile: Compile = "auto"
    ) -> None:
        self.model = model
        self.cell = cell
        self.device = next(model.parameters()).device
        self._source: torch.Tensor | None = None
        self._shape = (0, 0)
        self._gathered = False
        self.large = large_decoder(model, large, compile)
        self._merged = merged_decoder(model)
        self.most_positions = _positions_of(model)
        self.classifies = classifies(model)
        head: torch.nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
        if head is not None:
            head.register_forward_pre_hook(self._gather)

    def _gather(
        self, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        hidden = inputs[0]
        if self._source is None or tuple(hidden.shape[:2]) != self._shape:
            return None
        self._gathered = True
        return (hidden[self._source[:, 0], self._source[:, 1]].unsqueeze(0), *inputs[1:])

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Between steps: what training keeps for the next goes back to the system before, what is left free after."""
        if self.large is not None and self.large.activations is not None:
            self.large.activations.release()
        trim_heap()
        yield
        trim_heap()

    @property
    def keeps_cache(self) -> bool:
        """Whether `next_logits` can be asked: the project's own decoder, its output head not adapted."""
        return isinstance(self.model, CausalDecoder) and not isinstance(self.model.lm_head, AdaptedLinear)

    @property
    def most_adapters(self) -> int:
        """Number of adapters whose merged weights fit into `MERGED_BYTES`; 0 where the merged path is not taken."""
        return 0 if self._merged is None else MERGED_BYTES // (4 * self._merged.merged_values)

    def plan(self, batch: Batch, adapter_of_row: np.ndarray, adapters: int) -> Plan | None:
        """Lay a batch out for the merged path, as `logits` would do anew at each call.

        Args:
            batch: The rows.
            adapter_of_row: (rows,) int64, the adapter of each row.
            adapters: Number of adapters S.

        Returns:
            The plan, or None where the model does not take the merged path or S is above `most_adapters`.
        """
        if self._merged is None or adapters > self.most_adapters:
            return None
        return make_plan(batch, adapter_of_row, adapters, self._merged.shape, self._merged.frequencies)

    def logits(self, batch: Batch, binding: Binding | None, plan: Plan | None = None) -> torch.Tensor:
        """Compute the logits at the batch's source positions under the given adapters.

        Args:
            batch: The rows.
            binding: Their adapters; None is the bare base model.
            plan: What `plan` made of the same batch and adapters; it saves time and changes no result.

        Returns:
            (scored, vocabulary) float32.
        """
        watched = binding is not None and (binding.observe is not None or binding.gate is not None)
        if self._merged is not None and not watched:
            adapters = 1 if binding is None or not binding.b else len(binding.b[0])
            if fits(self._merged, adapters):
                return self._merged_logits(self._merged, batch, binding, adapters, plan)
        batch = within(batch, self.most_positions)
        self._shape = (batch.input_ids.shape[0], batch.input_ids.shape[1])
        if self.classifies:
            return class_logits(self.model, self.cell, batch, binding)
        self.cell.current, self.cell.shape, self._source = binding, self._shape, batch.source
        self._gathered = False
        extra = {} if batch.mask is None else {"attention_mask": batch.mask, "position_ids": batch.positions}
        try:
            logits = self.model(input_ids=batch.input_ids, use_cache=False, **extra).logits
        finally:
            self.cell.current, self.cell.shape, self._source = None, None, None
        return (logits[0] if self._gathered else logits[batch.source[:, 0], batch.source[:, 1]]).float()

    def _merged_logits(
        self, decoder: MergedDecoder, batch: Batch, binding: Binding | None, adapters: int, plan: Plan | None
    ) -> torch.Tensor:
        factors = Factors((), (), 1.0) if binding is None else Factors(binding.a, binding.b, binding.scale)
        if plan is None:
            where = _adapter_of_row(len(batch.input_ids), binding, adapters)
            plan = make_plan(batch, where, adapters, decoder.shape, decoder.frequencies)
        hidden = decoder.hidden(plan, factors)
        return self.model.lm_head(self.model.model.norm(hidden)).float()  # type: ignore[union-attr,operator]

    def next_logits(
        self, input_ids: torch.Tensor, binding: Binding | None, cache: KeyValueCache
    ) -> torch.Tensor:
        """Compute the logits that follow each row's last token; earlier tokens are taken from a cache.

        Args:
            input_ids: (rows, length) int64; see `CausalDecoder.next_logits`.
            binding: The rows' adapters; None is the bare base model.
            cache: The rows' keys and values, which are extended.

        Returns:
            (rows, vocabulary) float32.

        Raises:
            ValueError: The model keeps no cache (`keeps_cache`).
        """
        if not self.keeps_cache or not isinstance(self.model, CausalDecoder):
            raise ValueError("this model keeps no cache of keys and values")
        self.cell.current = binding
        self.cell.shape = (input_ids.shape[0], input_ids.shape[1])
        try:
            return self.model.next_logits(input_ids, cache).float()
        finally:
            self.cell.current, self.cell.shape = None, None

    def observe(
        self, batch: Batch, see: Callable[[int, torch.Tensor], None], layers: Iterable[int] | None = None
    ) -> None:
        """Run the bare base model without gradients, only to show adapted layers' inputs.

        Args:
            batch: The rows.
            see: Called as `see(layer index, input)` with the input (rows, length, d) of each adapted layer.
            layers: The layers whose inputs are wanted, None for all. The project's own decoder, which calls each layer
                once, is left as soon as these have been seen, before the later blocks and the head.
        """
        left = None if layers is None or not isinstance(self.model, CausalDecoder) else set(layers)

        def shown(layer: int, x: torch.Tensor) -> None:
            see(layer, x)
            if left is not None:
                left.discard(layer)
                if not left:
                    raise _SeenAll

        with torch.no_grad(), suppress(_SeenAll):
            self.logits(batch, Binding((), (), None, 0.0, observe=shown))


class _SeenAll(Exception):
    """Leaves a forward pass whose remainder nobody asks for."""


def _positions_of(model: torch.nn.Module) -> int | None:
    """Length beyond which padding might change a row or has no position; None for the project's own decoder."""
    if isinstance(model, CausalDecoder):
        return None
    return longest_constant(json.dumps(model.config.to_dict(), default=str))  # type: ignore[union-attr,operator]


def _adapter_of_row(rows: int, binding: Binding | None, adapters: int) -> np.ndarray:
    if binding is None or adapters == 1:
        return np.zeros(rows, np.int64)
    return (
        np.arange(rows) // (rows // adapters)
        if binding.adapter_index is None
        else binding.adapter_index.numpy()
    )


@dataclass(frozen=True)
class LocalWork:
    """What one adapter trains on in a round.

    Attributes:
        steps: For each local step its rows, as (table, row index); a step may have none.
    """

    steps: Sequence[Sequence[tuple[TokenRows, int]]]


@dataclass(frozen=True)
class TrainingResult:
    """What the local steps of S adapters gave.

    Means are over an adapter's steps that had rows, up to the first whose loss or gradient was not finite.

    Attributes:
        loss: (S,) float32, mean of the mean token losses in nats; NaN for an adapter without such a step.
        gradient_norm: (S,) float32, mean Euclidean norm of the masked gradient before clipping; NaN likewise.
        finite: (S,) bool, whether loss and gradient norm stayed finite in every step.
        tokens: (S,) int64, input tokens of all rows of all steps.
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    finite: np.ndarray
    tokens: np.ndarray


def train_adapters(
    model: ScoredModel,
    layout: Layout,
    state: AdapterState,
    work: Sequence[LocalWork],
    *,
    size: StepSize,
    scale: float,
    static_a: Sequence[torch.Tensor] | None = None,
    frozen: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    keep: torch.Tensor | None = None,
    correction: Correction | None = None,
) -> TrainingResult:
    """Train S adapters together for their local steps, in place.

    In each step the gradient of sum_k L_k is formed, with L_k the mean token loss of adapter k on its own rows, so
    that each adapter gets the gradient of its own loss; then each gradient is masked by `keep`, clipped to
    `size.clip_norm` and followed by one step of `size.optimizer`. An adapter without rows in a step, or whose loss or
    gradient norm was not finite in this or an earlier step, is left as it is.

    Args:
        model: The shared base.
        layout: Where the factors lie in `state.theta`.
        state: The adapters, (S, layout.size).
        work: One entry an adapter, all with the same number of steps (steps may be empty of rows).
        size: Settings of a step.
        scale: s = alpha / r.
        static_a: One (S, r, d) stack a layer when A is not stored in the layout.
        frozen: One (S, R, d), (S, m, R) pair a layer that is added to the adapters and not trained.
        keep: (S, size) bool; entries that may change (mask of a sparse method, or the active factor).
        correction: Control variates; None = none.

    Returns:
        Mean losses and gradient norms, finiteness and tokens of each adapter.
    """
    leaves = Leaves(layout, state, static_a, frozen)
    adapters, steps = len(work), len(work[0].steps)
    losses, norms = torch.zeros(adapters), torch.zeros(adapters)
    counted, tokens = torch.zeros(adapters), torch.zeros(adapters)
    finite = torch.ones(adapters, dtype=torch.bool)
    start = state.theta.clone() if size.proximal else None
    for step in range(steps):
        rows = [w.steps[step] for w in work]
        active = torch.tensor([len(r) > 0 for r in rows])
        if not bool(active.any()):
            continue
        loss = backward(model, leaves, rows, scale)
        if correction is not None:
            correction.apply_(leaves.gradient)
        proximal_(leaves.gradient, state.theta, start, size)
        if keep is not None:
            leaves.gradient.mul_(keep)
        norm = clip_(leaves.gradient, size.clip_norm)
        finite &= ~active | (torch.isfinite(loss) & torch.isfinite(norm)).cpu()
        active &= finite
        if correction is not None:
            correction.count(active)
        step_(state, leaves.gradient, size, active.to(state.theta.device), keep)
        used = active.float()
        losses += torch.where(active, loss.cpu(), 0.0)
        norms += torch.where(active, norm.cpu(), 0.0)
        counted += used
        tokens += torch.tensor([float(sum(t.offsets[i + 1] - t.offsets[i] - 1 for t, i in r)) for r in rows])
    return TrainingResult(
        (losses / counted).numpy(), (norms / counted).numpy(), finite.numpy(), tokens.numpy().astype(np.int64)
    )


def backward(
    model: ScoredModel, leaves: Leaves, rows: Sequence[Sequence[tuple[TokenRows, int]]], scale: float
) -> torch.Tensor:
    """Form the gradients of the sum of the adapters' mean token losses.

    Args:
        model: The shared base.
        leaves: The adapters; their gradients are written.
        rows: The rows of each adapter.
        scale: alpha / r.

    Returns:
        (adapters,) mean token losses in nats.
    """
    if model.large is not None:
        a, b = leaves.factors(None)
        losses = step_gradients(model.large, rows, a, b, scale, leaves.into.get("a"), leaves.into["b"])
        leaves.fold()
        return losses
    counts = [len(r) for r in rows]
    used = torch.tensor([k for k, n in enumerate(counts) if n])
    even = len({n for n in counts if n}) == 1
    a, b = leaves.factors(used.to(model.device) if even and len(used) < len(counts) else None)
    adapter_index = None if even else torch.repeat_interleave(torch.tensor(counts)).to(model.device)
    batch = collate([pair for r in rows for pair in r]).to(model.device)
    logits = model.logits(batch, Binding(a, b, adapter_index, scale))
    nll = F.cross_entropy(logits, batch.targets, reduction="none")
    owner = torch.repeat_interleave(torch.tensor(counts)).to(model.device)[batch.source[:, 0]]
    scored = torch.bincount(owner, minlength=len(rows)).clamp(min=1)
    means = torch.zeros(len(rows), device=model.device).index_add(0, owner, nll) / scored
    leaves.differentiate(means.sum())
    return means.detach()


def device_means(
    parts: Sequence[TrainingResult], starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From figures per adapter to figures per device: means over the adapters that had rows.

    Args:
        parts: Results of all adapters, in their order.
        starts: (devices,) index of each device's first adapter.

    Returns:
        (devices,) loss, gradient norm and tokens; loss and norm are NaN without rows.
    """
    loss, norm, tokens = (
        np.concatenate([getattr(p, f) for p in parts]) for f in ("loss", "gradient_norm", "tokens")
    )
    seen = ~np.isnan(loss)
    trained = np.add.reduceat(seen, starts)
    counts = np.where(trained > 0, trained, np.nan)  # no rows, no loss
    return (
        np.add.reduceat(np.where(seen, loss, 0), starts) / counts,
        np.add.reduceat(np.where(seen, norm, 0), starts) / counts,
        np.add.reduceat(tokens, starts),
    )
