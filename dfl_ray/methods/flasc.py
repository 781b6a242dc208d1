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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from dfl_ray.methods.base import Device
from dfl_ray.methods.gossip import mean_of
from dfl_ray.methods.kept import largest
from dfl_ray.methods.shared import put_values
from dfl_ray.methods.sparse_star import Said, SparseStar, StarState


@dataclass
class FlascState(StarState):
    """What a device keeps; `start` is x0.

    Attributes:
        server: w, (size,) float32, on the hub; None elsewhere, and before the first upload.
    """

    server: np.ndarray | None = None


@final
class Flasc(SparseStar[FlascState]):
    """FLASC; see the module's text.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> FlascState:
        """Nothing held yet."""
        return FlascState(self.law.start(device))

    def upload(self, device: Device[FlascState]) -> Said:
        """T_u of the change."""
        change = self.change_of(device)
        return largest(change, self.config.upload_share), change

    def form(self, device: Device[FlascState], round_index: int, uploads: Iterable[np.ndarray]) -> Said:
        """Add the mean change to the hub's vector w and answer T_d(w); arguments are those of `SparseStar.form`."""
        before = self.start_of(device) if device.memory.server is None else device.memory.server
        server = (before + mean_of(uploads)).astype(np.float32)
        device.memory.server = server
        return largest(server, self.config.download_share), server

    def take(self, device: Device[FlascState], answer: np.ndarray | None) -> None:
        """Start the next cycle from what the hub has sent, or from the own adapter where it was lost."""
        if answer is not None:
            put_values(device, answer)
