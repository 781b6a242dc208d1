"""Which devices end a local round in a window of virtual time, and what is under way between devices that do not wait.

Under `schedule: async` a device trains, sends, mixes what has come by then and goes on; one such turn is a local round
of the device. A window is a stretch of virtual time in which no device ends more than one (see
`simulation.schedules`). A message that has arrived lies with its receiver until the receiver's next local round ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class LocalRound:
    """One local round of one device.

    Attributes:
        number: The device's own count, from 1: it names the rows that the device draws.
        since: Window in which its previous local round ended, 0 before the first.
        window: Window in which it ends.
        end_s: Virtual time at which the device sends and mixes, in s.
    """

    number: int
    since: int
    window: int
    end_s: float

    @property
    def begin_window(self) -> int:
        """The round number that the method is told where the local round begins."""
        return self.since + 1


@dataclass(frozen=True)
class LocalRounds:
    """The local rounds that end in one window; arrays are (D,), in the order of devices.

    Attributes:
        window: The window, from 1.
        devices: int64, the devices.
        number: int64, see `LocalRound`.
        since: int64, see `LocalRound`.
        end_s: float64, see `LocalRound`.
    """

    window: int
    devices: np.ndarray
    number: np.ndarray
    since: np.ndarray
    end_s: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, LocalRound]]:
        """Each device with its local round, in the order of devices."""
        columns = (self.devices, self.number, self.since, self.end_s)
        for device, number, since, end_s in zip(*(c.tolist() for c in columns), strict=True):
            yield device, LocalRound(number, since, self.window, end_s)


@dataclass
class Letter(Generic[T]):
    """A message that its receiver has, or is about to have.

    Attributes:
        sender: The device that made it.
        number: Its number among the messages that the sender made at once.
        known_s: Virtual time at which its last hop was decoded, in s.
        age: Local rounds that the receiver has ended in windows after that in which the sender began to train what the
            message says, the one at which the message is mixed not counted.
        content: What it carries.
    """

    sender: int
    number: int
    known_s: float
    age: int
    content: T


@dataclass
class Inbox(Generic[T]):
    """What has arrived at a device, or will, and has not been mixed.

    Attributes:
        letters: Running number -> message.
    """

    letters: dict[int, Letter[T]] = field(default_factory=dict)

    def put(self, letter: Letter[T]) -> None:
        """Add a message."""
        self.letters[max(self.letters, default=-1) + 1] = letter

    def take(self, now_s: float) -> list[Letter[T]]:
        """Take out what a device has at the end of a local round; what is still on its way ages by one.

        Args:
            now_s: End of the device's local round, s.

        Returns:
            The messages with `known_s` <= now, by (`known_s`, `sender`, `number`).
        """
        here = [key for key, letter in self.letters.items() if letter.known_s <= now_s]
        taken = [self.letters.pop(key) for key in here]
        for letter in self.letters.values():
            letter.age += 1
        return sorted(taken, key=lambda letter: (letter.known_s, letter.sender, letter.number))
