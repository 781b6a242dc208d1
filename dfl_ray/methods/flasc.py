"""FLASC: LoRA with a server, sparse on the way down and on the way up, dense in between.

The hub keeps a dense vector w of all A and B. Down: T_d(w), its largest share of entries by size, the others 0; every
device trains all entries from there for its local steps. Up: T_u(x - x0), the largest share of what has changed; the
hub adds their mean, w <- w + mean_j T_u(x_j - x0_j), its own change among them. Both shares are of all entries
together. The first x0 is the common first adapter, which everybody draws from the seed. Cycle, tree and losses are
those of `fedavg_star`; devices answer with what they hold, that is T_d(w) after a download.

Source: Kuo et al. 2024, arXiv 2406.05233 (sparse download and upload with shares of their own, dense local training),
in the form of its published training loop. Departures: the server's step is the mean itself, not Adam; devices weigh
alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from dfl_ray.config.literature import FlascConfig
from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.gossip import collect
from dfl_ray.methods.shared import SharedAdapter
from dfl_ray.methods.sparse_body import sparse_body, sparse_entries
from dfl_ray.methods.star_law import StarLaw, kept_entries
from dfl_ray.wire.codec import decode_values, encode_values
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, pack


@dataclass
class FlascState(MethodState):
    """What a device keeps, (size,) float32.

    Attributes:
        start: x0, what the local steps of this cycle began with; None until the first of them.
        server: w, on the hub; None elsewhere, and before the first upload.
    """

    start: np.ndarray | None = None
    server: np.ndarray | None = None


def largest(values: np.ndarray, share: float) -> np.ndarray:
    """Mark the largest entries by absolute value: max(1, round(share size)) of them, the first of equal ones.

    Args:
        values: (size,).
        share: In (0, 1].

    Returns:
        (size,) bool.
    """
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-np.abs(values), kind="stable")[: kept_entries(share, len(values))]] = True
    return mask


@final
class Flasc(SharedAdapter[FlascState]):
    """FLASC; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.law, StarLaw) and isinstance(context.config, FlascConfig)
        self.star, self.config = self.law, context.config

    def memory(self, device: int) -> FlascState:
        """Nothing held yet."""
        return FlascState(self.law.start(device))

    def begin(self, device: Device[FlascState], round_index: int) -> None:
        """Remember what the local steps of a cycle begin with."""
        if device.memory.start is None:
            device.memory.start = device.state.theta[0].cpu().numpy().copy()
        if device.index == self.config.server and device.memory.server is None:
            device.memory.server = device.memory.start.copy()

    def outgoing(self, device: Device[FlascState], round_index: int) -> list[Outgoing]:
        """Encode T_u of the change for the hub, or T_d of the hub's vector for all.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes.
        """
        return [
            Outgoing(planned, self._message(device, planned.version))
            for planned in self.planned(device, round_index)
        ]

    def incoming(
        self,
        device: Device[FlascState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Add the mean change to the hub's vector, or take what the hub has sent as the next start.

        Arguments and result are those of `Method.incoming`.
        """
        is_hub = device.index == self.config.server
        known = self.star.others if is_hub else (self.config.server,)
        arrived, refused = collect(device, self.context, round_index, received, self._read, senders=known)
        if self.star.uploads(round_index) and is_hub:
            own = self._said(self._change(device), self.config.upload_share)[1]
            changes = np.stack([own, *(arrived[s] for s in sorted(arrived))]).astype(np.float64)
            assert device.memory.server is not None, "begin has not been called"
            device.memory.server = (device.memory.server + changes.mean(axis=0)).astype(np.float32)
        if self.star.downloads(round_index):
            if is_hub and device.memory.server is not None:
                arrived = {device.index: self._said(device.memory.server, self.config.download_share)[1]}
            for values in arrived.values():
                device.state.theta[0].copy_(torch.from_numpy(values))
            device.memory.start = None
        return refused

    def _change(self, device: Device[FlascState]) -> np.ndarray:
        assert device.memory.start is not None, "begin has not been called"
        return device.state.theta[0].cpu().numpy() - device.memory.start

    def _said(self, values: np.ndarray, share: float) -> tuple[bytes, np.ndarray]:
        """The body that says the largest entries, and the (size,) vector as a receiver reads it."""
        mask, precision = largest(values, share), self.config.precision
        body = sparse_body(mask, values[mask], precision)
        read = np.zeros(self.layout.size, np.float32)
        read[mask] = decode_values(encode_values(values[mask], precision), precision, int(mask.sum()))
        return body, read

    def _message(self, device: Device[FlascState], version: int) -> bytes:
        if self.star.downloads(version):
            assert device.memory.server is not None, "begin has not been called"
            values, share = device.memory.server, self.config.download_share
        else:
            values, share = self._change(device), self.config.upload_share
        body, precision = self._said(values, share)[0], self.config.precision
        run = self.context.run
        return pack(Message(Kind.ADAPTER, SHARED_TASK, device.index, version, run, 0, precision, body))

    def _read(self, message: Message) -> np.ndarray:
        mask, values = sparse_entries(message.body, self.layout.size, message.precision)
        full = np.zeros(self.layout.size, np.float32)
        full[mask] = values
        return full
