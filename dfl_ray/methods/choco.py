"""CHOCO-SGD on LoRA: A and B are trained, compressed differences to public copies are sent.

After H local steps, x_i^{1/2}: q_i = Q(x_i^{1/2} - xh_i); xh_j <- xh_j + q_j for itself and every neighbour j;
x_i <- x_i^{1/2} + gamma sum_j W_ij (xh_j - xh_i). Q keeps the largest share of the entries (top-k). The error of
Q stays in x_i - xh_i and is sent later: error feedback. With Q the identity and gamma = 1 this is plain gossip.

Source: Koloskova, Stich and Jaggi 2019, arXiv 1902.00340, algorithm 2 (CHOCO-SGD), with H local steps.
Departures: the public copies start at the common first adapter instead of 0, so that nobody pays for sending it;
a neighbour that missed a difference, which would leave its copy wrong for ever, is sent the whole copy next time,
in float32 and charged, and until then its lost weight stays at home.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from dfl_ray.config.baselines import ChocoConfig
from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.methods.gossip import collect, exchange_due, finite_values, gossip_mean
from dfl_ray.methods.shared import SharedAdapter
from dfl_ray.wire.codec import CodecError, decode_mask, decode_values, encode_mask, encode_values
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, MessageError, Precision, Refusal, pack

_WHOLE, _DIFFERENCE = b"\x00", b"\x01"


@final
class Choco(SharedAdapter):
    """See the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if not isinstance(context.config, ChocoConfig):
            raise TypeError(f"choco needs its own config section, got {type(context.config).__name__}")
        self.config = context.config
        self.kept = max(1, round(self.config.keep_share * self.layout.size))

    def begin(self, device: Device, round_index: int) -> None:
        """Public copies start at the common first adapter."""
        if "choco/own" not in device.memory:
            first = self.fresh(device.index)[0].numpy()
            for name in ("own", *self.neighbours(device)):
                device.memory[f"choco/{name}"] = first.copy()

    def keep(self, device: Device, round_index: int) -> torch.Tensor | None:
        """Everything may change."""
        return None

    def outgoing(self, device: Device, round_index: int) -> list[Outgoing]:
        """The compressed difference; the whole copy to neighbours that missed an earlier one."""
        neighbours = self.neighbours(device)
        if not neighbours or not exchange_due(self.config, round_index, self.context.rounds):
            return []
        last = device.marks.get("choco/version", 0)
        device.marks["choco/version"] = round_index
        abreast = tuple(n for n in neighbours if device.marks.get(f"choco/has/{n}", 0) == last)
        behind = tuple(n for n in neighbours if n not in abreast)
        body = self._difference(device)
        out: list[Outgoing] = []
        if abreast:
            head = _DIFFERENCE + last.to_bytes(4, "little")
            out.append(self._message(device, round_index, abreast, head + body, self.config.precision))
        if behind:
            whole = _WHOLE + encode_values(device.memory["choco/own"], "float32")
            out.append(self._message(device, round_index, behind, whole, "float32"))
        return out

    def incoming(
        self,
        device: Device,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Move the public copies on, then the gossip step on them."""
        for delivery in sent:
            for neighbour in delivery.reached:
                device.marks[f"choco/has/{neighbour}"] = round_index
        copies, refused = collect(
            device, self.context, round_index, received, lambda m: self._public_copy(device, m)
        )
        for sender, values in copies.items():
            device.memory[f"choco/{sender}"] = values
            device.marks[f"choco/from/{sender}"] = round_index
        if copies:
            own = device.memory["choco/own"].astype(np.float64)
            weights = self.context.graph.weights[device.index]
            step = self.config.consensus_step * (gossip_mean(own, copies, weights) - own)
            row = device.state.theta[0]
            row.copy_(torch.from_numpy((row.cpu().numpy() + step).astype(np.float32)))
        return refused

    def _difference(self, device: Device) -> bytes:
        """Q(x - xh), encoded; moves the own public copy by what the bytes say."""
        public = device.memory["choco/own"]
        difference = device.state.theta[0].cpu().numpy() - public
        mask = np.zeros(self.layout.size, bool)
        mask[np.argsort(-np.abs(difference), kind="stable")[: self.kept]] = True
        values = encode_values(difference[mask], self.config.precision)
        moved = public.copy()
        moved[mask] += decode_values(values, self.config.precision, int(mask.sum()))
        device.memory["choco/own"] = moved
        packed = encode_mask(mask)
        return len(packed).to_bytes(4, "little") + packed + values

    def _public_copy(self, device: Device, message: Message) -> np.ndarray:
        """The sender's public copy after its message.

        Raises:
            MessageError: Bytes that do not decode, or a difference to a copy this device does not have.
        """
        if message.body[:1] == _WHOLE:
            return finite_values(message.body[1:], message.precision, self.layout.size)
        base = int.from_bytes(message.body[1:5], "little")
        if base != device.marks.get(f"choco/from/{message.sender}", 0):
            raise MessageError(Refusal.REPLAYED, f"a difference to version {base} of {message.sender}")
        length = int.from_bytes(message.body[5:9], "little")
        try:
            mask = decode_mask(message.body[9 : 9 + length], self.layout.size)
        except CodecError as error:
            raise MessageError(Refusal.CORRUPTED, str(error)) from error
        moved = device.memory[f"choco/{message.sender}"].copy()
        moved[mask] += finite_values(message.body[9 + length :], message.precision, int(mask.sum()))
        return moved

    def _message(
        self, device: Device, version: int, to: tuple[int, ...], body: bytes, precision: Precision
    ) -> Outgoing:
        message = Message(
            Kind.ADAPTER, SHARED_TASK, device.index, version, self.context.run, 0, precision, body
        )
        return Outgoing(Kind.ADAPTER, SHARED_TASK, to, pack(message))
