"""Aggregation rules: how a device mixes its own values with those that arrived from neighbours.

Gossip: x_i <- x_i + sum_j W_ij (x_j - x_i) over what arrived. Under losses the realised W is row- but no longer
column-stochastic, so the average over devices drifts.

Push-sum: every device carries a mass w_i, 1 at the start, and gives neighbour j the share p_ij = W_ij of its mass
and of w_i x_i. What j did not acknowledge stays at home, so sum_i w_i and sum_i w_i x_i are kept exactly whatever
is lost and whichever way links point, and x_i = (w_i x_i) / w_i still goes to the true average:
w_i' = w_i (1 - sum_{reached} p_ij) + sum_{arrived} p_ji w_j, and likewise w_i x_i. A local update u_i enters as
w_i x_i + u_i, so every device's learning counts the same whatever its mass. The sender subtracts what was decoded,
not what it meant to send, so rounding loses no mass either and needs no error feedback.

Source: gossip, Xiao and Boyd 2004; push-sum, Kempe, Dobra and Gehrke 2003; for learning, Assran et al. 2019
(arXiv 1811.10792), algorithm 1. Departure: acknowledgements tell the sender what was lost; Hadjicostis et al. 2016
do without by running sums.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import numpy as np

from dfl_ray.network.comm_graph import Weights
from dfl_ray.wire.message import MessageError, Refusal

_MASS = struct.Struct("<d")


@dataclass
class PartState:
    """What a device keeps of one exchanged part.

    Attributes:
        residual: (kept,) rounding error to be added to the next message, in bfloat16's bits; None before the first.
        start: (size,) values that the local updates start from, for rules that ask; None for others.
        mass: The device's push-sum mass w_i; 1 under rules without one.
        said: (size,) what its message of this round said, until the rule has accounted for it.
        stale: (kept,) what a faulty device says again and again; None for others.
        under_way: (size,) what its last message said, times the mass it had then, until its fate is known.
        shares: Neighbour -> share p_ij of that mass that has been given away with it.
        given: The mass the device had when it gave them.
        public: (size,) values that may be known under `privacy.mechanism` updates; None without it.
        sent_private: Whether the part was sent since its public values were set.
    """

    residual: np.ndarray | None = None
    start: np.ndarray | None = None
    mass: float = 1.0
    said: np.ndarray | None = None
    stale: np.ndarray | None = None
    under_way: np.ndarray | None = None
    shares: dict[int, float] = field(default_factory=dict)
    given: float | None = None
    public: np.ndarray | None = None
    sent_private: bool = False


@dataclass(frozen=True)
class Arrival:
    """A neighbour's values and its push-sum mass.

    Attributes:
        values: (size,) float32, zeros where the neighbour sent none.
        mass: w_j > 0 before it gave shares away; 1 under rules without one.
        variate: (size,) float32 y_j of its control variates; None without them.
    """

    values: np.ndarray
    mass: float = 1.0
    variate: np.ndarray | None = None


@dataclass(frozen=True)
class Mixing:
    """What a rule may ask when it mixes.

    Attributes:
        device: The device.
        weights: Device -> neighbour -> W_ij of the graph in use.
        reached: Neighbours that got the device's own message of this round.
        keep: (size,) bool of the entries that are exchanged; None = all.
        faulty_share: Share of those who are mixed, in [0, 0.5), that robust rules take to be wrong.
        trust: Neighbour -> factor on W_ij for the age of its message; 1 for those that are not there.
    """

    device: int
    weights: Weights
    reached: Collection[int]
    keep: np.ndarray | None
    faulty_share: float = 0.0
    trust: Mapping[int, float] = field(default_factory=dict)

    @property
    def own_weights(self) -> Mapping[int, float]:
        """Neighbour -> W_ij of the device."""
        return self.weights.get(self.device, {})


@runtime_checkable
class Aggregation(Protocol):
    """One aggregation rule; all state is in the `PartState` it is given."""

    @property
    def header_bytes(self) -> int:
        """Bytes that its messages carry before the values."""
        ...

    @property
    def feedback(self) -> bool:
        """Whether the rounding error of int8 may be carried into the next message."""
        ...

    @property
    def tracks_sent(self) -> bool:
        """Whether the rule asks to be told what each message said (`sent`)."""
        ...

    def begin(self, kept: PartState, values: np.ndarray) -> None:
        """Before local steps; `values` is (size,) float32."""
        ...

    def outgoing(
        self, kept: PartState, values: np.ndarray, keep: np.ndarray | None
    ) -> tuple[np.ndarray, bytes]:
        """Prepare what a message says.

        Args:
            kept: The part's state.
            values: (size,) float32 after the local steps.
            keep: (size,) bool of the exchanged entries; None = all.

        Returns:
            (size,) float32 to go on with and to send, and the `header_bytes` bytes before them.
        """
        ...

    def sent(self, kept: PartState, said: np.ndarray) -> None:
        """What the message said after rounding, (size,) with zeros where it said nothing."""
        ...

    def read_head(self, head: bytes) -> float:
        """The mass that a message's first bytes tell.

        Raises:
            MessageError: Bytes that hold none, or one that cannot be.
        """
        ...

    def mix(
        self, kept: PartState, own: np.ndarray, arrived: Mapping[int, Arrival], mixing: Mixing
    ) -> np.ndarray:
        """Mix the device's own values with those that arrived.

        Args:
            kept: The part's state.
            own: (size,) float32 the device's own values.
            arrived: Sender -> its values and mass.
            mixing: Says the weights, who got the own message, and which entries are exchanged.

        Returns:
            (size,) float64.
        """
        ...

    def mixed(self, kept: PartState, values: np.ndarray) -> None:
        """After mixing; `values` is what the device goes on with, (size,) float32."""
        ...


def pack_mass(mass: float) -> bytes:
    """Eight bytes that tell a mass, a little-endian float64."""
    return _MASS.pack(mass)


def gossip_mean(
    own: np.ndarray, arrived: Mapping[int, np.ndarray], weights: Mapping[int, float]
) -> np.ndarray:
    """Compute x_i + sum_j W_ij (x_j - x_i) over the neighbours whose message arrived, in float64.

    The weight of a lost message stays with the device itself, so rows of W still sum to one.

    Source: Xiao and Boyd 2004, "Fast linear iterations for distributed averaging". Departure: only what arrived
    counts.

    Args:
        own: x_i, (size,) the device's own values.
        arrived: Sender -> x_j, (size,).
        weights: Neighbour -> W_ij in [0, 1]; a sender that is none has weight 0.

    Returns:
        (size,) float64.
    """
    start = own.astype(np.float64)
    total = start.copy()
    for sender in sorted(arrived):
        total += weights.get(sender, 0.0) * (arrived[sender] - start)
    return total


class PlainValues:
    """Rules whose messages are the values themselves and that keep nothing between rounds; a base for them."""

    header_bytes = 0
    feedback = True
    tracks_sent = False

    def begin(self, kept: PartState, values: np.ndarray) -> None:
        """Nothing to remember."""

    def outgoing(
        self, kept: PartState, values: np.ndarray, keep: np.ndarray | None
    ) -> tuple[np.ndarray, bytes]:
        """The values as they are."""
        return values, b""

    def sent(self, kept: PartState, said: np.ndarray) -> None:
        """Nothing to remember."""

    def read_head(self, head: bytes) -> float:
        """No mass."""
        return 1.0

    def mixed(self, kept: PartState, values: np.ndarray) -> None:
        """Nothing to remember."""


@final
class Gossip(PlainValues):
    """Gossip averaging of what arrived; see the module's text."""

    def mix(
        self, kept: PartState, own: np.ndarray, arrived: Mapping[int, Arrival], mixing: Mixing
    ) -> np.ndarray:
        """Mix by `gossip_mean`.

        Args:
            kept: Not used.
            own: (size,) the device's own values.
            arrived: Sender -> its values.
            mixing: Says the weights W_ij, and by how much an old message's is less; the own values get what it lacks.

        Returns:
            (size,) float64.
        """
        weights = mixing.own_weights
        if mixing.trust:
            weights = {n: w * mixing.trust.get(n, 1.0) for n, w in weights.items()}
        return gossip_mean(own, {sender: a.values for sender, a in arrived.items()}, weights)


