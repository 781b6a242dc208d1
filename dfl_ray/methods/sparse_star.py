"""A server to which some entries travel up, and from which some travel down: the frame of FLASC and FedSRD."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dfl_ray.methods.base import Context, Delivery, Device, Outgoing, S
from dfl_ray.methods.gossip import collect
from dfl_ray.methods.shared import SharedAdapter
from dfl_ray.methods.sparse_body import sparse_body, sparse_entries
from dfl_ray.methods.star_law import StarLaw
from dfl_ray.wire.codec import decode_values, encode_values
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, pack

Said = tuple[np.ndarray, np.ndarray]
"""(size,) bool of the entries that a message says, and (size,) float32 values of which only those count."""


class SparseStar(SharedAdapter[S]):
    """One adapter a device, and a server that is told some of its entries' changes and answers with some entries.

    A method says what travels and what becomes of it; cycle, tree, messages and what the server hears of itself, which
    is rounded as everybody's is, are here.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.law, StarLaw) and context.config.hub is not None
        self.star, self.hub = self.law, context.config.hub

    @abstractmethod
    def upload(self, device: Device[S]) -> Said:
        """What a device tells the server, the server itself too."""

    @abstractmethod
    def form(self, device: Device[S], round_index: int, uploads: Sequence[np.ndarray]) -> None:
        """Make the server's answer.

        Args:
            device: The server.
            round_index: The round of the uploads; the answer is sent in the next.
            uploads: (size,) float32 of every device that was heard, 0 in what was not said; the server's own first.
        """

    @abstractmethod
    def download(self, device: Device[S]) -> Said:
        """What the server answers all."""

    @abstractmethod
    def take(self, device: Device[S], answer: np.ndarray | None) -> None:
        """Go on from the server's answer, (size,) float32 with 0 in what was not said; None where it was lost."""

    def places(self, round_index: int) -> np.ndarray | None:
        """(size,) bool of the entries that the messages of a round choose from; None = all."""
        return None

    def outgoing(self, device: Device[S], round_index: int) -> list[Outgoing]:
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
            mask, values = self.download(device) if down else self.upload(device)
            places, precision = self.places(planned.version), self.context.config.precision
            body = sparse_body(mask if places is None else mask[places], values[mask], precision)
            message = Message(
                Kind.ADAPTER, SHARED_TASK, device.index, planned.version, self.context.run, 0, precision, body
            )
            out.append(Outgoing(planned, pack(message)))
        return out

    def incoming(
        self,
        device: Device[S],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Form the answer on the server, or take what it has sent.

        Arguments and result are those of `Method.incoming`.
        """
        is_hub = device.index == self.hub
        known = self.star.others if is_hub else (self.hub,)
        arrived, refused = collect(device, self.context, round_index, received, self._read, senders=known)
        if self.star.uploads(round_index) and is_hub:
            own = self._heard(self.upload(device))
            self.form(device, round_index, [own, *(arrived[s] for s in sorted(arrived))])
        if self.star.downloads(round_index):
            self.take(device, self._heard(self.download(device)) if is_hub else arrived.get(self.hub))
        return refused

    def _heard(self, said: Said) -> np.ndarray:
        """What a receiver reads of a message, (size,) float32."""
        (mask, values), precision = said, self.context.config.precision
        full = np.zeros(self.layout.size, np.float32)
        full[mask] = decode_values(encode_values(values[mask], precision), precision, int(mask.sum()))
        return full

    def _read(self, message: Message) -> np.ndarray:
        places = self.places(message.version)
        count = self.layout.size if places is None else int(places.sum())
        mask, values = sparse_entries(message.body, count, message.precision)
        full = np.zeros(self.layout.size, np.float32)
        full[mask if places is None else np.flatnonzero(places)[mask]] = values
        return full
