"""`sidelink_mode2`: sensing-based semi-persistent scheduling, as devices of NR sidelink choose resources themselves.

A resource is a slot's place in the period of P slots (`period_s` over the radio's `slot_s`) and one of the radio's
sub-channels. A sender that has none chooses one of the P·K resources of the P slots to come:

1. it excludes the places at which it sent itself within `sensing_s`, since it could not listen there (unless less than
   `least_share` of all would be left), and the resources that others have announced whose mean power at it exceeds
   `sense_dbm`;
2. while less than `least_share` is left, the threshold is raised by 3 dB;
3. it takes one of those left at random, all alike.

It sends there in every period, and every transmission announces the next to all that are not sending themselves. After
C transmissions, drawn evenly from 5 to 15 (times ceil(100 ms/max(20 ms, period)) below 100 ms, so that 0.5 to 1.5 s
pass), it keeps the resource with chance `resource_keep` for as many again, newly drawn; else the last one announces
nothing, and it chooses anew when the next period of its own begins. A resource that it does not use once is given up.

What that means for the messages of a round: slots all last `slot_s` (the receivers' answers in it, `feedback_s`,
included), and a message is a train of parts, one a period, each as long as a slot holds at the rate chosen for it,
until it is sent; the sender's next message goes on in the same reservation. A lost part is repeated as it was in the
sender's next slot, and a receiver given up once the parts that it lost are together as long as `max_attempts` messages;
after every `losses` lost attempts in a row of one part its sender chooses anew at once, which stands for the
retransmissions of NR, whose resources are chosen by the same procedure (`losses` 0: it stays where it is, as a sender
of LTE mode 4, which hears no answers). A message to several neighbours is
sent once (`multicast`). Rates are chosen from the SNR of the links: nobody knows who else will send. Who sends hears
nothing in that slot on any sub-channel, data and announcements (half duplex), and senders that do not hear each other,
or chose at once, collide; what is decoded follows from the SINR, so that the stronger may survive. Each round starts
with nothing reserved and nothing heard.

Departures: all devices have one period and priority; a transmission takes one sub-channel; the selection window is the
period itself (T1 is one slot); the channel of announcements is decoded wherever its mean power exceeds the threshold,
without fading and however many send there; the last part of a message announces a next one too; no re-evaluation and
pre-emption, no blind retransmissions, no congestion control, no second stage by mean RSSI as in LTE mode 4.

Source:
    3GPP TS 38.214 clause 8.1.4 (sensing and exclusion), TS 38.321 clause 5.22.1 (counter, keeping), release 16, from
    memory; Gonzalez-Martín, Sepulcre, Molina-Masegosa and Gozalvez, Analytical Models of the Performance of C-V2X Mode
    4 Vehicular Communications (IEEE Trans. Vehicular Technology 68(2), 2019) for mode 4 and the threshold of -90.5 dBm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.checks import require_range
from channels.draws import keyed_uniform, stream_key
from channels.registry import Within
from channels.scheduling.fixed_slots import PERIOD_S, period_slots
from channels.scheduling.problem import IDLE, Scheduler, SlotTask
from channels.scheduling.reservations import NEVER, Reservations
from channels.units import dbm_to_watt

_FEWEST, _MOST = 5, 15
_FULL_PERIOD_S, _SHORTEST_S = 0.1, 0.02


@dataclass(frozen=True)
class Sensing:
    """The scheduler's options; see `sidelink_mode2_scheduler`."""

    period_s: float
    sense_w: float
    least_share: float
    resource_keep: float
    sensing_s: float
    losses: int

    def draw_uses(self, draw: FloatArray) -> IntArray:
        """Transmissions until it is drawn whether a resource is kept: 5 to 15, times a factor below 100 ms.

        Args:
            draw: Uniforms in (0, 1), any shape.

        Source:
            TS 38.321 clause 5.22.1.1, from memory.
        """
        factor = max(1, math.ceil(_FULL_PERIOD_S / max(_SHORTEST_S, self.period_s) * (1 - 1e-12)))
        return _FEWEST * factor + np.floor(draw * ((_MOST - _FEWEST) * factor + 1)).astype(np.int64)


def sidelink_mode2_scheduler(
    period_s: Annotated[float, Within(gt=0, le=1e6)] = PERIOD_S,
    sense_dbm: Annotated[float, Within(ge=-300, le=300)] = -90.5,
    least_share: Annotated[float, Within(gt=0, le=1)] = 0.2,
    resource_keep: Annotated[float, Within(ge=0, le=1)] = 0.0,
    sensing_s: Annotated[float, Within(ge=0, le=1e6)] = 1.1,
    losses: Annotated[int, Within(ge=0, le=1_000_000)] = 3,
) -> Scheduler:
    """Make the scheduler.

    Args:
        period_s: Period of a reservation in s, a multiple of the radio's `slot_s`; a sender sends one part in each.
        sense_dbm: Mean received power in dBm over the sub-channel above which an announced resource is excluded
            (the standard's threshold is for one resource element: 10·lg of their number lower).
        least_share: Share of all resources that must be left, else the threshold is raised (0.2, 0.35 or 0.5 in NR).
        resource_keep: Chance of keeping a resource when its counter ends (0 to 0.8 in NR).
        sensing_s: Length of the sensing window in s (0.1 or 1.1 in NR).
        losses: After every so many lost attempts in a row of one part its sender chooses anew; 0 = it does not.

    Returns:
        The scheduler.

    Raises:
        ValueError: If `least_share` is as good as none; `get_scheduler` has held the options to their ranges.
    """
    require_range("sidelink_mode2 least_share", least_share, 1e-9, 1.0)
    sensing = Sensing(
        float(period_s),
        float(dbm_to_watt(sense_dbm)),
        float(least_share),
        float(resource_keep),
        float(sensing_s),
        int(losses),
    )

    def rule(task: SlotTask) -> list[IntArray]:
        return select(task, sensing)

    return Scheduler(
        "sidelink_mode2",
        rule,
        groups=True,
        spreads=True,
        keeps_threshold=False,
        knows_slot=False,
        needs="links",
        fixed_slots=True,
        may_wait=True,
    )


