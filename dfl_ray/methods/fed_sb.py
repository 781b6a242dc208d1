"""Fed-SB: B and A are frozen bases common to all, and only the r x r core C between them is trained and gossiped.

W = W0 + s B C A with orthonormal columns of B (m, r) and rows of A (r, d). After H local steps C_i <- sum_j W_ij C_j.
The mean of the cores gives the mean of the updates, since B and A are common, and a message carries r^2 values a layer,
whatever the layer's size. The bases are drawn from the seed, C = 0 at the start; with `method.bases: gradient` they are
LoRA-SB's, from the truncated SVD of the first step of full fine-tuning, and C from its singular values
(`lora.first_update`).

Source: Singhal et al. 2025, arXiv 2502.15436 (LoRA-SB, arXiv 2411.19557, with a server's mean of the cores); what is
trained and averaged was checked against a public copy of the authors' code. Adapted to gossip. Departures: random bases
by default, so that nobody needs the gradient of W or to be sent 2 r vectors a layer; they hold less of the update, so
take a larger `method.rank` than other methods need. With `gradient`, rows of all devices are taken before the run, as
the authors' code takes them, and what it costs to form the gradient and to spread the bases is not charged. It needs
the gradient of every adapted weight at once, four bytes a weight, and an exact SVD of each: hours for billions of
weights.
"""

from __future__ import annotations

from typing import final

from dfl_ray.methods.averaged import GossipedAdapter


@final
class FedSb(GossipedAdapter):
    """Fed-SB: C alone is in the layout, so C alone is trained and averaged; see the module's text.

    Args:
        context: The run.
    """
