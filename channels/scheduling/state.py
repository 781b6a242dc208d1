"""What changes while slots run: what is pending, the clock, averages, and every device's battery."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.gains import NearGains
from channels.harq import SoftMemory
from channels.outer_loop import OuterLoop
from channels.power_states import STATES, PowerDraw, resting_energy
from channels.presence import Presence
from channels.scheduling.grouping import unit_bounds, unit_ids
from channels.scheduling.problem import Radio, Scheduler
from channels.scheduling.progress import Progress
from channels.scheduling.reservations import Reservations
from channels.slot_fading import SlotFading
from channels.transfers import DEAD, DELIVERED, FAILED, OUTCOMES, UNSERVED, UPSTREAM, Schedule, Transfers
from channels.units import BITS_PER_BYTE, db_to_linear

_LOST = np.isin(np.arange(len(OUTCOMES)), (FAILED, DEAD, UPSTREAM))


@dataclass(frozen=True)
class Request:
    """What an engine run is to serve.

    Attributes:
        transfers: The wanted transfers.
        gain: (M,) mean linear gain of each transfer's link.
        start_s: Time at which the round starts.
        ready_s: (N,) time from which each device can send.
        deadline_s: Time at which the round ends; inf for none.
        battery_j: (N,) battery left in J; devices at or below 0 neither send nor receive.
        fading: Gives the fading of a slot from its number.
        max_slots: Most slots run.
        order_key: Key of the round's tie-breaks.
        waited: (M,) rounds in a row each link has gone unserved; None for 0.
        worth: (M,) share of the round's largest change that each transfer carries, in [0, 1]: the larger go first, and
            schedulers that weigh links weigh them by it. None where it does not count.
        average_bps: (N,) served rate of each sender so far in bit/s; None for 0.
        presence: When devices are on; None where they always are.
        loop: The outer loop of the links, which attempts take further; None without one.
        silent_s: (N,) silence of each device before the round, in s; None for 0.
        shortest_first: Whether transfers are taken by the time that they and what waits for them take.
        reported: Gains between devices that the scheduler goes by; None where it knows them as they are.
        until_s: Time up to which devices that are off, or not ready, are waited for; later ones go unserved.
    """

    transfers: Transfers
    gain: FloatArray
    start_s: float
    ready_s: FloatArray
    deadline_s: float
    battery_j: FloatArray
    fading: Callable[[int], SlotFading]
    max_slots: int | None = None
    order_key: int = 0
    waited: IntArray | None = None
    worth: FloatArray | None = None
    average_bps: FloatArray | None = None
    presence: Presence | None = None
    until_s: float = math.inf
    loop: OuterLoop | None = None
    silent_s: FloatArray | None = None
    shortest_first: bool = False
    reported: NearGains | None = None


@dataclass(frozen=True)
class Outcome:
    """What an engine run did.

    Attributes:
        schedule: The schedule.
        energy_j: (N,) radio energy of each device in J, idle and listening included.
        idle_energy_j: (N,) the part of it spent idle or listening.
        battery_j: (N,) battery left in J, not below 0.
        average_bps: (N,) served rate of each sender in bit/s.
        now_s: Time up to which energy is booked.
        awaiting: (N,) devices for which something is still pending.
        state_energy_j: (7, N) the energy by state in the order of `STATES`; None where radios have no states.
        silent_s: (N,) silence of each device at the end in s; None likewise.
    """

    schedule: Schedule
    energy_j: FloatArray
    idle_energy_j: FloatArray
    battery_j: FloatArray
    average_bps: FloatArray
    now_s: float
    awaiting: BoolArray
    state_energy_j: FloatArray | None = None
    silent_s: FloatArray | None = None


class State:
    """Mutable state of one run; lives only inside `run_slots`."""

    def __init__(self, radio: Radio, scheduler: Scheduler, request: Request) -> None:
        """Start with everything pending; the request's transfers are in canonical order."""
        wanted = request.transfers
        count, devices = len(wanted), radio.power_w.shape[0]
        self.radio, self.scheduler, self.request = radio, scheduler, request
        self.groups = scheduler.groups and radio.multicast
        self.unit = unit_ids(radio, self.groups, wanted, request.gain)
        # Transfers of one unit are made neighbours, so that units are runs of rows.
        self.order = np.argsort(self.unit, kind="stable")
        self.unit_bound = np.zeros(0)
        if scheduler.saves_airtime and count:
            self.unit_bound = unit_bounds(radio, wanted, request.gain, self.unit)
        self.bits = wanted.payload_bytes.astype(np.float64) * BITS_PER_BYTE
        self.snr = radio.power_w[wanted.source] * request.gain / radio.noise_w[wanted.destination]
        self.alone_s = radio.law.expected_s(self.bits, self.snr)
        self.hopeless = radio.law.hopeless(self.snr)
        self.hops_after = wanted.hops_after()
        self.chained = bool(np.any(wanted.after >= 0))
        self.waited = np.zeros(count, dtype=np.int64) if request.waited is None else request.waited
        self.pending = np.ones(count, dtype=bool)
        self.released = wanted.after < 0
        self.known = np.zeros(count, dtype=bool)
        self.failures = np.zeros(count, dtype=np.int64)
        gap = float(db_to_linear(radio.law.rule.gap_db))
        self.soft = SoftMemory.empty(radio.harq, gap, radio.bandwidth_hz, count)
        self.memory, self.reservations = dict[int, list[int]](), Reservations()
        self.progress = Progress.of(self.bits, radio, scheduler.fixed_slots)
        self.not_before_s = np.zeros(count)
        self.finished_s = np.full(count, np.nan)
        self.outcome = np.full(count, UNSERVED, dtype=np.int64)
        self.awaited = np.bincount(wanted.destination, minlength=devices)
        self.battery_j = request.battery_j.copy()
        self.mains = bool(np.isinf(self.battery_j).all())
        self.energy_j, self.idle_energy_j = np.zeros(devices), np.zeros(devices)
        self.state_energy_j = None if radio.draw.sleeps is None else np.zeros((len(STATES), devices))
        self.silent_s = np.zeros(devices) if request.silent_s is None else request.silent_s.copy()
        average = request.average_bps
        self.average_bps = np.zeros(devices) if average is None else average.copy()
        self.far_w = np.zeros(devices)
        self.now_s, self.slot, self.transmissions = request.start_s, 0, 0
        self.airtime_s, self.last_end_s = 0.0, request.start_s
        self.parts: list[dict[str, np.ndarray]] = []

    @property
    def slots_over(self) -> bool:
        """Whether as many slots were run as the request allows."""
        return self.request.max_slots is not None and self.slot >= self.request.max_slots

    def leave(self, rows: IntArray, code: int) -> None:
        """Take transfers out of the queue; what waits for them is released, or lost with them.

        Args:
            rows: Indices of transfers, in canonical order; those no longer pending are passed over.
            code: Outcome, a code into `channels.transfers.OUTCOMES`.
        """
        rows = rows[self.pending[rows]]
        if not rows.size:
            return
        self.outcome[rows] = code
        self.pending[rows] = False
        np.subtract.at(self.awaited, self.request.transfers.destination[rows], 1)
        if self.chained:
            self._pass_on()

    def _pass_on(self) -> None:
        wanted = self.request.transfers
        after = np.maximum(wanted.after, 0)
        self.released |= self.outcome[after] == DELIVERED
        while True:
            before = np.where(wanted.after >= 0, self.outcome[after], DELIVERED)
            lost = np.flatnonzero(self.pending & _LOST[before])
            if not lost.size:
                return
            self.outcome[lost] = UPSTREAM
            self.pending[lost] = False
            np.subtract.at(self.awaited, wanted.destination[lost], 1)

    def retire_dead(self) -> None:
        """Give up what a device with an empty battery was to send or to receive."""
        if self.mains:
            return
        dead = self.battery_j <= 0
        wanted = self.request.transfers
        lost = np.flatnonzero(self.pending & (dead[wanted.source] | dead[wanted.destination]))
        if lost.size:
            self.leave(lost, DEAD)

    def next_slot(self, time_s: float) -> tuple[int, float]:
        """How many slots pass until a time, and when the first slot from it on begins.

        Args:
            time_s: The time in s, not before now; inf for never.

        Returns:
            Under fixed slots the number of those that pass, and the begin of the next in s; else 0 and the time. The
            first fixed slot of a round begins when somebody first has something to send.
        """
        if not self.progress.cut or math.isinf(time_s) or self.slot == 0:
            return 0, time_s
        slots = math.ceil((time_s - self.now_s) / self.radio.slot_s * (1 - 1e-12))
        return slots, max(self.now_s + slots * self.radio.slot_s, time_s)

    def wait_until(self, time_s: float, busy_s: FloatArray | None = None) -> None:
        """Move the clock on; who is neither sending nor receiving listens or idles, and pays for it.

        Args:
            time_s: New time in s.
            busy_s: (N,) seconds of the step in which each device sends or receives; None for 0. A device that is off
                draws nothing.
        """
        off_s: FloatArray | float = 0.0
        if self.request.presence is not None:
            off_s = self.request.presence.off_s(self.now_s, time_s)
        step_s, awaiting = time_s - self.now_s, self.awaited > 0
        busy: FloatArray | float = 0.0 if busy_s is None else busy_s
        if self.state_energy_j is not None:
            parts, self.silent_s = resting_energy(
                self.radio.draw, step_s, awaiting, self.battery_j, self.silent_s, busy, off_s
            )
            self.state_energy_j += parts
            spent = parts.sum(axis=0)
        else:
            spent = idle_energy(self.radio.draw, step_s, awaiting, self.battery_j, busy + off_s)
        self.energy_j += spent
        self.idle_energy_j += spent
        self.battery_j = np.maximum(self.battery_j - spent, 0.0)
        self.now_s = time_s


def idle_energy(
    draw: PowerDraw,
    step_s: float,
    awaiting: BoolArray,
    battery_j: FloatArray,
    busy_s: FloatArray | float = 0.0,
) -> FloatArray:
    """Energy of listening (something is still awaited) or idling over a step, at most what a battery holds.

    Args:
        draw: Both powers.
        step_s: Length of the step in s.
        awaiting: (N,) whether a device still awaits a reception.
        battery_j: (N,) energy left in J.
        busy_s: (N,) seconds of the step spent sending or receiving.

    Returns:
        (N,) energy in J.
    """
    power_w = np.where(awaiting, draw.listen_power_w, draw.idle_power_w)
    return np.minimum(power_w * np.maximum(step_s - busy_s, 0.0), battery_j)
