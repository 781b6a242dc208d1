"""Sending whole modules (A_j, B_j) of possibly different ranks: the frame of FLoRA, FlexLoRA and HetLoRA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.methods.base import Device, Outgoing, S
from dfl_ray.methods.gossip import collect, finite_values
from dfl_ray.methods.shared import SharedAdapter
from dfl_ray.wire.codec import encode_values
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, pack


def send_module(method: SharedAdapter[S], device: Device[S], round_index: int) -> list[Outgoing]:
    """A and B inside the device's own rank, in each of the messages that the traffic law asks for.

    No residual is carried: the values are not the same thing from one message to the next.
    """
    out: list[Outgoing] = []
    for planned in method.planned(device, round_index):
        precision, keep = method.context.config.precision, method.rank_keep(device.index)
        values = device.state.theta[0].cpu().numpy()
        body = encode_values(values if keep is None else values[keep], precision)
        message = Message(
            Kind.ADAPTER, SHARED_TASK, device.index, planned.version, method.context.run, 0, precision, body
        )
        out.append(Outgoing(planned, pack(message)))
    return out


def receive_modules(
    method: SharedAdapter[S], device: Device[S], round_index: int, received: Sequence[bytes | memoryview]
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
    method: SharedAdapter[S], device: Device[S], arrived: dict[int, np.ndarray]
) -> list[tuple[float, np.ndarray]]:
    """(W_ij, module) of itself, which takes the weight of what is missing, and of everyone that arrived."""
    weights = method.context.graph.weights.get(device.index, {})
    others = [(weights[s], arrived[s]) for s in sorted(arrived)]
    own = (1.0 - sum(w for w, _ in others), device.state.theta[0].cpu().numpy().copy())
    return [own, *others]


def products(method: SharedAdapter[S], values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(B, A) of every layer of one module, in float64."""
    flat = torch.from_numpy(values).unsqueeze(0)
    a = [v[0].numpy().astype(np.float64) for v in method.layout.views(flat, "a")]
    b = [v[0].numpy().astype(np.float64) for v in method.layout.views(flat, "b")]
    return list(zip(b, a, strict=True))
