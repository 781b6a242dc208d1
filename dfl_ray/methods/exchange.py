"""Exchange of parts of adapters with neighbours, averaged by gossip or by push-sum.

Gossip: x_i <- x_i + sum_j W_ij (x_j - x_i) over what arrived. Under losses the realised W is row- but no longer
column-stochastic, so the average over devices drifts.

Push-sum: every device carries a mass w_i, 1 at the start, and gives neighbour j the share p_ij = W_ij of its mass
and of w_i x_i. What j did not acknowledge stays at home, so sum_i w_i and sum_i w_i x_i are kept exactly whatever
is lost and whichever way links point, and x_i = (w_i x_i) / w_i still goes to the true average:
w_i' = w_i (1 - sum_{reached} p_ij) + sum_{arrived} p_ji w_j, and likewise w_i x_i. A local update u_i enters as
w_i x_i + u_i, so every device's learning counts the same whatever its mass. The sender subtracts what was decoded,
not what it meant to send, so rounding loses no mass either and needs no error feedback.

Source: push-sum, Kempe, Dobra and Gehrke 2003; for learning, Assran et al. 2019 (arXiv 1811.10792), algorithm 1.
Departure: acknowledgements tell the sender what was lost; Hadjicostis et al. 2016 do without by running sums.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dfl_ray.config.training import GossipConfig
from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.gossip import finite_values, gossip_mean, quantise
from dfl_ray.methods.laws import Planned
from dfl_ray.network.comm_graph import Weights
from dfl_ray.wire.codec import decode_values, encode_values
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal, pack

_MASS = struct.Struct("<d")


@dataclass(frozen=True)
class Part:
    """The entries of one adapter that are exchanged together.

    Attributes:
        name: Names its state in the device's memory.
        task: Task of the messages, or -1.
        adapter_index: Row of the device's adapters.
        keep: (size,) bool of the entries that travel; None = all.
        mask_hash: What the messages say of `keep`.
    """

    name: str
    task: int
    adapter_index: int
    keep: np.ndarray | None = None
    mask_hash: int = 0


@dataclass
class PushSum:
    """The push-sum state of one part on one device.

    Attributes:
        start: (size,) values that the local updates start from.
        mass: The device's mass w_i.
        said: (size,) what its message of this round said, until it has been accounted for.
    """

    start: np.ndarray
    mass: float = 1.0
    said: np.ndarray | None = None


@dataclass
class PartState:
    """What a device keeps of one exchanged part.

    Attributes:
        residual: (kept,) rounding error to be added to the next message; None before the first.
        push: Its push-sum state; None under gossip.
    """

    residual: np.ndarray | None = None
    push: PushSum | None = None


@dataclass
class ExchangeState(MethodState):
    """What the methods keep that average parts of adapters.

    Attributes:
        parts: Name of a part -> its state.
    """

    parts: dict[str, PartState] = field(default_factory=dict)

    def part(self, name: str) -> PartState:
        """The state of a part, made if it is not there."""
        return self.parts.setdefault(name, PartState())


@dataclass(frozen=True)
class Arrival:
    """A neighbour's values, (size,) with zeros where it sent none, and its push-sum mass (1 under gossip)."""

    values: np.ndarray
    mass: float = 1.0


