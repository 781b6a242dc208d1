"""Membership inference: how well an attacker tells by the loss which rows an adapter was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch

from dfl_ray.engines.private import Pair, row_gradients, row_parts
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.layout import Layout


def membership_auc(
    member_losses: Sequence[float] | np.ndarray, other_losses: Sequence[float] | np.ndarray
) -> float:
    """Area under the ROC curve of the attack that calls a row a member where its loss is below a threshold.

    AUC = P(loss of a member < loss of another) + P(equal) / 2, over all pairs.

    Source: Yeom et al. 2018 (arXiv 1709.01604), threshold attack; the Mann-Whitney statistic.

    Args:
        member_losses: Losses of rows trained on, at least one.
        other_losses: Losses of rows not trained on, at least one.

    Returns:
        In [0, 1]; 0.5 = the attacker learns nothing.
    """
    members, others = np.asarray(member_losses)[:, None], np.asarray(other_losses)[None]
    return float((members < others).mean() + (members == others).mean() / 2)


def matched_rows(own: Sequence[Hashable], others: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Choose rows of two sets with as many of each label in one as in the other, the first ones of each.

    Rows of different labels differ in loss whether they were trained on or not, so that two mixes would be told apart.
    Where fewer than half of the smaller set find their like, answers are open rather than labels, and all rows are
    taken.

    Args:
        own: Label of each row of one set.
        others: Label of each row of the other.

    Returns:
        Places in `own` and in `others`, ascending.
    """
    both = Counter(own) & Counter(others)
    if 2 * both.total() < min(len(own), len(others)):
        return list(range(len(own))), list(range(len(others)))
    return _first_ones(own, both), _first_ones(others, both)


def _first_ones(labels: Sequence[Hashable], wanted: Mapping[Hashable, int]) -> list[int]:
    taken: Counter[Hashable] = Counter()
    places: list[int] = []
    for place, label in enumerate(labels):
        if taken[label] < wanted.get(label, 0):
            taken[label] += 1
            places.append(place)
    return places


def row_losses(
    model: ScoredModel, layout: Layout, theta: torch.Tensor, rows: Sequence[Pair], *, scale: float,
    static_a: Sequence[torch.Tensor] | None = None,
    frozen: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> np.ndarray:  # fmt: skip
    """Mean token loss of each row under one adapter.

    Args:
        model: The shared base.
        layout: Where the factors lie.
        theta: (size,) the adapter.
        rows: The rows, at least one.
        scale: alpha / r.
        static_a: One (1, r, d) a layer when A is not stored in the layout.
        frozen: One (1, R, d), (1, m, R) pair a layer that is added and not trained.

    Returns:
        (rows,) nats.
    """
    owner = torch.zeros(len(rows), dtype=torch.int64, device=theta.device)
    fixed = [*(static_a or ()), *(x for pair in frozen or () for x in pair)]
    parts = row_parts(layout, fixed, len(rows), gpu=theta.is_cuda)
    found = [
        row_gradients(
            model, layout, theta.unsqueeze(0), owner[part], rows[part], scale=scale, static_a=static_a,
            frozen=frozen,
        )[1]
        for part in parts
    ]  # fmt: skip
    return torch.cat(found).cpu().numpy()
