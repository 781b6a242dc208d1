"""Push-sum without a barrier: shares leave with their message, and come back if it is lost.

Every device has a mass w_i, 1 at the start. At the end of a local round it gives neighbour j the share p_ij = W_ij of
its mass and of w_i x_i, keeps 1 - sum_j p_ij, and adds all shares that have come by then, however many of one sender.
What is on its way belongs to nobody: the sum over devices and over messages under way, sum w_i + sum p w and likewise
that of w_i x_i, is the same before and after, up to rounding in float64, whatever arrives when, early, late or never.
A message whose loss the sender learns of by the missing acknowledgement gives its shares back.

A local update enters as x_i + u_i, so it counts with the device's mass. That is what keeps fast devices from
dominating: who ends f times as many local rounds gives mass away f times as often and holds 1/f of it on average.
(Under `schedule: sync`, where masses stay near 1, it enters as x_i + u_i / w_i; see `methods.aggregations`.)

Source: Kempe, Dobra and Gehrke 2003, protocol Push-Sum; Nedic and Olshevsky 2016 (arXiv 1406.2075), subgradient-push;
Assran et al. 2019 (arXiv 1811.10792), algorithm 1 and its overlapped form. Departure: acknowledgements tell the sender
what was lost; the update counts with the mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np

from dfl_ray.methods.aggregations import PUSH_SUM, Arrival, Mixing, PartState
from dfl_ray.methods.aggregations import pack_mass as _head


@final
class AsyncPushSum:
    """Push-sum averaging of devices that do not wait; an aggregation rule, see the module's text."""

    header_bytes = PUSH_SUM.header_bytes
    feedback = False
    tracks_sent = True

    def begin(self, kept: PartState, values: np.ndarray) -> None:
        """Nothing to remember: an update counts with the mass."""

    def outgoing(
        self, kept: PartState, values: np.ndarray, keep: np.ndarray | None
    ) -> tuple[np.ndarray, bytes]:
        """The values as they are, and the 8 bytes of the mass w."""
        return values, _head(kept.mass)

    def sent(self, kept: PartState, said: np.ndarray) -> None:
        """What leaves with the shares."""
        kept.said = said

    def read_head(self, head: bytes) -> float:
        """Read the sender's mass; see `aggregations.PushSum.read_head`."""
        return PUSH_SUM.read_head(head)

    def mix(
        self, kept: PartState, own: np.ndarray, arrived: Mapping[int, Arrival], mixing: Mixing
    ) -> np.ndarray:
        """Take back what was lost, give the new message's shares away, add what has come.

        w' = w_i + w0 sum_{lost} p0_ij - w_i sum_j p_ij + sum_{arrived} p_ji w_j, and likewise for w x with what each
        message said; x' = (w x)' / w'. Index 0 is the device's message before this one.

        Args:
            kept: The part's state; its mass becomes w', and what is under way the new message.
            own: x_i, (size,) float32.
            arrived: Sender -> its values and mass, several messages of one sender summed up (`joined`).
            mixing: Says the weights, and who got the message before this one.

        Returns:
            x', (size,) float64.
        """
        mass = kept.mass
        total = mass * own.astype(np.float64)
        left = mass
        if kept.under_way is not None and kept.given is not None:
            back = sum(kept.shares[n] for n in sorted(kept.shares) if n not in mixing.reached)
            total += back * kept.under_way
            left += back * kept.given
        kept.under_way, kept.shares, kept.given = None, {}, None
        said, kept.said = kept.said, None
        if said is not None:
            kept.shares = dict(mixing.own_weights)
            kept.given, kept.under_way = mass, mass * said.astype(np.float64)
            leaving = sum(kept.shares[n] for n in sorted(kept.shares))
            total -= leaving * kept.under_way
            left -= leaving * mass
        for sender in sorted(arrived):
            share = mixing.weights.get(sender, {}).get(mixing.device, 0.0) * arrived[sender].mass
            total += share * arrived[sender].values
            left += share
        kept.mass = float(left)
        return total / left

    def mixed(self, kept: PartState, values: np.ndarray) -> None:
        """Nothing to remember."""


def joined(first: Arrival, second: Arrival) -> Arrival:
    """Sum two messages of one sender: masses add up, and values in proportion to their masses.

    Args:
        first: One of them.
        second: The other.

    Returns:
        One arrival whose mass, and whose mass times values, are the sums.
    """
    mass = first.mass + second.mass
    values = (first.mass * first.values.astype(np.float64) + second.mass * second.values) / mass
    return Arrival(values, mass)


ASYNC_PUSH_SUM = AsyncPushSum()
