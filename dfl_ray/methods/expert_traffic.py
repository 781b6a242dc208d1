"""What the traffic law of methods with an expert a task remembers of a device (`methods.expert_law`)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HeldUpdate:
    """The published update of one (kind, task) that a device holds.

    Attributes:
        version: Round in which it was made, or 1 for what never changes.
        payload_bytes: Encoded length, in bytes.
        exact, kept, in_force: See `laws.Planned`.
    """

    version: int
    payload_bytes: int
    exact: bool = True
    kept: int = 0
    in_force: int = 0


@dataclass(frozen=True)
class AnnouncedMask:
    """A mask that has been announced.

    Attributes:
        kept: Entries it keeps.
        in_force: Round in which it comes into force.
    """

    kept: int
    in_force: int


@dataclass
class TaskMasks:
    """The masks of one task on one of its holders.

    Attributes:
        current: Version of the mask in force, 0 while dense.
        announced: Newest round of the schedule that this device, as the author, has dealt with.
        known: Version -> mask, the past ones that late messages may still use included.
    """

    current: int = 0
    announced: int = 0
    known: dict[int, AnnouncedMask] = field(default_factory=dict)


@dataclass
class ExpertTraffic:
    """The traffic state of one device.

    Attributes:
        held: (kind, task) -> the newest published update it holds.
        acknowledged: (kind, task, child) -> version the child has acknowledged.
        masks: Held task -> its masks.
    """

    held: dict[tuple[int, int], HeldUpdate] = field(default_factory=dict)
    acknowledged: dict[tuple[int, int, int], int] = field(default_factory=dict)
    masks: dict[int, TaskMasks] = field(default_factory=dict)
