"""Exchange of parts of adapters with neighbours: messages with error feedback, checked receipt, mixing in place.

How the values are mixed is the aggregation rule's (`methods.aggregations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import torch

from dfl_ray.config.training import AveragedConfig, GossipConfig
from dfl_ray.methods.aggregation_table import AGGREGATIONS
from dfl_ray.methods.aggregations import Arrival, Mixing, PartState
from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.gossip import finite_values, quantise
from dfl_ray.methods.laws import Planned
from dfl_ray.methods.push_sum_async import ASYNC_PUSH_SUM, joined
from dfl_ray.methods.variates import Variates
from dfl_ray.network.comm_graph import Weights
from dfl_ray.wire.codec import decode_values, encode_values, encoded_size
from dfl_ray.wire.message import Kind, Message, MessageError, pack


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
class ExchangeState(MethodState):
    """What the methods keep that average parts of adapters.

    Attributes:
        parts: Name of a part -> its state.
        variates: Control variates, where the method is given them.
        turn: Of methods that train A and B in turn, whose turn it last was: 1 of B, 2 of A, 0 before the first.
        resting_steps: Optimiser steps that the factor which rests has made, for its moments' bias correction.
    """

    parts: dict[str, PartState] = field(default_factory=dict)
    variates: Variates = field(default_factory=Variates)
    turn: int = 0
    resting_steps: int = 0

    def part(self, name: str) -> PartState:
        """The state of a part, made if it is not there."""
        return self.parts.setdefault(name, PartState())


class Exchange:
    """Messages and mixing of adapters' parts.

    Args:
        context: The run.
        size: Values of one adapter.

    Attributes:
        rule: How values are mixed.
        join: Makes one arrival of two messages of one sender that are mixed at once; None: the newer one counts.
        control: Whether control variates travel beside the values.
    """

    def __init__(self, context: Context, size: int) -> None:
        assert isinstance(context.config, GossipConfig)
        self.context = context
        self.config = context.config
        self.rule = AGGREGATIONS[self.config.aggregation]
        self.control = isinstance(self.config, AveragedConfig) and self.config.control_variates
        self.join: Callable[[Arrival, Arrival], Arrival] | None = None
        if self.config.aggregation == "push_sum" and not context.barrier:
            self.rule, self.join = ASYNC_PUSH_SUM, joined
        self.size = size

    def begin(self, device: Device[ExchangeState], part: Part) -> None:
        """Let the aggregation rule remember where a part's local updates start from.

        Args:
            device: The device, before its local steps.
            part: The part.
        """
        values = device.state.theta[part.adapter_index].cpu().numpy()
        self.rule.begin(device.memory.part(part.name), values)
        self.context.privacy.begin(device.memory.part(part.name), values)

    def message(self, device: Device[ExchangeState], part: Part, planned: Planned) -> Outgoing:
        """Encode the part's values as the message that the traffic law asks for.

        What the aggregation rule makes of the values also becomes what the device goes on with. Rounding errors are
        carried into the next message under int8, where `method.error_feedback` is on and the rule allows it.

        Args:
            device: The sender; its adapter and the part's state change.
            part: The part.
            planned: To whom, and how many bytes.

        Returns:
            The message with its bytes.
        """
        row, own = device.state.theta[part.adapter_index], device.memory.part(part.name)
        key = (planned.version, device.index, part.task + 1)
        private = self.context.privacy.said(own, row.cpu().numpy(), part.keep, *key)
        values, head = self.rule.outgoing(own, private, part.keep)
        row.copy_(torch.from_numpy(values))
        kept = values if part.keep is None else values[part.keep]
        # Only int8 carries a residual: the float formats round finely enough not to need one.
        if self.config.precision == "int8" and self.config.error_feedback and self.rule.feedback:
            body, own.residual = quantise(kept, own.residual, self.config.precision)
        else:
            body = encode_values(kept, self.config.precision)
        if self.rule.tracks_sent:
            said = decode_values(body, self.config.precision, len(kept))
            self.rule.sent(own, self._spread(said, part.keep))
        wrong = self.context.faults.falsified(device.index, planned.version, own, kept, part.task + 1)
        if wrong is not None:
            body = encode_values(wrong, self.config.precision)
        if self.control:
            variate = device.memory.variates.say(self.size, part.keep)
            body += encode_values(variate if part.keep is None else variate[part.keep], self.config.precision)
        message = Message(
            Kind.ADAPTER, part.task, device.index, planned.version, self.context.run, part.mask_hash,
            self.config.precision, head + body,
        )  # fmt: skip
        return Outgoing(planned, pack(message))

    def read(self, message: Message, keep: np.ndarray | None) -> Arrival:
        """Decode a part that arrived.

        Args:
            message: The message.
            keep: (size,) bool of the entries its sender kept; None = all.

        Returns:
            The values, (size,) float32 with zeros where nothing was sent, and the sender's mass.

        Raises:
            MessageError: Wrong length, values that are not finite, or no usable mass where the rule needs one.
        """
        cut = self.rule.header_bytes
        mass = self.rule.read_head(message.body[:cut])
        count = self.size if keep is None else int(keep.sum())
        end = cut + encoded_size(count, message.precision) if self.control else None
        values = self._spread(finite_values(message.body[cut:end], message.precision, count), keep)
        if end is None:
            return Arrival(values, mass)
        variate = finite_values(message.body[end:], message.precision, count)
        return Arrival(values, mass, self._spread(variate, keep))

    def mix(
        self,
        device: Device[ExchangeState],
        part: Part,
        arrived: Mapping[int, Arrival],
        weights: Weights,
        sent: Sequence[Delivery],
    ) -> None:
        """Average the part with what arrived, in place, by the aggregation rule; entries that are not exchanged stay.

        Args:
            device: The device.
            part: Its part.
            arrived: Sender -> its values, (size,), and its mass.
            weights: Device -> neighbour -> W_ij of the graph in use.
            sent: What became of the device's own messages; those of other parts' tasks are passed over.
        """
        row, kept = device.state.theta[part.adapter_index], device.memory.part(part.name)
        own = row.cpu().numpy()
        messages = (d for d in sent if d.planned.kind is Kind.ADAPTER and d.planned.task == part.task)
        reached = {n for d in messages for n in d.reached}
        share = self.config.faulty_share
        mixing = Mixing(device.index, weights, reached, part.keep, share, device.trust)
        mixed = self.rule.mix(kept, own, arrived, mixing)
        if part.keep is not None:
            mixed = np.where(part.keep, mixed, own)
        row.copy_(torch.from_numpy(mixed.astype(np.float32)))
        self.rule.mixed(kept, row.cpu().numpy())
        self.context.privacy.mixed(kept, row.cpu().numpy())
        if self.control:
            said = {j: a.variate for j, a in arrived.items() if a.variate is not None}
            device.memory.variates.mix(mixing.own_weights, said, part.keep)

    def pending(self, device: Device[ExchangeState], part: Part) -> bool:
        """Whether a message of this round, or the last one, has to be accounted for, even if nothing arrived."""
        kept = device.memory.part(part.name)
        return kept.said is not None or kept.under_way is not None or kept.sent_private

    @contextmanager
    def share_kept(
        self, device: Device[ExchangeState], part: Part, message: Message, arrived: dict[int, Arrival]
    ) -> Iterator[None]:
        """Let a message that is refused leave its share of the sender's mass with the receiver.

        The sender has given the share away, since the message has come. The receiver's own values stand in the place of
        what it said, so that masses add up as before; rules without masses have nothing to keep.

        Args:
            device: The receiver.
            part: Its part.
            message: The message, read inside the context.
            arrived: What has arrived by sender; gets the share.
        """
        try:
            yield
        except MessageError:
            if self.rule.header_bytes:
                with suppress(MessageError):  # a mass that cannot be read is lost
                    mass = self.rule.read_head(message.body[: self.rule.header_bytes])
                    own = device.state.theta[part.adapter_index].cpu().numpy().copy()
                    self.add(arrived, message.sender, Arrival(own, mass))
            raise

    def add(self, arrived: dict[int, Arrival], sender: int, arrival: Arrival) -> None:
        """Enter what has arrived; of two messages of one sender the newer counts, or both where the rule sums."""
        if self.join is not None and sender in arrived:
            arrival = self.join(arrived[sender], arrival)
        arrived[sender] = arrival

    def mass(self, device: Device[ExchangeState], part: Part) -> float:
        """The device's push-sum mass of a part."""
        return device.memory.part(part.name).mass

    def _spread(self, values: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        if keep is None:
            return values
        full = np.zeros(self.size, np.float32)
        full[keep] = values
        return full
