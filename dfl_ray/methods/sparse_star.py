"""A server to which some entries travel up, and from which some travel down: the frame of FLASC and FedSRD."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np

from dfl_ray.config.literature import SparseStarConfig
from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.gossip import collect_encoded
from dfl_ray.methods.shared import SharedAdapter, values_of
from dfl_ray.methods.sparse_body import heard, sparse_body, sparse_entries
from dfl_ray.methods.star_law import StarLaw
from dfl_ray.wire.message import Message

Said = tuple[np.ndarray, np.ndarray]
"""(size,) bool of the entries that a message says, and (size,) float32 values of which only those count."""


@dataclass
class StarState(MethodState):
    """What a device keeps, (size,).

    Attributes:
        start: float32, what the local steps of this cycle began with; None until the first of them.
        answer: float32, on the hub between the two rounds of a cycle, what it sends.
        said: bool, the entries of `answer` that are sent.
    """

    start: np.ndarray | None = None
    answer: np.ndarray | None = None
    said: np.ndarray | None = None


Q = TypeVar("Q", bound=StarState)


class SparseStar(SharedAdapter[Q]):
    """One adapter a device, and a server that is told some of its entries' changes and answers with some entries.

    A method says what travels and what becomes of it; cycle, tree, what a cycle began with, messages and what the
    server hears of itself, which is rounded as everybody's is, are here.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.law, StarLaw) and context.config.hub is not None
        assert isinstance(context.config, SparseStarConfig)
        self.star, self.hub, self.config = self.law, context.config.hub, context.config

    @abstractmethod
    def upload(self, device: Device[Q]) -> Said:
        """What a device tells the server, the server itself too."""

    @abstractmethod
    def form(self, device: Device[Q], round_index: int, uploads: Iterable[np.ndarray]) -> Said:
        """Make what the server answers all.

        Args:
            device: The server.
            round_index: The round of the uploads; the answer is sent in the next.
            uploads: (size,) float32 of every device that was heard, 0 in what was not said; the server's own first, and
                each decoded when it is come to, once.

        Returns:
            The answer.
        """

    @abstractmethod
    def take(self, device: Device[Q], answer: np.ndarray | None) -> None:
        """Go on from the server's answer, (size,) float32 with 0 in what was not said; None where it was lost."""

    def places(self, round_index: int) -> np.ndarray | None:
        """(size,) bool of the entries that the messages of a round choose from; None = all."""
        return None

    def begin(self, device: Device[Q], round_index: int) -> None:
        """Remember what the local steps of a cycle begin with."""
        if device.memory.start is None:
            device.memory.start = values_of(device).copy()

    def start_of(self, device: Device[Q]) -> np.ndarray:
        """What the local steps of this cycle began with, (size,) float32."""
        assert device.memory.start is not None, "begin has not been called"
        return device.memory.start

    def change_of(self, device: Device[Q]) -> np.ndarray:
        """What the local steps of this cycle have changed, (size,) float32."""
        return values_of(device) - self.start_of(device)

    def outgoing(self, device: Device[Q], round_index: int) -> list[Outgoing]:
        """Encode the upload for the server, or the server's answer for all.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes.
        """
        out: list[Outgoing] = []
        for planned in self.planned(device, round_index):
            down = self.star.downloads(planned.version)
            mask, values = self._answer(device) if down else self.upload(device)
            places = self.places(planned.version)
            body = sparse_body(mask if places is None else mask[places], values[mask], self.config.precision)
            out.append(self.message(device, planned, body))
        return out

    def incoming(
        self,
        device: Device[Q],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Form the answer on the server, or take what it has sent.

        Arguments and result are those of `Method.incoming`.
        """
        is_hub, memory, precision = device.index == self.hub, device.memory, self.config.precision
        known = self.star.known if is_hub else (self.hub,)
        arrived, refused = collect_encoded(device, self.context, round_index, received, self._read, known)
        if self.star.uploads(round_index) and is_hub:
            own = heard(*self.upload(device), precision)
            uploads = chain([own], (arrived[s]() for s in sorted(arrived)))
            memory.said, memory.answer = self.form(device, round_index, uploads)
        if self.star.downloads(round_index):
            answers = [heard(*self._answer(device), precision)] if is_hub else [a() for a in arrived.values()]
            self.take(device, answers[0] if answers else None)
            memory.start = memory.answer = memory.said = None
        return refused

    def _answer(self, device: Device[Q]) -> Said:
        assert device.memory.said is not None and device.memory.answer is not None, "no answer was formed"
        return device.memory.said, device.memory.answer

    def _read(self, message: Message) -> np.ndarray:
        places = self.places(message.version)
        count = self.layout.size if places is None else int(places.sum())
        mask, values = sparse_entries(message.body, count, message.precision)
        full = np.zeros(self.layout.size, np.float32)
        full[mask if places is None else np.flatnonzero(places)[mask]] = values
        return full
