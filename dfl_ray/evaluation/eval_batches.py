"""Held-out rows made ready for one forward pass, and kept: other devices and later rounds ask the same rows again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.engines.batches import Batch
from dfl_ray.engines.cpu.plan import Plan
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.packed_prompts import PackedPrompt, collate_prompts

KEPT_BYTES = 2**26
"""Most memory of one process's kept eval_batches; the least recently used go first."""


@dataclass(frozen=True)
class AnswerKey:
    """How the scores of an eval batch's tokens become right or wrong of its rows.

    Attributes:
        candidate: (scored,) the candidate answer each scored token belongs to, counted over the eval_batch.
        row: (candidates,) the row of each candidate.
        place: (candidates,) its place among the row's candidates.
        label: (rows,) the right place.
        greedy: (rows,) bool, whether the row is asked by greedy exact match.
    """

    candidate: np.ndarray
    row: np.ndarray
    place: np.ndarray
    label: np.ndarray
    greedy: np.ndarray

    def right(self, likelihood: np.ndarray | None, exact: np.ndarray | None) -> np.ndarray:
        """Decide which rows are answered right.

        A greedy row is right if all tokens of its answer are the likeliest ones. Another is right if the candidate
        with the largest sum of token log-likelihoods, the first of equal ones, is its label; a row with a NaN is
        wrong.

        Args:
            likelihood: (scored,) log-likelihood of each token in nats; None if no row needs it.
            exact: (scored,) bool, whether each token is the likeliest; None if no row needs it.

        Returns:
            (rows,) bool.
        """
        out = np.zeros(len(self.label), bool)
        if exact is not None:
            wrong = np.bincount(self.row[self.candidate], weights=~exact, minlength=len(out))
            out[self.greedy] = wrong[self.greedy] == 0
        if likelihood is not None:
            sums = np.bincount(self.candidate, weights=likelihood, minlength=len(self.row))
            table = np.full((len(out), int(self.place.max()) + 1), -np.inf)
            table[self.row, self.place] = sums
            # A likelihood that is no number compares with nothing: such a row is wrong, whatever its label.
            right = (table.argmax(axis=1) == self.label) & ~np.isnan(table).any(axis=1)
            out[~self.greedy] = right[~self.greedy]
        return out


@dataclass(frozen=True)
class EvalBatch:
    """Rows of one forward pass.

    Attributes:
        batch: All packs, on the model's device.
        adapter_of_prompt: (packs,) the adapter that answers each.
        plan: The batch laid out for the merged path; None where that is not taken.
        answer_key: What makes answers right.
    """

    batch: Batch
    adapter_of_prompt: np.ndarray
    plan: Plan | None
    answer_key: AnswerKey

    @property
    def bytes(self) -> int:
        """Memory it holds, about, in bytes: its largest parts are masks and index tables."""
        b = self.batch
        tensors = [t for t in (b.input_ids, b.source, b.targets, b.mask, b.positions) if t is not None]
        layouts = 0 if self.plan is None else self.plan.full.layout.bytes + self.plan.last.layout.bytes
        return sum(t.numel() * t.element_size() for t in tensors) + layouts

    def judge(self, logits: torch.Tensor) -> np.ndarray:
        """Decide which rows are answered right from the logits of their scored tokens.

        The log-likelihood of a token is its logit minus the log-sum-exp of all logits.

        Args:
            logits: (scored, vocabulary), on the model's device.

        Returns:
            (rows,) bool.
        """
        likelihood = exact = None
        if not self.answer_key.greedy.all():
            chosen = logits.gather(1, self.batch.targets.unsqueeze(1)).squeeze(1)
            likelihood = (chosen - logits.logsumexp(1)).double().cpu().numpy()
        if self.answer_key.greedy.any():
            exact = (logits.argmax(1) == self.batch.targets).cpu().numpy()
        return self.answer_key.right(likelihood, exact)


def make_eval_batch(
    model: ScoredModel, adapters: Sequence[Sequence[Sequence[PackedPrompt]]], *, merged: bool
) -> EvalBatch:
    """Make rows ready for one forward pass.

    Args:
        model: The shared base.
        adapters: For each adapter its rows, each as its packs (`packed_prompts.pack_task`).
        merged: Whether the pass takes the merged path.

    Returns:
        The batch on the model's device, with its plan where it is merged and its answer key.
    """
    rows = [row for adapter in adapters for row in adapter]
    packs = [pack for row in rows for pack in row]
    adapter_of_prompt = np.repeat(np.arange(len(adapters)), [sum(map(len, adapter)) for adapter in adapters])
    batch = collate_prompts(packs)
    plan = model.plan(batch, adapter_of_prompt, len(adapters)) if merged else None
    return EvalBatch(batch.to(model.device), adapter_of_prompt, plan, _answer_key(rows))


def _answer_key(rows: Sequence[Sequence[PackedPrompt]]) -> AnswerKey:
    candidates = np.array([sum(int(p.answer.max()) + 1 for p in row) for row in rows])
    token: list[np.ndarray] = []
    first = 0
    for row in rows:
        for pack in row:
            token.append(pack.answer + first)
            first += int(pack.answer.max()) + 1
    place = np.arange(first) - np.repeat(np.cumsum(candidates) - candidates, candidates)
    greedy = np.array([row[0].greedy for row in rows])
    label = np.array([row[0].label for row in rows])
    return AnswerKey(np.concatenate(token), np.repeat(np.arange(len(rows)), candidates), place, label, greedy)


class EvalBatchCache:
    """Keeps eval batches by what they are made of, about `KEPT_BYTES` of them at most, but always the newest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], EvalBatch] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[object, ...], make: Callable[[], EvalBatch]) -> EvalBatch:
        """Give the eval batch of a key, made if it is not kept; the least recently used ones are dropped for room.

        Args:
            key: What the batch is made of.
            make: Makes it.

        Returns:
            The batch.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        eval_batch = make()
        self._kept[key] = eval_batch
        self._bytes += eval_batch.bytes
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        return eval_batch
