"""CHOCO-SGD on LoRA: A and B are trained, compressed differences to public copies are sent.

After H local steps, x_i^{1/2}: q_i = Q(x_i^{1/2} - xh_i); xh_j <- xh_j + q_j for itself and every neighbour j;
x_i <- x_i^{1/2} + gamma sum_j W_ij (xh_j - xh_i). Q keeps the largest share of the entries of each factor of each layer
(top-k a tensor, as the paper's code does). The error of Q stays in x_i - xh_i and is sent later: error feedback. With Q
the identity and gamma = 1 this is plain gossip. What Q leaves out bounds gamma: too large a step diverges, of which a
run warns (`method_notes`).

Source: Koloskova, Stich and Jaggi 2019, arXiv 1902.00340, algorithm 2 (CHOCO-SGD), with H local steps.
Departures: the public copies start at the common first adapter instead of 0, so that nobody pays for sending it;
a neighbour that missed a difference, which would leave its copy wrong for ever, is sent the whole copy next time,
in float32 and charged, and until then its lost weight stays at home.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from dfl_ray.config.baselines import ChocoConfig
from dfl_ray.methods.aggregations import gossip_mean
from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing, first_adapters
from dfl_ray.methods.choco_law import ChocoLaw
from dfl_ray.methods.gossip import collect, finite_values
from dfl_ray.methods.kept import largest_of_each
from dfl_ray.methods.shared import SharedAdapter, put_values, values_of
from dfl_ray.methods.sparse_body import heard, sparse_body, sparse_entries
from dfl_ray.wire.codec import encode_values
from dfl_ray.wire.message import Message, MessageError, Refusal

_WHOLE, _DIFFERENCE = b"\x00", b"\x01"


@dataclass
class ChocoState(MethodState):
    """What a device keeps.

    Attributes:
        own: (size,) its own public copy; None before the first round.
        copies: Neighbour that has been heard -> (size,) its public copy as this device knows it.
        copied: Neighbour -> version of that copy, 0 for the common first adapter.
    """

    own: np.ndarray | None = None
    copies: dict[int, np.ndarray] = field(default_factory=dict)
    copied: dict[int, int] = field(default_factory=dict)


@final
class Choco(SharedAdapter[ChocoState]):
    """CHOCO-SGD with one adapter a device; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, ChocoConfig)
        self.config = context.config
        super().__init__(context)
        assert isinstance(self.law, ChocoLaw)

    def memory(self, device: int) -> ChocoState:
        """No public copies yet."""
        return ChocoState(self.law.start(device))

    def begin(self, device: Device[ChocoState], round_index: int) -> None:
        """Start the own public copy at the common first adapter, in the first round."""
        if device.memory.own is None:
            device.memory.own = self._first(device)

    def outgoing(self, device: Device[ChocoState], round_index: int) -> list[Outgoing]:
        """Send q_i = Q(x_i - xh_i) to neighbours with the last public copy, and the whole xh_i to the others.

        The own public copy first moves by what the bytes say after rounding: xh_i <- xh_i + q_i. A difference names
        the version of the copy it builds on.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most two messages, as the traffic law asks.
        """
        last = device.memory.traffic.version
        planned = self.planned(device, round_index)
        body = self._difference(device) if planned else b""
        out: list[Outgoing] = []
        for message in planned:
            if message.kept:
                said = _DIFFERENCE + last.to_bytes(4, "little") + body
                out.append(self.message(device, message, said))
            else:
                whole = _WHOLE + encode_values(self._own(device), "float32")
                out.append(self.message(device, message, whole, "float32"))
        return out

    def incoming(
        self,
        device: Device[ChocoState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Move the public copies on, then make the gossip step x_i <- x_i + gamma sum_j W_ij (xh_j - xh_i) on them.

        The sum is over neighbours whose message of this round was used.

        Arguments and result are those of `Method.incoming`.
        """
        for delivery in sent:
            self.law.delivered(device.index, device.memory.traffic, delivery.planned, delivery.reached)
        copies, refused = collect(
            device, self.context, round_index, received, lambda m: (m.version, self._public_copy(device, m))
        )
        for sender, (version, values) in copies.items():
            device.memory.copies[sender] = values
            device.memory.copied[sender] = version
        if copies:
            own = self._own(device).astype(np.float64)
            weights = self.context.graph.weights[device.index]
            public = {sender: values for sender, (_, values) in copies.items()}
            step = self.config.consensus_step * (gossip_mean(own, public, weights) - own)
            put_values(device, values_of(device) + step)
        return refused

    def _difference(self, device: Device[ChocoState]) -> bytes:
        """Q(x - xh), encoded; moves the own public copy by what the bytes say."""
        public = self._own(device)
        difference = values_of(device) - public
        mask = largest_of_each(difference, self.config.keep_share, self.layout)
        device.memory.own = public + heard(mask, difference, self.config.precision)
        return sparse_body(mask, difference[mask], self.config.precision)

    def _public_copy(self, device: Device[ChocoState], message: Message) -> np.ndarray:
        """The sender's public copy after its message.

        Raises:
            MessageError: Bytes that do not decode, or a difference to a copy this device does not have.
        """
        if message.body[:1] == _WHOLE:
            return finite_values(message.body[1:], message.precision, self.layout.size)
        base = int.from_bytes(message.body[1:5], "little")
        if base != device.memory.copied.get(message.sender, 0):
            raise MessageError(Refusal.REPLAYED, f"a difference to version {base} of {message.sender}")
        mask, values = sparse_entries(message.body[5:], self.layout.size, message.precision)
        held = device.memory.copies.get(message.sender)
        moved = self._first(device) if held is None else held.copy()
        moved[mask] += values
        return moved

    def _first(self, device: Device[ChocoState]) -> np.ndarray:
        """A new (size,) array of the common first adapter, the public copy of whoever has not been heard."""
        return first_adapters(self, self.context, [device.index])[0].numpy()

    @staticmethod
    def _own(device: Device[ChocoState]) -> np.ndarray:
        assert device.memory.own is not None, "begin has not been called"
        return device.memory.own
