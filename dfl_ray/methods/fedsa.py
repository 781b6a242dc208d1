"""FedSA-LoRA: A and B are trained, A is shared, B stays on the device.

A_i <- sum_j W_ij A_j after H local steps; B_i is never sent. The paper finds that A learns what is general and B
what is the client's own.

Source: Guo et al. 2024, arXiv 2410.01463, algorithm 1; the server's mean becomes a gossip step.
"""

from __future__ import annotations

from typing import final

from dfl_ray.methods.averaged import GossipedAdapter
from dfl_ray.methods.exchange import Part


@final
class Fedsa(GossipedAdapter):
    """FedSA-LoRA; see the module's text.

    Args:
        context: The run.
    """

    def exchanged(self, round_index: int) -> Part:
        """All layers' A."""
        return self.parts.factor("a")
