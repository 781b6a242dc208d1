"""Scoring of (adapter, held-out row) pairs; every distinct pair is computed once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.evaluation.packs import Pack, collate_packs, pack_row, pack_task
from dfl_ray.experts.gates import GateOf
from dfl_ray.lora.batches import padded_length
from dfl_ray.lora.inject import Binding
from dfl_ray.lora.training import ScoredModel
from dfl_ray.seeds import Stream, generator
from dfl_ray.tasks.tokens import TokenTask

TOKENS_PER_BATCH = 6144


@dataclass(frozen=True)
class Adapter:
    """An adapter as the model takes it: one (R, d) and one (m, R) factor a layer; rank R may differ by rule.

    Attributes:
        a: A of every layer.
        b: B of every layer.
        gate: Gives, for the (task, row) of each row of a batch, what weighs A x (`experts.gates`); None = nothing.
    """

    a: Sequence[torch.Tensor]
    b: Sequence[torch.Tensor]
    gate: GateOf | None = None


def evaluation_rows(task: TokenTask, task_index: int, *, seed: int, rows: int | None) -> np.ndarray:
    """The held-out rows asked of every device: a seeded draw without replacement, the same for all."""
    if rows is None or rows >= len(task.test):
        return np.arange(len(task.test))
    drawn = generator(seed, Stream.EVALUATION_ROWS, task_index).choice(len(task.test), rows, replace=False)
    return np.sort(drawn)


class Scorer:
    """Scores held-out rows of all tasks under any adapters.

    Args:
        model: The shared base with adapted layers.
        tasks: All tasks.
        scale: s = alpha / r.
        seed: The run's seed, for the draw of held-out rows.
        rows_per_task: Held-out rows asked; None = all.
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
        packed = takes_block_masks(model.model)
        self.rows = [evaluation_rows(t, i, seed=seed, rows=rows_per_task) for i, t in enumerate(tasks)]
        self.packs = [pack_task(t, r, packed=packed) for t, r in zip(tasks, self.rows, strict=True)]

    def score(
        self,
        wanted: Mapping[Hashable, Mapping[int, np.ndarray]],
        adapter: Callable[[Hashable], Adapter | None],
    ) -> dict[Hashable, dict[int, np.ndarray]]:
        """Which held-out rows are answered right.

        Args:
            wanted: adapter key -> task index -> (rows,) bool, the rows (by place in `self.rows[task]`) to ask.
            adapter: Gives the adapter of a key; None is the bare base model.

        Returns:
            adapter key -> task index -> (rows,) bool, right or not; rows not asked are False.
        """
        out = {k: {t: np.zeros(len(m), bool) for t, m in ts.items()} for k, ts in wanted.items()}
        for key, tasks in wanted.items():
            used = adapter(key)
            bound = self._bind(used)
            for chunk in self._chunks(tasks):
                if bound is not None and used is not None and used.gate is not None:
                    rows = [(task, row) for task, row in chunk for _ in self.packs[task][row]]
                    bound.gate = used.gate(rows)
                for (task, row), ok in zip(chunk, self._score_chunk(chunk, bound), strict=True):
                    out[key][task][row] = ok
        return out

    def _chunks(self, tasks: Mapping[int, np.ndarray]) -> list[list[tuple[int, int]]]:
        """The asked (task, row) pairs in batches of similar length."""
        pairs = [(task, int(i)) for task, asked in tasks.items() for i in np.flatnonzero(asked)]
        length = {pair: max(len(p.ids) for p in self.packs[pair[0]][pair[1]]) for pair in pairs}
        chunks: list[list[tuple[int, int]]] = []
        tokens = TOKENS_PER_BATCH + 1
        for pair in sorted(pairs, key=lambda p: (length[p], p)):
            cost = padded_length(length[pair]) * len(self.packs[pair[0]][pair[1]])
            if tokens + cost > TOKENS_PER_BATCH:
                chunks.append([])
                tokens = 0
            chunks[-1].append(pair)
            tokens += cost
        return chunks

    def _score_chunk(self, chunk: list[tuple[int, int]], binding: Binding | None) -> list[bool]:
        packs = [p for task, row in chunk for p in self.packs[task][row]]
        batch = collate_packs(packs).to(self.model.device)
        with torch.no_grad():
            logits = self.model.logits(batch, binding)
            chosen = logits.gather(1, batch.targets.unsqueeze(1)).squeeze(1)
            likelihood = (chosen - logits.logsumexp(1)).double().cpu().numpy()
            greedy = (logits.argmax(1) == batch.targets).cpu().numpy()
        return _judge(packs, [len(self.packs[task][row]) for task, row in chunk], likelihood, greedy)

    def _bind(self, adapter: Adapter | None) -> Binding | None:
        """One adapter for all rows of a batch: a single group, so that its products are plain GEMMs."""
        if adapter is None:
            return None
        a, b = ([t.unsqueeze(0).to(self.model.device) for t in factors] for factors in (adapter.a, adapter.b))
        return Binding(a, b, None, self.scale)


def _judge(
    packs: Sequence[Pack], per_row: Sequence[int], likelihood: np.ndarray, greedy: np.ndarray
) -> list[bool]:
    """Right or not for each row: greedy exact match for one candidate, else the likeliest label."""
    starts = np.concatenate([[0], np.cumsum([len(p.targets) for p in packs])])
    out: list[bool] = []
    k = 0
    for count in per_row:
        mine = range(k, k + count)
        k += count
        if count == 1 and packs[mine[0]].plain:
            out.append(bool(greedy[starts[mine[0]] : starts[mine[0] + 1]].all()))
            continue
        sums = np.concatenate(
            [np.bincount(packs[j].answer, weights=likelihood[starts[j] : starts[j + 1]]) for j in mine]
        )
        out.append(int(sums.argmax()) == packs[mine[0]].label)
    return out


def takes_block_masks(model: torch.nn.Module) -> bool:
    """Whether the model obeys a block mask with position ids, tried on it: two ways to score must agree."""
    import inspect

    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    prompt, first, second = np.array([1, 2, 1]), np.array([2, 1]), np.array([1, 2])
    together = collate_packs([pack_row(prompt, [first, second], 0)])
    alone = collate_packs([pack_row(prompt, [second], 0)])
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            both = model(
                input_ids=together.input_ids.to(device),
                attention_mask=together.mask.to(device),  # type: ignore[union-attr]
                position_ids=together.positions.to(device),  # type: ignore[union-attr]
                use_cache=False,
            ).logits[0, 4]
            one = model(input_ids=alone.input_ids.to(device), use_cache=False).logits[0, 3]
    except (RuntimeError, ValueError, TypeError):
        return False
    return bool(
        torch.allclose(both.float(), one.float(), rtol=2e-2, atol=1e-2 * float(one.float().abs().max()))
    )
