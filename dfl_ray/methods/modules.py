"""Sending whole modules (A_j, B_j) of possibly different ranks: the frame of FLoRA, FlexLoRA and HetLoRA."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from dfl_ray.lora.layout import Layout
from dfl_ray.methods.base import Delivery, Device, MethodState, Outgoing, S
from dfl_ray.methods.gossip import collect, finite_values
from dfl_ray.methods.shared import SharedAdapter, values_of
from dfl_ray.wire.codec import encode_values
from dfl_ray.wire.message import Message

Pair = tuple[np.ndarray, np.ndarray]
"""B (m, r) and A (r, d) of a layer."""


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
        values, keep = values_of(device), method.rank_keep(device.index)
        body = encode_values(values if keep is None else values[keep], method.context.config.precision)
        out.append(method.message(device, planned, body))
    return out


def receive_modules(
    method: SharedAdapter[S],
    device: Device[S],
    round_index: int,
    received: Sequence[bytes | memoryview],
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
    return collect(device, method.context, round_index, received, module_reader(method))


def module_reader(method: SharedAdapter[S]) -> Callable[[Message], np.ndarray]:
    """What decodes a module that `send_module` has encoded.

    Args:
        method: The method, which knows every sender's rank.

    Returns:
        Makes a message (size,) float32, padded with zeros to the layout's rank.
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

    return read


def shares(
    method: SharedAdapter[S], device: Device[S], arrived: dict[int, np.ndarray]
) -> list[tuple[float, np.ndarray]]:
    """Weigh every module that counts: w_j = W_ij for those that arrived, w_i = 1 - sum_j w_j for the device's own.

    Where devices do not wait for each other, w_j is less for an old module (`Device.trust`).

    Args:
        method: The method.
        device: The device i, which takes the weight of what is missing.
        arrived: Sender -> (size,) module.

    Returns:
        (weight, (size,) module), the device's own first, then by sender; the weights sum to 1.
    """
    weights = method.context.graph.weights.get(device.index, {})
    others = [(weights[s] * device.trust.get(s, 1.0), arrived[s]) for s in sorted(arrived)]
    own = (1.0 - sum(w for w, _ in others), values_of(device).copy())
    return [own, *others]


def products(method: SharedAdapter[S], values: np.ndarray) -> list[Pair]:
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


def joined(layout: Layout, layers: Iterable[Pair]) -> np.ndarray:
    """Lay a pair of every layer out as one adapter is: what `products` takes apart.

    Args:
        layout: Where the factors lie.
        layers: A pair a layer.

    Returns:
        (size,), of the pairs' own type.
    """
    pairs = list(layers)
    return np.concatenate([pairs[s.layer][0 if s.factor == "b" else 1].ravel() for s in layout.segments])


class RankedModules(SharedAdapter[MethodState]):
    """One adapter a device, of its own rank, made anew from its own module and the neighbours' that arrived.

    Args:
        context: The run.
    """

    @abstractmethod
    def combine(self, device: Device[MethodState], weighed: list[tuple[float, np.ndarray]]) -> None:
        """Replace the device's module.

        Args:
            device: The device.
            weighed: Weights that sum to 1 and (size,) modules, the device's own first; see `shares`.
        """

    def memory(self, device: int) -> MethodState:
        """Nothing but what every method keeps."""
        return MethodState(self.law.start(device))

    def keep(self, device: Device[MethodState], round_index: int) -> torch.Tensor | None:
        """Let the entries inside the device's rank change.

        Args:
            device: The device.
            round_index: Not used.

        Returns:
            (1, size) bool; None where the rank is the layout's.
        """
        keep = self.rank_keep(device.index)
        return None if keep is None else torch.from_numpy(keep).unsqueeze(0)

    def outgoing(self, device: Device[MethodState], round_index: int) -> list[Outgoing]:
        """Encode the module inside the device's rank, the same bytes to all neighbours; see `send_module`."""
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[MethodState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Combine the modules; the weight of those that did not arrive counts for the device's own.

        Args:
            device: The receiver; nothing changes where none arrived.
            round_index: The round, from 1.
            received: Messages that arrived, as bytes.
            sent: Not used.

        Returns:
            Refused messages, counted by reason.
        """
        arrived, refused = receive_modules(self, device, round_index, received)
        if arrived:
            self.combine(device, shares(self, device, arrived))
        return refused
