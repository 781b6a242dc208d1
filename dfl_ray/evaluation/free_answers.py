"""Free answers: greedy generation under an adapter, and their scores as texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from dfl_ray.engines.batches import Batch, padded_length
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.text_scores import TEXT_SCORES
from dfl_ray.lora.inject import Binding
from dfl_ray.models.cache import KeyValueCache
from dfl_ray.tasks.tokens import FreeAnswers

TOKENS_PER_PASS = 6144
"""Most tokens of one forward pass, padding included."""

BindingOf = Callable[[Sequence[int]], Binding | None]
"""Gives the adapter for some of the rows, by their place in the batch."""


def generate(
    model: ScoredModel,
    prompts: Sequence[np.ndarray],
    binding: BindingOf,
    *,
    end: Sequence[int],
    most: int,
) -> list[list[int]]:
    """Decode greedily: each next token is the likeliest, the first of equal ones.

    The project's own decoder keeps keys and values, so that a prompt is computed once and each further token alone.
    Elsewhere, and under adapters that are weighed by what they read (`Binding.gate`), every step runs the whole rows
    again. Rows that have ended leave the batch.

    Args:
        model: The shared base.
        prompts: Token ids of each row's prompt, one at the least.
        binding: The adapter, for the rows that still go on.
        end: Tokens that end an answer; empty = nothing does.
        most: Tokens at most.

    Returns:
        Token ids of each answer, the end left out.
    """
    said: list[list[int]] = [[] for _ in prompts]
    open_rows = list(range(len(prompts)))
    stop = list(end)
    ask = _asker(model, prompts, binding, most)
    for _ in range(most):
        for k, token in zip(open_rows, ask(open_rows, said), strict=True):
            said[k].append(token)
        open_rows = [k for k in open_rows if not stop or said[k][-len(stop) :] != stop]
        if not open_rows:
            break
    return [ids[: -len(stop)] if stop and ids[-len(stop) :] == stop else ids for ids in said]


_Ask = Callable[[list[int], Sequence[list[int]]], list[int]]
"""Gives the likeliest next token of the open rows, by what was said so far."""


def _asker(model: ScoredModel, prompts: Sequence[np.ndarray], binding: BindingOf, most: int) -> _Ask:
    every = list(range(len(prompts)))
    first = binding(every)
    if model.keeps_cache and (first is None or (first.gate is None and first.observe is None)):
        return _Cached(model, prompts, binding, most)

    def again(open_rows: list[int], said: Sequence[list[int]]) -> list[int]:
        batch = _next_tokens([np.concatenate([prompts[k], said[k]]).astype(np.int64) for k in open_rows])
        with torch.no_grad():
            return model.logits(batch.to(model.device), binding(open_rows)).argmax(1).cpu().tolist()

    return again


class _Cached:
    """Asks with a cache of keys and values; see `_Ask`."""

    def __init__(
        self, model: ScoredModel, prompts: Sequence[np.ndarray], binding: BindingOf, most: int
    ) -> None:
        self.model, self.binding = model, binding
        self.rows = list(range(len(prompts)))
        first = _next_tokens(prompts)
        self.ids = first.input_ids.to(model.device)
        lengths = torch.tensor([len(p) for p in prompts], device=model.device)
        room = max(first.input_ids.shape[1], int(lengths.max()) + most)
        self.cache = KeyValueCache(lengths, room)
        self.bound = binding(self.rows)

    def __call__(self, open_rows: list[int], said: Sequence[list[int]]) -> list[int]:
        place = {k: n for n, k in enumerate(self.rows)}
        self.cache.keep(torch.tensor([place[k] for k in open_rows], device=self.model.device))
        if open_rows != self.rows:
            self.rows, self.bound = list(open_rows), self.binding(open_rows)
        if self.cache.filled:
            self.ids = torch.tensor([[said[k][-1]] for k in open_rows], device=self.model.device)
        with torch.no_grad():
            return self.model.next_logits(self.ids, self.bound, self.cache).argmax(1).cpu().tolist()


def _next_tokens(rows: Sequence[np.ndarray]) -> Batch:
    """Rows whose last position alone is scored."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), padded_length(int(lengths.max()))), np.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    source = np.stack([np.arange(len(rows)), lengths - 1], axis=1)
    targets = torch.zeros(len(rows), dtype=torch.int64)
    return Batch(
        torch.from_numpy(ids), torch.from_numpy(source), targets, int(lengths.sum()), None, None, lengths
    )


def score_answers(
    model: ScoredModel,
    prompts: Sequence[np.ndarray],
    places: Sequence[int],
    binding: BindingOf,
    free: FreeAnswers,
) -> np.ndarray:
    """Generate and score some rows of a task.

    Args:
        model: The shared base.
        prompts: Token ids of each asked row's prompt.
        places: The row's index among the task's test rows, for its right answer.
        binding: The adapter of rows by their place in `prompts`.
        free: What the task's answers are and how they are scored.

    Returns:
        (rows,) float64 scores in [0, 1].
    """
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(free.tokenizer)
    measure = TEXT_SCORES[free.score]
    order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
    out = np.zeros(len(prompts))
    for first, last in pairwise(_cuts([len(prompts[k]) + free.most for k in order])):
        rows = order[first:last]
        texts = generate(
            model,
            [prompts[k] for k in rows],
            lambda still, rows=rows: binding([rows[k] for k in still]),
            end=free.end,
            most=free.most,
        )
        for k, ids in zip(rows, texts, strict=True):
            out[k] = measure(reader.decode(ids).strip(), free.right[places[k]])
    return out


def _cuts(lengths: Sequence[int]) -> list[int]:
    """Where to cut ascending lengths so that a padded batch has at most `TOKENS_PER_PASS` tokens, one row at least."""
    cuts = [0]
    for k, length in enumerate(lengths):
        if k > cuts[-1] and padded_length(length) * (k + 1 - cuts[-1]) > TOKENS_PER_PASS:
            cuts.append(k)
    return [*cuts, len(lengths)]
