"""Scoring of (adapter, held-out row) pairs; every distinct pair is computed once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from dfl_ray.engines.block_masks import takes_block_masks
from dfl_ray.engines.memory import (
    EVALUATION_TOKENS,
    MERGED_BYTES,
    PAD_MULTIPLE,
    PASS_MERGED_BYTES,
    PASS_TOKENS,
)
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.eval_batches import EvalBatch, EvalBatchCache, make_eval_batch
from dfl_ray.evaluation.free_answers import score_answers
from dfl_ray.evaluation.packed_prompts import PackedPrompt, collate_prompts, pack_task
from dfl_ray.experts.gates import GateOf
from dfl_ray.lora.inject import Binding
from dfl_ray.seeds import Stream, generator
from dfl_ray.tasks.tokens import TokenTask


@dataclass(frozen=True)
class Adapter:
    """An adapter as the model takes it; its rank R may differ by inference rule.

    Attributes:
        a: A of every layer, (R, d) each.
        b: B of every layer, (m, R) each.
        gate: Gives, for the (task, place) of each row of a batch, what weighs A x (`experts.gates`); None = nothing.
    """

    a: Sequence[torch.Tensor]
    b: Sequence[torch.Tensor]
    gate: GateOf | None = None


def evaluation_rows(task: TokenTask, task_index: int, *, seed: int, rows: int | None) -> np.ndarray:
    """Draw the held-out rows asked of every device: without replacement, from the seed, the same for all.

    Args:
        task: The task.
        task_index: Its index; each task has a draw of its own.
        seed: The run's seed.
        rows: Rows to draw; None, or as many as there are, takes all.

    Returns:
        (rows,) row indices, ascending.
    """
    if rows is None or rows >= len(task.test):
        return np.arange(len(task.test))
    drawn = generator(seed, Stream.EVALUATION_ROWS, task_index).choice(len(task.test), rows, replace=False)
    return np.sort(drawn)


def rows_of(tasks: Mapping[int, np.ndarray]) -> int:
    """Count the rows that an adapter is asked.

    Args:
        tasks: Task index -> (rows,) bool.
    """
    return sum(int(rows.sum()) for rows in tasks.values())


class Scorer:
    """Scores held-out rows of all tasks under any adapters.

    Where the model takes the merged path, several adapters share one pass; elsewhere each has passes of its own, so
    that its products are plain ones.

    Args:
        model: The shared base with adapted layers.
        tasks: All tasks.
        scale: s = alpha / r.
        seed: The run's seed, for the draw of held-out rows.
        rows_per_task: Held-out rows asked; None = all.

    Attributes:
        advance: Told how many rows a call of `score` has asked of the adapters before the one that is next.
    """

    def __init__(
        self,
        model: ScoredModel,
        tasks: Sequence[TokenTask],
        *,
        scale: float,
        seed: int,
        rows_per_task: int | None,
    ) -> None:
        self.model = model
        self.scale = scale
        self.rows = [evaluation_rows(t, i, seed=seed, rows=rows_per_task) for i, t in enumerate(tasks)]
        self.packs = [pack_task(t, r) for t, r in zip(tasks, self.rows, strict=True)]
        at = longest_choice(self.packs)
        if at is not None:
            alone = pack_task(tasks[at[0]], self.rows[at[0]][at[1] : at[1] + 1], packed=False)[0]
            together = collate_prompts(self.packs[at[0]][at[1]])
            if not takes_block_masks(model, together, collate_prompts(alone)):
                self.packs = [pack_task(t, r, packed=False) for t, r in zip(tasks, self.rows, strict=True)]
        self._tasks = list(tasks)
        self._longest = [np.array([max(len(p.ids) for p in row) for row in task]) for task in self.packs]
        self._tokens = [np.array([sum(len(p.ids) for p in row) for row in task]) for task in self.packs]
        self._packs_of = [np.array([len(row) for row in task]) for task in self.packs]
        self._kept = EvalBatchCache()
        self._most_adapters = max(1, model.most_adapters * PASS_MERGED_BYTES // MERGED_BYTES)
        self.advance: Callable[[int], None] | None = None

    def score(
        self,
        wanted: Mapping[Hashable, Mapping[int, np.ndarray]],
        adapter: Callable[[Hashable], Adapter | None],
    ) -> dict[Hashable, dict[int, np.ndarray]]:
        """Score which held-out rows are answered right.

        Args:
            wanted: Adapter key -> task index -> (rows,) bool, the rows (by place in `self.rows[task]`) to ask.
            adapter: Gives the adapter of a key; None is the bare base model.

        Returns:
            Adapter key -> task index -> (rows,), as `nothing` says: right or not, or the score of a free answer;
            rows not asked are False or 0.
        """
        out = {k: {t: self.nothing(t) for t in ts} for k, ts in wanted.items()}
        together: list[_Piece] = []
        before = 0
        for key, tasks in wanted.items():
            if not (asked := rows_of(tasks)):
                continue
            if self.advance is not None:
                self.advance(before)
            before += asked
            used = adapter(key)
            merged = self.model.most_adapters > 0 and (used is None or used.gate is None)
            for task, rows in tasks.items():
                if self._tasks[task].free is not None and rows.any():
                    out[key][task][rows] = self._free_scores(used, task, np.flatnonzero(rows))
            packed = {t: m for t, m in tasks.items() if self._tasks[t].free is None}
            for pairs, tokens in self._pieces(packed, merged):
                piece = _Piece(key, used, pairs, tokens, merged)
                if together and not self._joins(together, piece):
                    self._score(together, out)
                    together = []
                together.append(piece)
        if together:
            self._score(together, out)
        return out

    def nothing(self, task: int) -> np.ndarray:
        """What a task's scores are before any row is asked.

        Args:
            task: The task's index.

        Returns:
            (rows,) False; for a task whose answers are generated (rows,) float64 zeros.
        """
        return np.zeros(len(self.rows[task]), bool if self._tasks[task].free is None else np.float64)

    def _free_scores(self, used: Adapter | None, task: int, rows: np.ndarray) -> np.ndarray:
        """Scores of the generated answers of some rows of a task, by place in `self.rows[task]`."""
        asked = self._tasks[task]
        assert asked.free is not None
        places = self.rows[task][rows].tolist()

        def binding(still: Sequence[int]) -> Binding | None:
            return (
                None if used is None else self._binding([used], None, [(task, int(rows[k])) for k in still])
            )

        prompts = [asked.test.prompt(place) for place in places]
        return score_answers(self.model, prompts, places, binding, asked.free)

    def _pieces(self, tasks: Mapping[int, np.ndarray], merged: bool) -> list[tuple[np.ndarray, int]]:
        """The asked (task, row) pairs in pieces of similar length, and how many tokens each piece costs."""
        asked = [(t, np.flatnonzero(m)) for t, m in tasks.items()]
        if not asked:
            return []
        pairs = np.concatenate([np.stack([np.full(len(i), t), i], axis=1) for t, i in asked])
        if not len(pairs):
            return []
        longest = np.concatenate([self._longest[t][i] for t, i in asked])
        order = np.lexsort((pairs[:, 1], pairs[:, 0], longest))
        if merged:
            cost = np.concatenate([self._tokens[t][i] for t, i in asked])[order]
            limit = PASS_TOKENS
        else:
            packs = np.concatenate([self._packs_of[t][i] for t, i in asked])
            cost = (-(-longest // PAD_MULTIPLE) * PAD_MULTIPLE * packs)[order]
            limit = EVALUATION_TOKENS
        cuts = _cuts(cost, limit)
        return [(pairs[order[i:j]], int(cost[i:j].sum())) for i, j in pairwise(cuts)]

    def _joins(self, together: Sequence[_Piece], piece: _Piece) -> bool:
        """Whether a piece can be scored in the same pass as others."""
        first = together[0]
        return (
            first.merged and piece.merged and len(together) < self._most_adapters
            and _rank(first.adapter) == _rank(piece.adapter) is not None
            and sum(p.tokens for p in together) + piece.tokens <= PASS_TOKENS
        )  # fmt: skip

    def _score(self, together: Sequence[_Piece], out: Mapping[Hashable, Mapping[int, np.ndarray]]) -> None:
        merged = together[0].merged
        eval_batch = self._kept.get(
            (merged, *(p.pairs.tobytes() for p in together)),
            lambda: make_eval_batch(
                self.model,
                [[self.packs[t][i] for t, i in p.pairs.tolist()] for p in together],
                merged=merged,
            ),
        )
        binding = self._bind(together, eval_batch)
        with torch.no_grad():
            right = eval_batch.judge(self.model.logits(eval_batch.batch, binding, eval_batch.plan))
        start = 0
        for piece in together:
            mine = right[start : start + len(piece.pairs)]
            start += len(piece.pairs)
            for task in np.unique(piece.pairs[:, 0]).tolist():
                of_task = piece.pairs[:, 0] == task
                out[piece.key][task][piece.pairs[of_task, 1]] = mine[of_task]

    def _bind(self, together: Sequence[_Piece], eval_batch: EvalBatch) -> Binding | None:
        adapters = [p.adapter for p in together if p.adapter is not None]
        if together[0].adapter is None:
            return None
        pairs = [(t, i) for t, i in together[0].pairs.tolist() for _ in self.packs[t][i]]
        return self._binding(adapters, eval_batch.adapter_of_prompt, pairs)

    def _binding(
        self,
        adapters: Sequence[Adapter],
        adapter_of_row: np.ndarray | None,
        pairs: Sequence[tuple[int, int]],
    ) -> Binding:
        """Adapters for a pass, with the gate of the first for the (task, place) of each row."""
        a, b = (
            [torch.stack(layer).to(self.model.device) for layer in zip(*factors, strict=True)]
            for factors in ([x.a for x in adapters], [x.b for x in adapters])
        )
        several = len(adapters) > 1 and adapter_of_row is not None
        adapter_index = torch.from_numpy(adapter_of_row) if several else None
        binding = Binding(a, b, adapter_index, self.scale)
        if adapters[0].gate is not None:
            binding.gate = adapters[0].gate(pairs)
        return binding


@dataclass(frozen=True)
class _Piece:
    """Rows one adapter is asked in one pass: (rows, 2) pairs of task and place."""

    key: Hashable
    adapter: Adapter | None
    pairs: np.ndarray
    tokens: int
    merged: bool


def _rank(adapter: Adapter | None) -> tuple[int, ...] | None:
    return None if adapter is None else tuple(a.shape[0] for a in adapter.a)


def _cuts(cost: np.ndarray, limit: int) -> list[int]:
    """Where to cut a sequence so that each part costs about the same and at most `limit`, one item at the least."""
    parts = -(-int(cost.sum()) // limit)
    share = cost.sum() / parts
    cuts, spent = [0], 0
    for i, c in enumerate(cost.tolist()):
        if i > cuts[-1] and (spent + c > limit or spent + c / 2 > share):
            cuts.append(i)
            spent = 0
        spent += c
    return [*cuts, len(cost)]


def longest_choice(packs: Sequence[Sequence[Sequence[PackedPrompt]]]) -> tuple[int, int] | None:
    """Find the longest packed row with several candidates.

    Args:
        packs: For each task and row its packs, the first of which counts.

    Returns:
        (task, row) of the longest, the first of equal ones; None if no row has several candidates.
    """
    sizes = {
        (t, i): len(row[0].ids)
        for t, rows in enumerate(packs)
        for i, row in enumerate(rows)
        if not row[0].plain
    }
    return max(sizes, key=sizes.__getitem__, default=None)
