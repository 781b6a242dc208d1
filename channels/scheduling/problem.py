"""What a scheduler is asked and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from channels.adaptation import RateLaw
from channels.arrays import BoolArray, FloatArray, IntArray
from channels.external import ExternalField
from channels.gains import NearGains
from channels.interference import FarField
from channels.link import CHEN_WATERFALL_DB
from channels.power_states import PowerDraw
from channels.scheduling.reservations import Reservations
from channels.scheduling.rule import Scheduler

__all__ = ["IDLE", "LARGEST_LINK_MATRIX", "LinkMatrix", "Radio", "Scheduler", "SlotTask"]

LARGEST_LINK_MATRIX = 6000
IDLE = -1
"""Key in `SlotTask.memory`: [number of idle slots] that pass at once."""


@dataclass(frozen=True)
class Radio:
    """The physical side of a scheduling problem; nothing in it changes during a round.

    Attributes:
        near: Mean gains between devices.
        far: Far interference, or None.
        power_w: (N,) transmit power of each device in W.
        noise_w: (N,) noise power of one sub-channel at each device in W, with the mean interference from outside.
        bandwidth_hz: Bandwidth of one sub-channel in Hz.
        subchannels: Number of sub-channels.
        sinr_min: Decoding threshold beta, linear.
        plan_min: SINR the scheduler keeps on mean gains (beta times the fade margin), linear.
        law: Rates chosen from the mean SINR.
        csi: What a sender knows, one of `channels.adaptation.CSI_KINDS`.
        csi_delay_s: Age of the SINR that `delayed` knows, in s.
        csi_pilots: Pilot symbols of an estimate.
        known_margin_db: Margin below the SINR that `delayed`, `estimated` or `perfect` knows, in dB.
        errors: `outage`, `chen`, `finite_blocklength` or `none`.
        waterfall_db: Waterfall threshold of `chen` in dB.
        power_control: `fixed` or `foschini_miljanic`.
        max_attempts: Attempts per transfer.
        harq: What receivers keep of attempts that they could not decode (see `channels.harq`).
        feedback_s: Time after each slot in which all its receivers answer at once, in s.
        feedback_delay_s: Time from there to the earliest next attempt of what was not decoded, in s.
        draw: What a device draws in each state.
        slot_s: Length of an idle slot in s.
        seed: Seed of random access.
        round_index: Number of the round; with the slot it keys random access.
        multicast: Whether schedulers that can serve all receivers of a message with one transmission.
        aloha_probability: Chance of trying in a slot.
        conflict_factor: Interference range over link length.
        exponent: Path-loss exponent that turns gains into lengths where positions are unknown.
        positions_m: (N, 2) positions in m, or None.
        external: What reaches the devices from outside; None where nothing does.
    """

    near: NearGains
    power_w: FloatArray
    noise_w: FloatArray
    bandwidth_hz: float
    sinr_min: float
    plan_min: float
    law: RateLaw
    far: FarField | None = None
    subchannels: int = 1
    csi: str = "mean"
    csi_delay_s: float = 0.0
    csi_pilots: float = 8.0
    known_margin_db: float = 3.0
    errors: str = "outage"
    waterfall_db: float = CHEN_WATERFALL_DB
    power_control: str = "fixed"
    max_attempts: int = 1
    harq: str = "none"
    feedback_s: float = 0.0
    feedback_delay_s: float = 0.0
    draw: PowerDraw = field(default_factory=PowerDraw)
    slot_s: float = 1e-3
    seed: int = 0
    round_index: int = 0
    multicast: bool = True
    aloha_probability: float = 0.1
    conflict_factor: float = 2.0
    exponent: float = 3.5
    positions_m: FloatArray | None = None
    external: ExternalField | None = None


@dataclass(frozen=True)
class SlotTask:
    """What may be sent now.

    A unit is one transmission with one or more receivers; the unit's receivers are the rows
    `first_row[u]` to `first_row[u + 1]`.

    Attributes:
        radio: The physical side.
        source: (U,) sender of each unit.
        first_row: (U + 1,) first row of each unit.
        destination: (R,) receiver of each row.
        gain: (R,) mean linear gain of each row.
        signal_w: (R,) mean received power of each row in W.
        sinr_min: (U,) linear SINR each unit keeps at all its receivers.
        bits: (U,) bits to carry; under fixed slots those that are left of the message.
        alone_s: (U,) expected time each unit needs with the band for itself, retries included, in s.
        hopeless: (U,) units with a receiver that practically never decodes, even alone.
        hops_after: (U,) length of the longest chain of transfers that waits for each unit.
        waited: (U,) rounds in a row a link of the unit has gone unserved.
        worth: (U,) share of the round's largest change that the unit carries, in [0, 1]; None where it does not count.
        far_w: (N,) expected far interference at each device in W.
        average_bps: (N,) exponential average of each sender's served rate in bit/s.
        slot: Number of the slot; under fixed slots those that nobody uses count too.
        wanted: Transfers of the whole round; a scheduler may work harder on small rounds.
        first_transfer: (U,) number of each unit's first transfer among those of the round.
        tries: (U,) failed attempts of that transfer, or of its part at hand.
        quiet_s: Seconds until another device may become ready; inf where none will.
        memory: What a scheduler keeps from slot to slot of a round; under `IDLE` how many slots an empty answer lasts.
        reservations: What a scheduler by reservations keeps likewise.
        left_s: Seconds left until the round's deadline; inf without one.
    """

    radio: Radio
    source: IntArray
    first_row: IntArray
    destination: IntArray
    gain: FloatArray
    signal_w: FloatArray
    sinr_min: FloatArray
    bits: FloatArray
    alone_s: FloatArray
    hopeless: BoolArray
    hops_after: IntArray
    waited: IntArray
    far_w: FloatArray
    average_bps: FloatArray
    slot: int
    wanted: int
    left_s: float = math.inf
    first_transfer: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    tries: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    quiet_s: float = math.inf
    worth: FloatArray | None = None
    memory: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    reservations: Reservations = field(default_factory=Reservations)

    @property
    def urgent(self) -> bool:
        """Whether the round has a deadline."""
        return math.isfinite(self.left_s)

    @property
    def weight(self) -> FloatArray:
        """(U,) `worth`, 1 where it does not count."""
        return np.ones(self.units) if self.worth is None else self.worth

    @property
    def units(self) -> int:
        """Number of units U."""
        return self.source.shape[0]

    @cached_property
    def row_unit(self) -> IntArray:
        """(R,) unit of each row."""
        return np.repeat(np.arange(self.units), np.diff(self.first_row))


def subset(task: SlotTask, units: IntArray) -> SlotTask:
    """The task of some of the units, in the given order.

    Args:
        task: The task.
        units: Unit indices.

    Returns:
        The smaller task.
    """
    counts = np.diff(task.first_row)[units]
    first_row = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    offset = np.repeat(task.first_row[units] - first_row[:-1], counts)
    rows: IntArray = offset + np.arange(int(first_row[-1]), dtype=np.int64)
    return replace(
        task,
        source=task.source[units],
        first_row=first_row,
        destination=task.destination[rows],
        gain=task.gain[rows],
        signal_w=task.signal_w[rows],
        sinr_min=task.sinr_min[units],
        bits=task.bits[units],
        alone_s=task.alone_s[units],
        hopeless=task.hopeless[units],
        hops_after=task.hops_after[units],
        waited=task.waited[units],
        worth=None if task.worth is None else task.worth[units],
        first_transfer=task.first_transfer[units],
        tries=task.tries[units],
    )


@dataclass(frozen=True)
class LinkMatrix:
    """A slot task as link-by-link arrays, for schedulers that weigh every pair.

    Attributes:
        received_w: (U, U) power of unit k's sender at unit l's receiver in W; own signal on the diagonal.
        noise_w: (U,) noise plus far interference at each receiver in W.
        conflict: (U, U) whether two units share a device; False on the diagonal.
    """

    received_w: FloatArray
    noise_w: FloatArray
    conflict: BoolArray = field(repr=False)


def link_matrix(task: SlotTask) -> LinkMatrix:
    """Expand a task of unicast units.

    Args:
        task: The task; every unit has one receiver.

    Returns:
        Link-by-link arrays.

    Raises:
        ValueError: If there are too many links, or the near list is cut off.
    """
    if task.units > LARGEST_LINK_MATRIX:
        raise ValueError(
            f"{task.units} links are waiting and this scheduler compares all pairs, up to"
            f" {LARGEST_LINK_MATRIX}; use the scheduler greedy_sinr, broadcast or tdma, or fewer transfers"
        )
    src, dst = task.source, task.destination
    cross = task.radio.near.matrix()[np.ix_(src, dst)]
    received = task.radio.power_w[src][:, None] * cross
    np.fill_diagonal(received, task.signal_w)
    clash = (src[:, None] == src) | (src[:, None] == dst) | (dst[:, None] == src) | (dst[:, None] == dst)
    np.fill_diagonal(clash, False)
    return LinkMatrix(received, (task.radio.noise_w + task.far_w)[dst], clash)


def affectance(task: SlotTask, links: LinkMatrix) -> FloatArray:
    """(U, U) interference of k at l over what l can bear; a set is feasible iff every column sums to <= 1.

    a[k, l] = beta_l·P_k·G_kl / (P_l·G_ll - beta_l·N_l); conflicts and links with nothing to spare get 1e6.

    Source:
        Halldorsson and Wattenhofer, Wireless Communication Is in APX (ICALP 2009), with noise.
    """
    spare = np.diagonal(links.received_w) - task.sinr_min * links.noise_w
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = task.sinr_min * links.received_w / np.maximum(spare, 1e-300)
    ratio = np.minimum(np.where(links.conflict, 1e6, np.nan_to_num(ratio, nan=0.0, posinf=1e6)), 1e6)
    np.fill_diagonal(ratio, 0.0)
    return ratio


def slots_from_numbers(numbers: IntArray) -> list[IntArray]:
    """Turn slot numbers into what `Scheduler.select` answers, all on sub-channel 0.

    Args:
        numbers: (U,) slot of each unit, from 0; -1 for none.

    Returns:
        For each slot, (U,) sub-channel 0 for its members and -1 for the others.
    """
    return [
        np.where(numbers == slot, 0, -1).astype(np.int64) for slot in range(int(numbers.max(initial=-1)) + 1)
    ]
