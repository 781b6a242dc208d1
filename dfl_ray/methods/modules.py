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
    """Encode A and B inside the device's own rank, in each of the messages that the traffic law asks for.

    No residual is carried: the values are not the same thing from one message to the next.

    Args:
        method: The method.
        device: The sender.
        round_index: The round, from 1.

    Returns:
        The messages with their bytes.
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
    """Read neighbours' modules.

    Args:
        method: The method, which knows every sender's rank.
        device: The receiver.
        round_index: The round, from 1.
        received: Messages that arrived, as bytes.

    Returns:
        Sender -> (size,) float32, padded with zeros to the layout's rank; and the refused messages by reason.
    """

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
    """Weigh every module that counts: w_j = W_ij for those that arrived, w_i = 1 - sum_j w_j for the device's own.

    Args:
        method: The method.
        device: The device i, which takes the weight of what is missing.
        arrived: Sender -> (size,) module.

    Returns:
        (weight, (size,) module), the device's own first, then by sender; the weights sum to 1.
    """
    weights = method.context.graph.weights.get(device.index, {})
    others = [(weights[s], arrived[s]) for s in sorted(arrived)]
    own = (1.0 - sum(w for w, _ in others), device.state.theta[0].cpu().numpy().copy())
    return [own, *others]


def products(method: SharedAdapter[S], values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Take one module apart into the factors of its layers' products B A.

    Args:
        method: The method, whose layout says where they lie.
        values: (size,) float32.

    Returns:
        One (B, A) a layer, (m, r) and (r, d) float64.
    """
    flat = torch.from_numpy(values).unsqueeze(0)
    a = [v[0].numpy().astype(np.float64) for v in method.layout.views(flat, "a")]
    b = [v[0].numpy().astype(np.float64) for v in method.layout.views(flat, "b")]
    return list(zip(b, a, strict=True))
