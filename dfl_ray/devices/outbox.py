"""What the devices of a group want sent in a round, until it is known what arrived."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from dfl_ray.devices.records import Payloads
from dfl_ray.methods.base import Outgoing
from dfl_ray.methods.laws import Planned
from dfl_ray.network.traffic import TransferRequests


class Outbox:
    """The messages of one round.

    Attributes:
        payloads: (source, message) -> bytes.
        made: (source, message) -> what the traffic law said of it.
        leaving: The payloads that somebody outside of the group is to get.
    """

    def __init__(self) -> None:
        self.payloads: Payloads = {}
        self.made: dict[tuple[int, int], Planned] = {}
        self.leaving: Payloads = {}
        self._planned: dict[int, list[Planned]] = {}
        self._changes: dict[int, Sequence[Sequence[float]]] = {}

    def put(
        self, device: int, messages: Sequence[Outgoing], here: Container[int],
        changes: Sequence[Sequence[float]] = (),
    ) -> None:  # fmt: skip
        """Take the messages of a device.

        Args:
            device: The sender.
            messages: In the order in which they are sent.
            here: The devices of the group.
            changes: For each message the size of change for each of its destinations; empty where none is known.
        """
        self._changes[device] = changes
        self._planned[device] = [out.planned for out in messages]
        for number, out in enumerate(messages):
            key = (device, number)
            self.payloads[key], self.made[key] = out.payload, out.planned
            if any(d not in here for d in out.planned.destinations):
                self.leaving[key] = out.payload

    def requests(self, order: Iterable[int]) -> TransferRequests:
        """Put the round's requests together.

        Args:
            order: The devices, in the order of the rows.

        Returns:
            A row a destination.
        """
        messages = {d: self._planned[d] for d in order if d in self._planned}
        return TransferRequests.of(messages, self._changes)