@final
class PushSum:
    """Push-sum averaging, which keeps sums over devices under losses; see the module's text."""

    header_bytes = _MASS.size
    feedback = False
    tracks_sent = True

    def begin(self, kept: PartState, values: np.ndarray) -> None:
        """Remember where the first local updates start from."""
        if kept.start is None:
            kept.start = values.copy()

    def outgoing(
        self, kept: PartState, values: np.ndarray, keep: np.ndarray | None
    ) -> tuple[np.ndarray, bytes]:
        """Enter the local update u_i into the average: x = start + u / w on the exchanged entries.

        This is (w start + u) / w: the update counts the same whatever the device's mass w.

        Args:
            kept: The part's state; `begin` has set its start.
            values: (size,) float32 after the local steps, start + u.
            keep: (size,) bool of the exchanged entries; None = all. The others stay as they are.

        Returns:
            (size,) float32 to go on with and to send, and the 8 bytes of the mass w.
        """
        return self._debiased(kept, values, keep), pack_mass(kept.mass)

    def sent(self, kept: PartState, said: np.ndarray) -> None:
        """What is subtracted from the own share when it has arrived."""
        kept.said = said

    def read_head(self, head: bytes) -> float:
        """Read the sender's mass.

        Args:
            head: The first bytes of a message's body, a little-endian float64.

        Returns:
            The mass, finite and > 0.

        Raises:
            MessageError: Bytes that hold none, or one that cannot be.
        """
        if len(head) < _MASS.size:
            raise MessageError(Refusal.CORRUPTED, f"{len(head)} bytes hold no mass")
        mass = float(_MASS.unpack(head)[0])
        if not math.isfinite(mass) or mass <= 0:
            raise MessageError(Refusal.NOT_FINITE, f"mass {mass}")
        return mass

    def mix(
        self, kept: PartState, own: np.ndarray, arrived: Mapping[int, Arrival], mixing: Mixing
    ) -> np.ndarray:
        """Mix the weighted values and the masses, and set the new mass.

        w' = w_i (1 - sum_{reached} p_ij) + sum_{arrived} p_ji w_j, with p_ij = W_ij, and
        (w x)' = w_i (x_i - sum_{reached} p_ij said_i) + sum_{arrived} p_ji w_j x_j; x' = (w x)' / w'.

        Source: Kempe, Dobra and Gehrke 2003, protocol Push-Sum; Assran et al. 2019 (arXiv 1811.10792), algorithm 1.
        Departure: shares that were not acknowledged stay with the sender, and what is subtracted is what the message
        said after rounding.

        Args:
            kept: The part's state; its mass becomes w'.
            own: x_i, (size,) float32. Where no message was made in this round, the local update is entered first.
            arrived: Sender -> x_j and w_j.
            mixing: Says the weights, who got the own message, and which entries are exchanged.

        Returns:
            x', (size,) float64.
        """
        mass, mine = kept.mass, mixing.own_weights
        given = sum(mine.get(n, 0.0) for n in sorted(mixing.reached))
        said, kept.said = kept.said, None
        if said is None:
            own = said = self._debiased(kept, own, mixing.keep)
        total = mass * own.astype(np.float64) - given * mass * said
        left = mass * (1.0 - given)
        for sender in sorted(arrived):
            share = mixing.weights.get(sender, {}).get(mixing.device, 0.0) * arrived[sender].mass
            total += share * arrived[sender].values
            left += share
        kept.mass = float(left)
        return total / left

    def mixed(self, kept: PartState, values: np.ndarray) -> None:
        """The next local updates start from here."""
        kept.start = values.copy()

    def _debiased(self, kept: PartState, values: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        assert kept.start is not None, "begin has not been called"
        whole = kept.start + (values - kept.start) / kept.mass
        return (whole if keep is None else np.where(keep, whole, values)).astype(np.float32)


GOSSIP: Aggregation = Gossip()
PUSH_SUM: Aggregation = PushSum()
