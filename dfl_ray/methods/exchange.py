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
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.config.training import GossipConfig
from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.methods.gossip import finite_values, gossip_mean, quantise
from dfl_ray.network.comm_graph import Weights
from dfl_ray.wire.codec import decode_values
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal, pack

_MASS = struct.Struct("<d")


@dataclass(frozen=True)
class Part:
    """The entries of one adapter that are exchanged together.

    Attributes:
        name: Names the residual and the push-sum state in the device's memory.
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

    def begin(self, device: Device, part: Part) -> None:
        """Remember where a part's local updates start from."""
        if self.push and f"push/{part.name}/start" not in device.memory:
            self._set(device, part, device.state.theta[part.adapter_index].cpu().numpy().copy(), 1.0)

    def message(self, device: Device, part: Part, round_index: int, neighbours: tuple[int, ...]) -> Outgoing:
        """The part's values, to each of the neighbours."""
        row = device.state.theta[part.adapter_index]
        values, head = row.cpu().numpy(), b""
        if self.push:
            values, head = self._debias(device, part, values), _MASS.pack(self.mass(device, part))
            row.copy_(torch.from_numpy(values))
        kept = values if part.keep is None else values[part.keep]
        feedback = self.config.error_feedback and not self.push
        body = quantise(device, part.name, kept, self.config.precision, feedback=feedback)
        if self.push:
            said = decode_values(body, self.config.precision, len(kept))
            device.memory[f"push/{part.name}/said"] = self._spread(said, part.keep)
        message = Message(
            Kind.ADAPTER, part.task, device.index, round_index, self.context.run, part.mask_hash,
            self.config.precision, head + body,
        )  # fmt: skip
        return Outgoing(Kind.ADAPTER, part.task, neighbours, pack(message))

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
        device: Device,
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
            device.memory[f"push/{part.name}/start"] = row.cpu().numpy().copy()

    def pending(self, device: Device, part: Part) -> bool:
        """Whether a message of this round still has to be accounted for, even if nothing arrived."""
        return f"push/{part.name}/said" in device.memory

    def mass(self, device: Device, part: Part) -> float:
        """The device's push-sum mass of a part."""
        return float(device.memory[f"push/{part.name}/mass"][0])

    def _debias(self, device: Device, part: Part, values: np.ndarray) -> np.ndarray:
        """X = (w start + update) / w = start + update / w, on the part's entries."""
        start = device.memory[f"push/{part.name}/start"]
        whole = start + (values - start) / self.mass(device, part)
        kept = whole if part.keep is None else np.where(part.keep, whole, values)
        return kept.astype(np.float32)

    def _push_sum(
        self,
        device: Device,
        part: Part,
        own: np.ndarray,
        arrived: Mapping[int, Arrival],
        weights: Weights,
        sent: Sequence[Delivery],
    ) -> np.ndarray:
        mass = self.mass(device, part)
        mine = weights.get(device.index, {})
        reached = {n for d in sent if d.kind is Kind.ADAPTER and d.task == part.task for n in d.reached}
        given = sum(mine.get(n, 0.0) for n in sorted(reached))
        said = device.memory.pop(f"push/{part.name}/said", None)
        if said is None:
            own = said = self._debias(device, part, own)
        total = mass * own.astype(np.float64) - given * mass * said
        left = mass * (1.0 - given)
        for sender in sorted(arrived):
            share = weights.get(sender, {}).get(device.index, 0.0) * arrived[sender].mass
            total += share * arrived[sender].values
            left += share
        device.memory[f"push/{part.name}/mass"] = np.array([left])
        return total / left

    def _set(self, device: Device, part: Part, start: np.ndarray, mass: float) -> None:
        device.memory[f"push/{part.name}/start"] = start
        device.memory[f"push/{part.name}/mass"] = np.array([mass])

    def _spread(self, values: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        if keep is None:
            return values
        full = np.zeros(self.size, np.float32)
        full[keep] = values
        return full
