"""A scheduling rule by name; what it is asked is in `channels.scheduling.problem`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from channels.arrays import IntArray

Select = Callable[[Any], list[IntArray]]


@dataclass(frozen=True)
class Scheduler:
    """A named scheduling rule.

    Attributes:
        name: Name used in configurations.
        select: Gives the next slots in order, at least one: for each, (U,) sub-channel of every unit, -1
            where the unit is not in the slot. Slots after the first are dropped when new senders become
            ready.
        groups: Whether transfers with the same source and message form one unit.
        saves_airtime: Whether units are kept within the airtime their receivers need one by one.
        spreads: Whether `select` uses all sub-channels itself; otherwise it fills one, and is asked again
            for each further one with the devices that are left.
        knows_slot: Whether senders know who else sends in the slot when they choose their rate; else they know the SNR.
        needs: What it must be told (`channels.control`): gains (of all pairs, and what is wanted), demand (what is
            wanted alone), hearing (each device of those around it) or links (the wanted links alone).
        keeps_threshold: Whether members of a slot keep `SlotTask.sinr_min`; power control needs it.
        fixed_slots: Whether slots all last `Radio.slot_s`, the answers in them included, and longer messages are cut
            into parts (`channels.scheduling.progress`); else a slot lasts until its longest message is through.
        may_wait: Whether it may leave all units waiting for as long as it likes, as random access does; else so many
            empty answers in a row that nothing can come of them are an error (`channels.scheduling.engine`).
    """

    name: str
    select: Select
    groups: bool = False
    saves_airtime: bool = False
    spreads: bool = False
    keeps_threshold: bool = True
    knows_slot: bool = True
    needs: str = "gains"
    fixed_slots: bool = False
    may_wait: bool = False