class Exchange:
    """Messages and mixing of adapters' parts.

    Args:
        context: The run.
        size: Values of one adapter.
    """

    def __init__(self, context: Context, size: int) -> None:
        assert isinstance(context.config, GossipConfig)
        self.context = context
        self.config = context.config
        self.push = self.config.aggregation == "push_sum"
        self.size = size

    def begin(self, device: Device[ExchangeState], part: Part) -> None:
        """Remember where a part's local updates start from."""
        kept = device.memory.part(part.name)
        if self.push and kept.push is None:
            kept.push = PushSum(device.state.theta[part.adapter_index].cpu().numpy().copy())

    def message(self, device: Device[ExchangeState], part: Part, planned: Planned) -> Outgoing:
        """The part's values, to whom the traffic law says."""
        row = device.state.theta[part.adapter_index]
        values, head = row.cpu().numpy(), b""
        if self.push:
            values, head = self._debias(device, part, values), _MASS.pack(self.mass(device, part))
            row.copy_(torch.from_numpy(values))
        kept = values if part.keep is None else values[part.keep]
        own = device.memory.part(part.name)
        # Only int8 carries a residual: the float formats round finely enough not to need one.
        if self.config.precision == "int8" and self.config.error_feedback and not self.push:
            body, own.residual = quantise(kept, own.residual, self.config.precision)
        else:
            body = encode_values(kept, self.config.precision)
        if own.push is not None:
            said = decode_values(body, self.config.precision, len(kept))
            own.push.said = self._spread(said, part.keep)
        message = Message(
            Kind.ADAPTER, part.task, device.index, planned.version, self.context.run, part.mask_hash,
            self.config.precision, head + body,
        )  # fmt: skip
        return Outgoing(planned, pack(message))

    def read(self, message: Message, keep: np.ndarray | None) -> Arrival:
        """Decode a part that arrived.

        Args:
            message: The message.
            keep: The entries its sender kept.

        Raises:
            MessageError: Wrong length, or values that are not finite.
        """
        body, mass = message.body, 1.0
        if self.push:
            if len(body) < _MASS.size:
                raise MessageError(Refusal.CORRUPTED, f"{len(body)} bytes hold no mass")
            (mass,) = _MASS.unpack(body[: _MASS.size])
            body = body[_MASS.size :]
            if not math.isfinite(mass) or mass <= 0:
                raise MessageError(Refusal.NOT_FINITE, f"mass {mass}")
        count = self.size if keep is None else int(keep.sum())
        return Arrival(self._spread(finite_values(body, message.precision, count), keep), mass)

    def mix(
        self,
        device: Device[ExchangeState],
        part: Part,
        arrived: Mapping[int, Arrival],
        weights: Weights,
        sent: Sequence[Delivery],
    ) -> None:
        """Average the part with what arrived, in place.

        Args:
            device: The device.
            part: Its part.
            arrived: Sender -> values.
            weights: Device -> neighbour -> W_ij of the graph in use.
            sent: What became of the device's own messages.
        """
        row = device.state.theta[part.adapter_index]
        own = row.cpu().numpy()
        if self.push:
            mixed = self._push_sum(device, part, own, arrived, weights, sent)
        else:
            values = {sender: a.values for sender, a in arrived.items()}
            mixed = gossip_mean(own, values, weights.get(device.index, {}))
        if part.keep is not None:
            mixed = np.where(part.keep, mixed, own)
        row.copy_(torch.from_numpy(mixed.astype(np.float32)))
        if self.push:
            self._push(device, part).start = row.cpu().numpy().copy()

    def pending(self, device: Device[ExchangeState], part: Part) -> bool:
        """Whether a message of this round still has to be accounted for, even if nothing arrived."""
        push = device.memory.part(part.name).push
        return push is not None and push.said is not None

    def mass(self, device: Device[ExchangeState], part: Part) -> float:
        """The device's push-sum mass of a part."""
        return self._push(device, part).mass

    def _push(self, device: Device[ExchangeState], part: Part) -> PushSum:
        push = device.memory.part(part.name).push
        assert push is not None, "begin has not been called"
        return push

    def _debias(self, device: Device[ExchangeState], part: Part, values: np.ndarray) -> np.ndarray:
        """X = (w start + update) / w = start + update / w, on the part's entries."""
        push = self._push(device, part)
        whole = push.start + (values - push.start) / push.mass
        kept = whole if part.keep is None else np.where(part.keep, whole, values)
        return kept.astype(np.float32)

    def _push_sum(
        self,
        device: Device[ExchangeState],
        part: Part,
        own: np.ndarray,
        arrived: Mapping[int, Arrival],
        weights: Weights,
        sent: Sequence[Delivery],
    ) -> np.ndarray:
        push = self._push(device, part)
        mass = push.mass
        mine = weights.get(device.index, {})
        own_messages = (d for d in sent if d.planned.kind is Kind.ADAPTER and d.planned.task == part.task)
        reached = {n for d in own_messages for n in d.reached}
        given = sum(mine.get(n, 0.0) for n in sorted(reached))
        said, push.said = push.said, None
        if said is None:
            own = said = self._debias(device, part, own)
        total = mass * own.astype(np.float64) - given * mass * said
        left = mass * (1.0 - given)
        for sender in sorted(arrived):
            share = weights.get(sender, {}).get(device.index, 0.0) * arrived[sender].mass
            total += share * arrived[sender].values
            left += share
        push.mass = float(left)
        return total / left

    def _spread(self, values: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        if keep is None:
            return values
        full = np.zeros(self.size, np.float32)
        full[keep] = values
        return full
