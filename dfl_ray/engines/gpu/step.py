"""One training step of many adapters on the large path, from drawn rows to gradients in flat storage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from dfl_ray.engines.batches import collate
from dfl_ray.engines.gpu.decoder import LargeDecoder, train_step
from dfl_ray.engines.gpu.linear import Gradients
from dfl_ray.engines.gpu.plan import make_plan
from dfl_ray.tasks.tokens import TokenRows


def step_gradients(
    decoder: LargeDecoder,
    rows: Sequence[Sequence[tuple[TokenRows, int]]],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    scale: float,
    into_a: Sequence[torch.Tensor] | None,
    into_b: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Mean token loss of each adapter on its rows; the gradients of their sum go to `into_a` and `into_b`.

    Adapters go through the model together as far as `decoder.most_tokens` allows, else one part after the other.

    Args:
        decoder: The base.
        rows: For each of the S adapters its rows, as (table, row index); some may have none, not all.
        a: One (S, r, d) factor a layer, frozen directions behind the trained ones.
        b: One (S, m, r) factor a layer.
        scale: s = alpha / r.
        into_a: One (S, r, d) view a layer for the gradients, or None where A is not trained.
        into_b: One (S, m, r) view a layer.

    Returns:
        (S,) losses, 0 for adapters without rows, whose gradients are 0 too.
    """
    losses: list[torch.Tensor] = []
    for part in parts(rows, decoder.most_tokens):
        own_a = None if into_a is None else [v[part] for v in into_a]
        own_b = [v[part] for v in into_b]
        factors = [x[part] for x in a], [x[part] for x in b]
        losses.append(_part_gradients(decoder, rows[part], *factors, scale, own_a, own_b))
    return torch.cat(losses)


def parts(rows: Sequence[Sequence[tuple[TokenRows, int]]], most_tokens: int | None) -> list[slice]:
    """Cut the adapters into runs of at most so many tokens, each of at least one adapter that has rows.

    Args:
        rows: For each adapter its rows, not all empty.
        most_tokens: Tokens of a run; None puts all into one.

    Returns:
        The runs, in order.
    """
    if most_tokens is None:
        return [slice(0, len(rows))]
    starts, held = [0], 0
    for k, own in enumerate(rows):
        tokens = sum(int(t.offsets[i + 1] - t.offsets[i]) - 1 for t, i in own)
        if held and tokens and held + tokens > most_tokens:
            starts.append(k)
            held = 0
        held += tokens
    return [slice(i, j) for i, j in pairwise((*starts, len(rows)))]


def _part_gradients(
    decoder: LargeDecoder,
    rows: Sequence[Sequence[tuple[TokenRows, int]]],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    scale: float,
    into_a: Sequence[torch.Tensor] | None,
    into_b: Sequence[torch.Tensor],
) -> torch.Tensor:
    """`step_gradients` of adapters that share one pass."""
    counts = [len(r) for r in rows]
    device = decoder.embedding.device
    used = _used(counts, device)
    if used is not None:
        a, b = [x[used] for x in a], [x[used] for x in b]
        for view in (*(into_a or ()), *into_b):
            view.zero_()
    batch = collate([pair for r in rows for pair in r])
    plan = make_plan(batch, [n for n in counts if n], decoder.frequencies, device)
    own = train_step(decoder, plan, a, b, Gradients(into_a, into_b, used, scale))
    return own if used is None else own.new_zeros(len(counts)).index_copy_(0, used, own)


def _used(counts: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """(K,) int64 adapters that have rows, or None if all do."""
    if all(counts):
        return None
    return torch.tensor([k for k, n in enumerate(counts) if n], device=device)
