"""Fed-SB: B and A are frozen bases common to all, and only the r x r core C between them is trained and gossiped.

W = W0 + s B C A with orthonormal columns of B (m, r) and rows of A (r, d), and C = 0 at the start. After H local steps
C_i <- sum_j W_ij C_j. The mean of the cores gives the mean of the updates, since B and A are common, and a message
carries r^2 values a layer, whatever the layer's size.

Source: Singhal et al. 2025, arXiv 2502.15436 (LoRA-SB, arXiv 2411.19557, with a server's mean of the cores); what is
trained and averaged was checked against a public copy of the authors' code. Adapted to gossip. Departure: the authors
take B and A from the truncated SVD of the first update, -lr sign(sum of the gradients of W over some rows), and C from
its singular values; here the bases are drawn from the seed, so that nobody needs the gradient of W or to be sent 2 r
vectors a layer. Random bases hold less of the update: take a larger `method.rank` than other methods need.
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