def select(task: SlotTask, sensing: Sensing) -> list[IntArray]:
    """Say who sends in this slot, or how many slots pass that nobody uses (see `Scheduler.select`).

    Args:
        task: What waits; its reservations are taken further.
        sensing: The scheduler's options.
    """
    kept, devices = task.reservations, task.radio.power_w.shape[0]
    kept.ready(devices, period_slots(sensing.period_s, task.radio.slot_s))
    head = np.full(devices, -1, dtype=np.int64)
    # Written from the last to the first, so that the first unit of each sender stays.
    head[task.source[::-1]] = np.arange(task.units - 1, -1, -1, dtype=np.int64)
    has = head >= 0
    _give_up(task, sensing, head, has)
    band = np.full(task.units, -1, dtype=np.int64)
    due = np.flatnonzero(has & (kept.slot == task.slot))
    if due.size:
        band[head[due]] = kept.band[due]
        _use(task, sensing, due)
    # Whoever chooses now takes a later slot, and knows what is announced in this one: who sends in it sends in the last
    # slot that can be chosen, too.
    choosing = np.flatnonzero(has & (kept.slot == NEVER) & (kept.begin <= task.slot))
    if choosing.size:
        _choose(task, sensing, choosing)
    if not due.size:
        task.memory[IDLE] = [_unused(task, kept, has)]
    return [band]


def _give_up(task: SlotTask, sensing: Sensing, head: IntArray, has: BoolArray) -> None:
    """Drop reservations that were not used once, and those of senders whose part was lost so often in a row."""
    kept = task.reservations
    tries = np.where(has, task.tries[head], 0)
    moves = np.zeros_like(has)
    if sensing.losses:
        moves = has & kept.fresh & (tries > 0) & (tries % sensing.losses == 0)
    kept.fresh &= ~has
    moves |= (kept.slot != NEVER) & (kept.slot < task.slot)
    kept.slot[moves] = NEVER
    kept.begin[moves] = task.slot


def _choose(task: SlotTask, sensing: Sensing, device: IntArray) -> None:
    """Give devices a resource each; none of them knows of the others' choice."""
    from channels.scheduling.sidelink_kernels import choose_resources

    radio, kept = task.radio, task.reservations
    key = stream_key(radio.seed, "sidelink", radio.round_index, task.slot)
    draw, uses = (keyed_uniform(stream_key(key, name), device, device) for name in ("resource", "uses"))
    near = radio.near
    kept.slot[device], kept.band[device], _limit, _left = choose_resources(
        device, draw, task.slot, math.ceil(sensing.sensing_s / radio.slot_s * (1 - 1e-12)), sensing.least_share,
        sensing.sense_w, radio.power_w, near.indptr, near.index, near.in_gain, kept.told_slot, kept.told_band,
        kept.sent_slot, radio.subchannels,
    )  # fmt: skip
    kept.uses[device] = sensing.draw_uses(uses)
    kept.begin[device] = task.slot


def _use(task: SlotTask, sensing: Sensing, device: IntArray) -> None:
    """Let devices send in this slot, and announce their next one or give their resource back."""
    radio, kept = task.radio, task.reservations
    period = kept.sent_slot.shape[1]
    kept.sent_slot[device, task.slot % period] = task.slot
    kept.fresh[device] = True
    kept.begin[device] += period
    kept.uses[device] -= 1
    key = stream_key(radio.seed, "sidelink", radio.round_index, task.slot)
    stays, uses = (keyed_uniform(stream_key(key, name), device, device) for name in ("keep", "kept-uses"))
    over = kept.uses[device] <= 0
    keeps = ~over | (stays < sensing.resource_keep)
    kept.uses[device] = np.where(over, sensing.draw_uses(uses), kept.uses[device])
    kept.slot[device] = np.where(keeps, task.slot + period, NEVER)
    kept.told_slot[device], kept.told_band[device] = kept.slot[device], kept.band[device]


def _unused(task: SlotTask, kept: Reservations, has: BoolArray) -> int:
    """Slots until somebody that waits sends or chooses, or may begin to wait; at least 1."""
    next_slot = np.where(kept.slot == NEVER, kept.begin, kept.slot)[has]
    quiet = math.ceil(min(task.quiet_s, 1e6) / task.radio.slot_s)
    return max(1, min(int(next_slot.min()) - task.slot, quiet))
