"""What travels on the communication graph: requests to the channel, their outcomes, and whole-network traffic laws.

`LawfulNetwork` plays all devices' traffic laws without a model: the plan schedules what it asks for, and the
placement of devices on actors adds up how many bytes pass between which devices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dfl_ray.network.local_rounds import Inbox, Letter, LocalRound, LocalRounds
from dfl_ray.packing.partition import MessageGraph

if TYPE_CHECKING:
    from dfl_ray.methods.laws import Planned, TrafficLaw


@dataclass(frozen=True)
class TransferRequests:
    """Transfers that devices want carried, one entry a destination; all arrays are (M,), int64 but for `change`.

    Entries with equal (source, message) carry the same bytes.

    Attributes:
        source: Sending device.
        destination: Receiving device.
        message: Number of the message among the source's messages of the round.
        payload_bytes: Encoded length in bytes.
        kind: `wire.message.Kind` of the message.
        task: Task index, or -1 for an adapter shared by all tasks.
        change: float64, how much of it is new to the destination (`methods.changes`); NaN where it is not known.
    """

    source: np.ndarray
    destination: np.ndarray
    message: np.ndarray
    payload_bytes: np.ndarray
    kind: np.ndarray
    task: np.ndarray
    change: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Where no change is known it is NaN."""
        if len(self.change) != len(self.source):
            assert not len(self.change), "as many changes as transfers"
            object.__setattr__(self, "change", np.full(len(self.source), np.nan))

    def __len__(self) -> int:
        """Number of transfers."""
        return len(self.source)

    @classmethod
    def of(
        cls, messages: Mapping[int, Sequence[Planned]],
        changes: Mapping[int, Sequence[Sequence[float]]] = MappingProxyType({}),
    ) -> TransferRequests:  # fmt: skip
        """The requests of some devices, in the order of (source, message, destination).

        Args:
            messages: Device -> its messages, numbered by their place.
            changes: Device -> for each of its messages the change for each destination; none known where it is empty.
        """
        rows = [
            (device, to, number, m.payload_bytes, int(m.kind), m.task)
            for device, planned in messages.items()
            for number, m in enumerate(planned)
            for to in m.destinations
        ]
        table = np.array(rows, np.int64).reshape(-1, 6)
        known = [
            change
            for device, planned in messages.items()
            for one in changes.get(device) or [(np.nan,) * len(m.destinations) for m in planned]
            for change in one
        ]
        return cls.join([cls(*(table[:, i] for i in range(6)), change=np.array(known, np.float64))])

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

    def select(self, which: np.ndarray) -> Self:
        """The outcomes of some of the requests.

        Args:
            which: (M,) bool, or indices.
        """
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        picked = {name: a[which] for name, a in arrays.items() if isinstance(a, np.ndarray)}
        return replace(self, requests=self.requests.select(which), **picked)

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


@dataclass(frozen=True)
class TimedOutcomes(TransferOutcomes):
    """What the radio carries of a window's messages, and when; no device waits for it.

    Attributes:
        known_s: (M,) virtual time in s from which the receiver has the message, or the sender knows that it is lost.
        age: (M,) int64, age of the message when it was made; see `local_rounds.Letter`.
        ended: The local rounds that end in the window.
    """

    known_s: np.ndarray
    age: np.ndarray
    ended: LocalRounds

    def post(self, inboxes: Mapping[int, Inbox[Any]], content: Mapping[tuple[int, int], Any]) -> None:
        """Put what arrives, or will, into its receivers' inboxes.

        Args:
            inboxes: Device -> its inbox, for those devices that are to get theirs.
            content: (source, message) -> what the message carries.
        """
        r = self.requests
        for i in np.flatnonzero(self.delivered).tolist():
            to, source, number = int(r.destination[i]), int(r.source[i]), int(r.message[i])
            if to in inboxes:
                letter = Letter(
                    source, number, float(self.known_s[i]), int(self.age[i]), content[source, number]
                )
                inboxes[to].put(letter)


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
        self._inboxes: dict[int, Inbox[Planned]] = {}
        self._fates: dict[int, list[tuple[Planned, list[int]]]] = {}

    def rewire(self, law: TrafficLaw) -> None:
        """Go on under the law of another communication graph; what the devices hold stays.

        Args:
            law: The same method's law.
        """
        self.law, self._owing = law, set(self.devices)

    def trains(self, device: int, round_index: int) -> bool:
        """Whether a device makes local steps in the round that comes next."""
        return self.law.trains(device, self._states[device], round_index)

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

    def ended(self, ended: LocalRounds, due: Callable[[LocalRound], int]) -> TransferRequests:
        """What the devices want sent that end a local round in a window, where no device waits for another.

        Each first learns what became of its last messages.

        Args:
            ended: Their local rounds.
            due: The round number that the messages get; see `methods.due`.

        Returns:
            The transfers of all messages under the law.
        """
        self._sent = {}
        for device, turn in ended:
            state = self._states[device]
            self.law.begin(device, state, turn.begin_window)
            for message, reached in self._fates.pop(device, []):
                self.law.delivered(device, state, message, reached)
            messages = self.law.messages(device, state, due(turn))
            if messages:
                self._sent[device] = messages
        return TransferRequests.of(self._sent)

    def deliver_timed(self, outcomes: TimedOutcomes) -> None:
        """Hand over what has come by the ends of the window's local rounds, and keep the rest for later ones.

        Args:
            outcomes: Outcomes of the transfers that the last call of `ended` gave.
        """
        if not self._inboxes:
            self._inboxes = {d: Inbox() for d in self.devices}
        content = {(d, k): m for d, messages in self._sent.items() for k, m in enumerate(messages)}
        outcomes.post(self._inboxes, content)
        for (source, number), destinations in outcomes.reached().items():
            self._fates.setdefault(source, []).append((content[source, number], destinations))
        for device, turn in outcomes.ended:
            for letter in self._inboxes[device].take(turn.end_s):
                self.law.received(device, self._states[device], letter.content)

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
