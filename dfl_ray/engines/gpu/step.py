"""One training step of many adapters on the large path, from drawn rows to gradients in flat storage."""

from __future__ import annotations

from collections.abc import Sequence

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

    Adapters go through the model together as far as `decoder.most_tokens` allows, else one part after the other, those
    with similarly many tokens together, since all of a part are padded to its fullest.

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
    tokens = [sum(int(t.offsets[i + 1] - t.offsets[i]) - 1 for t, i in own) for own in rows]
    losses = torch.zeros(len(rows), dtype=into_b[0].dtype, device=decoder.embedding.device)
    if not all(tokens):
        for view in (*(into_a or ()), *into_b):
            view.zero_()
    for part in parts(tokens, decoder.most_tokens):
        used = None if part == [*range(len(rows))] else torch.tensor(part, device=losses.device)
        own_a, own_b = ([v if used is None else v[used] for v in x] for x in (a, b))
        batch = collate([pair for k in part for pair in rows[k]])
        plan = make_plan(batch, [len(rows[k]) for k in part], decoder.frequencies, losses.device)
        found = train_step(decoder, plan, own_a, own_b, Gradients(into_a, into_b, used, scale))
        losses[slice(None) if used is None else used] = found.to(losses.dtype)
    return losses


def parts(tokens: Sequence[int], most_tokens: int | None) -> list[list[int]]:
    """Cut the adapters into parts that take at most so many tokens, padding included, or are one adapter.

    Args:
        tokens: Tokens of each adapter's rows, not all 0.
        most_tokens: Tokens of a part; None puts all into one, in their order.

    Returns:
        The numbers of the adapters of each part, the fullest first; those without tokens are in none.
    """
    asked = [k for k, n in enumerate(tokens) if n]
    if most_tokens is None:
        return [asked]
    out: list[list[int]] = []
    for k in sorted(asked, key=lambda k: -tokens[k]):
        if out and (len(out[-1]) + 1) * tokens[out[-1][0]] <= most_tokens:
            out[-1].append(k)
        else:
            out.append([k])
    return out
