"""Sending whole modules (A_j, B_j) of possibly different ranks: the frame of FLoRA, FlexLoRA and HetLoRA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.methods.base import Device, Outgoing
from dfl_ray.methods.gossip import collect, exchange_due, finite_values, quantise
from dfl_ray.methods.shared import SharedAdapter
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, pack


def send_module(method: SharedAdapter, device: Device, round_index: int) -> list[Outgoing]:
    """A and B inside the device's own rank, the same bytes to all neighbours, where an exchange is due."""
    config, neighbours = method.context.config, method.neighbours(device)
    if not neighbours or not exchange_due(config, round_index, method.context.rounds):
        return []
    values, keep = device.state.theta[0].cpu().numpy(), method.rank_keep(device.index)
    kept = values if keep is None else values[keep]
    # A residual is only worth carrying while the values stay the same thing from one message to the next.
    body = quantise(device, "shared", kept, config.precision, feedback=False)
    message = Message(
        Kind.ADAPTER, SHARED_TASK, device.index, round_index, method.context.run, 0, config.precision, body
    )
    return [Outgoing(Kind.ADAPTER, SHARED_TASK, neighbours, pack(message))]


def receive_modules(
    method: SharedAdapter, device: Device, round_index: int, received: Sequence[bytes | memoryview]
) -> tuple[dict[int, np.ndarray], Counter[str]]:
    """Neighbours' modules, zero-padded to the layout's rank, (size,) each; and the refused ones by reason."""

    def read(message: Message) -> np.ndarray:
        keep = method.rank_keep(message.sender)
        count = method.layout.size if keep is None else int(keep.sum())
        values = finite_values(message.body, message.precision, count)
        if keep is None:
            return values
        full = np.zeros(method.layout.size, np.float32)
        full[keep] = values
        return full

    return collect(device, method.context, round_index, received, read)


def shares(
    method: SharedAdapter, device: Device, arrived: dict[int, np.ndarray]
) -> list[tuple[float, np.ndarray]]:
    """(W_ij, module) of itself, which takes the weight of what is missing, and of everyone that arrived."""
    weights = method.context.graph.weights.get(device.index, {})
    others = [(weights[s], arrived[s]) for s in sorted(arrived)]
    own = (1.0 - sum(w for w, _ in others), device.state.theta[0].cpu().numpy().copy())
    return [own, *others]


def products(method: SharedAdapter, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(B, A) of every layer of one module, in float64."""
    flat = torch.from_numpy(values).unsqueeze(0)
    a = [v[0].numpy().astype(np.float64) for v in method.layout.views(flat, "a")]
    b = [v[0].numpy().astype(np.float64) for v in method.layout.views(flat, "b")]
    return list(zip(b, a, strict=True))
