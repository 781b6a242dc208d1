"""FedEx-LoRA: the factors are averaged, and what that leaves out of the mean product goes into the frozen weights.

After H local steps, with weights W_ij over neighbours and the device itself:
A_i' = sum_j W_ij A_j, B_i' = sum_j W_ij B_j, M_i <- M_i + s (sum_j W_ij B_j A_j - B_i' A_i').
The device's weights W0 + M_i + s B_i' A_i' are then the exact mean of its neighbours' adapters, with factors that can
go on being trained.

Source: Singhal, Ponkshe and Vepakomma 2024, arXiv 2410.09432 (ACL 2025), the residual of section 4, as in the authors'
code. Adapted to gossip: a device forms the residual from its neighbours' factors, so that no more travels than A and B.
On a complete graph with equal weights that is the server's update. On a sparser one the mean of the adapters is exact,
but M_i is dense and never travels: bases differ, since a residual reaches direct neighbours only. Every device must
keep a dense update of the size of its adapted layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import numpy as np

from dfl_ray.methods.base import Delivery, Device, Outgoing
from dfl_ray.methods.merged import MergedState, OwnBase, weighed_product
from dfl_ray.methods.modules import products, receive_modules, send_module, shares
from dfl_ray.methods.shared import put_values, values_of


@final
class Fedex(OwnBase):
    """FedEx-LoRA; see the module's text.

    Args:
        context: The run.
    """

    def outgoing(self, device: Device[MergedState], round_index: int) -> list[Outgoing]:
        """Encode A and B, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[MergedState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average the factors and merge the residual; the weight of what did not arrive counts for the device's own.

        Arguments and result are those of `Method.incoming`; nothing changes where nothing arrived.
        """
        arrived, refused = receive_modules(self, device, round_index, received)
        if not arrived:
            return refused
        weighed = shares(self, device, arrived)
        put_values(device, np.asarray(sum(w * values.astype(np.float64) for w, values in weighed)))
        modules = [(w, products(self, values)) for w, values in weighed]
        kept = products(self, values_of(device))
        self.merge(
            device,
            (
                self.scale * weighed_product([*((w, *m[layer]) for w, m in modules), (-1.0, b, a)])
                for layer, (b, a) in enumerate(kept)
            ),
        )
        return refused
