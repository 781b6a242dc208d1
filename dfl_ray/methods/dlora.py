"""Traditional decentralised LoRA: every device trains A and B of one adapter and gossips both with all neighbours.

A_i <- sum_j W_ij A_j, B_i <- sum_j W_ij B_j after H local steps. The average of the factors is not the average
of the products: mean(B) mean(A) != mean(B A).

Source: decentralised FedAvg (McMahan et al. 2017; Lian et al. 2017) over LoRA (Hu et al. 2021), the baseline
that arXiv 2602.20492 calls traditional LoRA. It is the update of Dec-LoRA (Ghiasvand, Alizadeh and Pedarsani 2025,
arXiv 2501.15361): local steps on A and B, then gossip of both; `dec_lora` is another name for it. Departure from that
paper: the local steps are AdamW's.
"""

from __future__ import annotations

from typing import final

from dfl_ray.methods.averaged import GossipedAdapter


@final
class Dlora(GossipedAdapter):
    """Traditional decentralised LoRA: A and B are trained and both averaged; see the module's text.

    Args:
        context: The run.
    """
