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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from dfl_ray.config.literature import FlascConfig
from dfl_ray.methods.base import Context, Device, MethodState
from dfl_ray.methods.sparse_star import Said, SparseStar
from dfl_ray.methods.star_law import kept_entries


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
class Flasc(SparseStar[FlascState]):
    """FLASC; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, FlascConfig)
        self.config = context.config

    def memory(self, device: int) -> FlascState:
        """Nothing held yet."""
        return FlascState(self.law.start(device))

    def begin(self, device: Device[FlascState], round_index: int) -> None:
        """Remember what the local steps of a cycle begin with."""
        if device.memory.start is None:
            device.memory.start = device.state.theta[0].cpu().numpy().copy()
        if device.index == self.hub and device.memory.server is None:
            device.memory.server = device.memory.start.copy()

    def upload(self, device: Device[FlascState]) -> Said:
        """T_u of the change."""
        assert device.memory.start is not None, "begin has not been called"
        change = device.state.theta[0].cpu().numpy() - device.memory.start
        return largest(change, self.config.upload_share), change

    def form(self, device: Device[FlascState], round_index: int, uploads: Sequence[np.ndarray]) -> None:
        """Add the mean change to the hub's vector; arguments are those of `SparseStar.form`."""
        assert device.memory.server is not None, "begin has not been called"
        mean = np.mean(np.stack(uploads).astype(np.float64), axis=0)
        device.memory.server = (device.memory.server + mean).astype(np.float32)

    def download(self, device: Device[FlascState]) -> Said:
        """T_d of the hub's vector."""
        assert device.memory.server is not None, "begin has not been called"
        return largest(device.memory.server, self.config.download_share), device.memory.server

    def take(self, device: Device[FlascState], answer: np.ndarray | None) -> None:
        """Start the next cycle from what the hub has sent, or from the own adapter where it was lost."""
        if answer is not None:
            device.state.theta[0].copy_(torch.from_numpy(answer))
        device.memory.start = None
