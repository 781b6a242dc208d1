"""What travels on the communication graph: requests to the channel, their outcomes, and whole-network traffic laws.

`LawfulNetwork` plays all devices' traffic laws without a model: the plan schedules what it asks for, and the
placement of devices on actors adds up how many bytes pass between which devices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.packing.partition import MessageGraph

if TYPE_CHECKING:
    from dfl_ray.methods.laws import Planned, TrafficLaw


@dataclass(frozen=True)
class TransferRequests:
    """Transfers that devices want carried, one entry a destination; all arrays are (M,) int64.

    Entries with equal (source, message) carry the same bytes.

    Attributes:
        source: Sending device.
        destination: Receiving device.
        message: Number of the message among the source's messages of the round.
        payload_bytes: Encoded length in bytes.
        kind: `wire.message.Kind` of the message.
        task: Task index, or -1 for an adapter shared by all tasks.
    """

    source: np.ndarray
    destination: np.ndarray
    message: np.ndarray
    payload_bytes: np.ndarray
    kind: np.ndarray
    task: np.ndarray

    def __len__(self) -> int:
        """Number of transfers."""
        return len(self.source)

    @classmethod
    def of(cls, messages: Mapping[int, Sequence[Planned]]) -> TransferRequests:
        """The requests of some devices, in the order of (source, message, destination).

        Args:
            messages: Device -> its messages, numbered by their place.
        """
        rows = [
            (device, to, number, m.payload_bytes, int(m.kind), m.task)
            for device, planned in messages.items()
            for number, m in enumerate(planned)
            for to in m.destinations
        ]
        table = np.array(rows, np.int64).reshape(-1, 6)
        return cls.join([cls(*(table[:, i] for i in range(6)))])

    @classmethod
    def join(cls, parts: Sequence[TransferRequests]) -> TransferRequests:
        """Join the transfers of several groups in the order of (source, message, destination).

        Args:
            parts: At least one.

        Returns:
            All transfers.
        """
        columns = [np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)]
        order = np.lexsort((columns[1], columns[2], columns[0]))
        return cls(*(c[order] for c in columns))

    def select(self, which: np.ndarray) -> TransferRequests:
        """Some of the transfers.

        Args:
            which: (M,) bool, or indices.
        """
        return TransferRequests(*(getattr(self, f.name)[which] for f in fields(self)))


@dataclass(frozen=True)
class TransferOutcomes:
    """What the radio carried: for each request whether its destination got it.

    Attributes:
        requests: The requests.
        delivered: (M,) bool.
    """

    requests: TransferRequests
    delivered: np.ndarray

    def reached(self) -> dict[tuple[int, int], list[int]]:
        """Group the deliveries by message.

        Returns:
            (source, message) -> the destinations that got it, in the order of the requests; messages that nobody got
            are left out.
        """
        out: dict[tuple[int, int], list[int]] = {}
        r = self.requests
        for i in np.flatnonzero(self.delivered).tolist():
            out.setdefault((int(r.source[i]), int(r.message[i])), []).append(int(r.destination[i]))
        return out


class LawfulNetwork:
    """All devices' traffic under a method's law, without values.

    Devices that have nothing due and owe nothing are not asked, so that a round costs what is sent in it.

    Args:
        law: The method's traffic law.
        devices: The devices.
    """

    def __init__(self, law: TrafficLaw, devices: Iterable[int]) -> None:
        self.law = law
        self.devices = list(devices)
        self._states: dict[int, Any] = {d: law.start(d) for d in self.devices}
        self._owing: set[int] = set()
        self._sent: dict[int, list[Planned]] = {}

    def requests(self, round_index: int, absent: Collection[int] = ()) -> TransferRequests:
        """What the devices want sent after the local steps of a round.

        Args:
            round_index: The round, from 1; rounds are asked for one after the other.
            absent: Devices that are out of the run.

        Returns:
            The transfers of all messages under the law.
        """
        for device in self.devices:
            self.law.begin(device, self._states[device], round_index)
        asked = self.devices if self.law.busy(round_index) else sorted(self._owing)
        found = {d: self.law.messages(d, self._states[d], round_index) for d in asked if d not in absent}
        self._sent = {d: messages for d, messages in found.items() if messages}
        return TransferRequests.of(self._sent)

    def deliver(self, outcomes: TransferOutcomes) -> None:
        """Tell senders and receivers what has arrived.

        Args:
            outcomes: Outcomes of the transfers that the last call of `requests` gave.
        """
        touched = self._owing | set(self._sent)
        for (source, number), destinations in outcomes.reached().items():
            message = self._sent[source][number]
            self.law.delivered(source, self._states[source], message, destinations)
            for to in destinations:
                self.law.received(to, self._states[to], message)
            touched.update(destinations)
        self._owing = {d for d in touched if self.law.owes(d, self._states[d])}

    def deliver_all(self, requests: TransferRequests) -> None:
        """Let everything arrive.

        Args:
            requests: What the last call of `requests` gave.
        """
        self.deliver(TransferOutcomes(requests, np.ones(len(requests), bool)))


def message_graph(
    law: TrafficLaw, devices: int, rounds: int, *, most_messages: int = 2_000_000
) -> MessageGraph:
    """Bytes that pass between each two devices in a run in which nothing is lost.

    Only their proportions matter: they decide which devices share a machine, never a result.

    Args:
        law: The method's traffic law.
        devices: Number of devices N.
        rounds: Number of rounds.
        most_messages: After so many transfers the rest of the run is taken to be like what has been seen.

    Returns:
        The bytes of each pair of devices, summed over the rounds played.
    """
    network, parts, seen = LawfulNetwork(law, range(devices)), [], 0
    for round_index in range(1, rounds + 1):
        found = network.requests(round_index)
        network.deliver_all(found)
        parts.append(found)
        seen += len(found)
        if seen > most_messages:
            break
    whole = TransferRequests.join(parts)
    return MessageGraph.build(
        devices, whole.source, whole.destination, whole.payload_bytes.astype(np.float64)
    )
