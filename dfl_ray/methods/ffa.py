"""FFA-LoRA: A is one common random matrix that nobody trains; B is trained and gossiped.

B_i <- sum_j W_ij B_j after H local steps. With A common the average of the factors is the average of the products,
mean(B) A = mean(B A), and only B travels.

Source: Sun et al. 2024, arXiv 2403.12313, section 4 (FFA-LoRA); the server's mean becomes a gossip step. A has
PEFT's Kaiming start. The paper's privacy noise is left out.
"""

from __future__ import annotations

from typing import final

from dfl_ray.methods.averaged import GossipedAdapter


@final
class Ffa(GossipedAdapter):
    """FFA-LoRA: B alone is in the layout, so B alone is trained and averaged; see the module's text.

    Args:
        context: The run.
    """
