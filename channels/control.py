"""Control: what it costs to know who hears whom, at what gain and who may send when.

Under `control: free` schedulers know it for nothing. Under `charged` it goes over the same radio before a round's first
transfer, and each device's sending waits for it:

- discovery: every device sends a beacon at the lowest rate, one device after another, since nobody knows yet who would
  disturb whom. A beacon is heard where its mean SNR reaches the threshold beta;
- reports: to the coordinator, the device nearest to the middle of those that hear one another (over several hops),
  along the tree of least expected time on air; a device on the way sends what it heard and its own in one message.
  Under `Scheduler.needs` gains a report holds the gain of everybody heard and the wanted transfers, under demand the
  wanted transfers alone. Under hearing each device tells its gains to those around it, at the lowest rate;
- under `priority: information` what is wanted is told with the size of its change, a float16;
- grants: down the same tree, each transfer's slot, sub-channel and rate for both of its ends; under hearing both ends
  of each transmission tell those around them the slot that they take.

A report's gain is the received power in dBm on a grid of 2^b levels over 127 dB from -156 dBm on, the range of NR's
reports (1 dB for b = 7). Beacons and gains are sent again after `control_every_rounds` rounds; in between schedulers
go by the old ones, while devices move on. Gains of pairs that do not hear each other are not known and count as none.

Departures: one message is on air at a time among devices that hear one another (over several hops), on one
sub-channel; messages of the tree take the expected time with their repetitions, and are not lost; grants of further
attempts are not counted (`feedback_s` counts answers); idle power runs on while a device sends or hears control; the
gain of a wanted link itself is the present one, as its request tells it. A device that is off when a round begins takes
no part in the round's control; should it come on, what it has to send is planned without. Control that a deadline cuts
counts by the share of its time before it, and is begun anew in the next round.

Source:
    The quantities are those of 3GPP TS 38.331 and 38.321 (measurement report, scheduling request, grant); the messages'
    form is this project's. The grid of reported powers is that of SS-RSRP in TS 38.133, clause 10.1.6, written down
    from memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.control_cost import ControlCost, ControlPart
from channels.gains import NearGains
from channels.power_states import PowerDraw
from channels.scheduling.problem import Radio
from channels.settings import RadioSettings
from channels.transfers import Transfers
from channels.units import BITS_PER_BYTE

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LOWEST_DBM, RANGE_DB = -156.0, 127.0
Parts = tuple[ControlPart, ControlPart, ControlPart]

_SIZE_BITS, _SLOT_BITS, _RATE_BITS, _CHANGE_BITS = 32, 16, 5, 16


@dataclass(frozen=True)
class Tree:
    """Who hears whom, and the trees along which reports and grants go.

    Attributes:
        hears: (N, N) whether the row's device hears the column's.
        part: (N,) number of the set of devices that hear one another over hops, which each device is in.
        parent: (N,) next device towards the coordinator; -1 for coordinators and devices without charge.
        order: Devices with a parent, the farthest first.
        link_snr: (N,) linear mean SNR of the weaker direction to the parent; 0 without one.
    """

    hears: csr_array
    part: IntArray
    parent: IntArray
    order: IntArray
    link_snr: FloatArray


def reported_gains(radio: Radio, near: NearGains, bits: int) -> NearGains:
    """Gains as reports tell them: on a grid, and 0 where a beacon is not heard.

    Args:
        radio: Powers, noise and threshold.
        near: The gains as they are.
        bits: Bits of a gain.

    Returns:
        The list with the same pairs.
    """
    row = np.repeat(np.arange(near.devices), np.diff(near.indptr))
    other = near.index.astype(np.int64)
    power, floor_w = radio.power_w, radio.sinr_min * radio.noise_w
    step_db = RANGE_DB / (2**bits - 1)

    def told(gain: FloatArray, sender: IntArray, receiver: IntArray) -> FloatArray:
        received = power[sender] * gain
        heard = received >= floor_w[receiver]
        above_db = 10 * np.log10(np.maximum(received, 1e-300)) + 30 - LOWEST_DBM
        grid_db = np.minimum(np.maximum(np.rint(above_db / step_db) * step_db, 0.0), RANGE_DB)
        return np.where(heard, 10 ** ((grid_db + LOWEST_DBM - 30) / 10) / power[sender], 0.0)

    incoming = told(near.in_gain, other, row)
    same = near.in_gain is near.out_gain and bool(np.all(power == power[0]))
    outgoing = incoming if same else told(near.out_gain, row, other)
    return replace(near, in_gain=incoming, out_gain=outgoing)


def control_tree(radio: Radio, living: BoolArray) -> Tree:
    """Find who hears whom by reported gains, and the trees to a coordinator of each connected part.

    Args:
        radio: Powers, rates, and all that was so when gains were reported: what `reported_gains` gave, in the place of
            the gains, noise and positions.
        living: (N,) devices that are on and have charge.

    Returns:
        The trees.
    """
    # SciPy takes a while to import, and free control never asks for it.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, dijkstra

    reported, devices = radio.near, radio.near.devices
    row = np.repeat(np.arange(devices), np.diff(reported.indptr))
    other = reported.index.astype(np.int64)
    snr = radio.power_w[other] * reported.in_gain / radio.noise_w[row]
    heard = (reported.in_gain > 0) & living[row] & living[other] & (row != other)
    shape = (devices, devices)
    level = csr_array((snr[heard], (row[heard], other[heard])), shape)
    both = level.minimum(level.T).tocsr()
    both.eliminate_zeros()
    part = connected_components(both, directed=False)[1].astype(np.int64)
    cost = both.copy()
    cost.data = radio.law.expected_s(1.0, both.data)
    roots = _coordinators(radio, part, living)
    distance, before, _ = dijkstra(
        cost, directed=False, indices=roots, return_predecessors=True, min_only=True
    )
    parent = np.where(before >= 0, before, -1).astype(np.int64)
    order = np.argsort(-np.where(parent >= 0, distance, -1.0), kind="stable")[: int((parent >= 0).sum())]
    link = np.zeros(devices)
    link[order] = np.asarray(both[order, parent[order]]).reshape(-1)
    hears = csr_array((np.ones(level.nnz), level.indices, level.indptr), shape)
    return Tree(hears, part, parent, order, link)


def _coordinators(radio: Radio, part: IntArray, living: BoolArray) -> IntArray:
    """The living device nearest to the middle of each part; the first one where there are no positions."""
    place = np.zeros((part.size, 2)) if radio.positions_m is None else radio.positions_m
    here = np.flatnonzero(living)
    size = np.maximum(np.bincount(part[here], minlength=int(part.max(initial=0)) + 1), 1)
    middle = np.stack([np.bincount(part[here], place[here, k], size.size) / size for k in (0, 1)], axis=1)
    away = np.hypot(*(place[here] - middle[part[here]]).T)
    order = here[np.lexsort((here, away, part[here]))]
    return order[np.unique(part[order], return_index=True)[1]]


class ControlPlane:
    """Control of a run: what was reported last, and what each round's control costs."""

    def __init__(self, settings: RadioSettings) -> None:
        """Nothing is known yet.

        Args:
            settings: The radio settings.
        """
        self._charged, self._every = settings.control == "charged", settings.control_every_rounds
        self._bits, self._header = settings.control_gain_bits, settings.control_header_bytes
        self._change_bits = _CHANGE_BITS if settings.by_change() else 0
        self._round = -1
        self._positions_m: FloatArray = np.zeros((0, 2))
        self._then: Radio | None = None
        self._tree: tuple[bytes, Tree] | None = None

    def snapshot(self) -> dict[str, Any]:
        """State that `restore` needs, by name; nothing where control is free."""
        if not self._charged:
            return {}
        return {"control_round": self._round, "control_positions_m": self._positions_m.copy()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        if self._charged:
            self._round = int(snapshot["control_round"])
            self._positions_m = np.array(snapshot["control_positions_m"], dtype=np.float64)
            self._then = self._tree = None

    def phase(
        self,
        transfers: Transfers,
        radio: Radio,
        needs: str,
        battery_j: FloatArray,
        there: Callable[[Radio, FloatArray], Radio],
        *,
        on: BoolArray | None = None,
        left_s: float = math.inf,
    ) -> tuple[ControlCost, NearGains | None]:
        """The control that comes before a round's transfers.

        Args:
            transfers: What is wanted; without any there is no control.
            radio: The physical side, with positions and the round's number.
            needs: What the scheduler needs to know (`Scheduler.needs`).
            battery_j: (N,) energy left in J; devices at 0 take no part.
            there: Gives the physical side as it is with the devices at (N, 2) other positions.
            on: (N,) devices that are on, the others take no part; None where all are.
            left_s: Time until the round's deadline in s, > 0.

        Returns:
            Its cost, nothing where it is free; and the gains that schedulers go by, None for those of the moment: where
            control is free, and under needs links, whose carrier sense measures and is told nothing.
        """
        if not self._charged or not len(transfers):
            silent = _silence(battery_j.size)
            return _priced((silent, silent, silent), radio, battery_j, self._charged), None
        assert radio.positions_m is not None
        renewed = self._round < 0 or radio.round_index >= self._round + self._every
        if renewed:
            self._round, self._positions_m = radio.round_index, radio.positions_m.copy()
            self._then = self._tree = None
        if self._then is None:
            still = np.array_equal(self._positions_m, radio.positions_m)
            then = radio if still else there(radio, self._positions_m)
            told = reported_gains(then, then.near, self._bits)
            self._then = replace(then, near=told, far=None, external=None)
        living = battery_j > 0 if on is None else (battery_j > 0) & on
        if self._tree is None or self._tree[0] != living.tobytes():
            self._tree = living.tobytes(), control_tree(self._then, living)
        parts = self._parts(transfers, radio, needs, living, self._tree[1], renewed)
        sent = _until(parts, left_s)
        cut = any(part is not whole for part, whole in zip(sent, parts, strict=True))
        cost = replace(_priced(sent, radio, battery_j, True), cut=cut)
        if cut:
            self._round = -1
        # Who goes by links alone senses for itself what is on air.
        return cost, None if needs == "links" else self._then.near

    def _parts(
        self, transfers: Transfers, radio: Radio, needs: str, living: BoolArray, tree: Tree, renewed: bool
    ) -> Parts:
        devices = living.size
        name_bits = max(1, math.ceil(math.log2(max(devices, 2))))
        heard = np.asarray(tree.hears.sum(axis=1)).reshape(-1)
        beacons = np.where(living, float(self._header), 0.0) if renewed else np.zeros(devices)
        discovery = _around(radio, tree, beacons, in_turn=True)
        gains_bits: FloatArray = heard.astype(np.float64) * float(name_bits + self._bits if renewed else 0)
        sent = np.bincount(transfers.source, minlength=devices).astype(np.float64)
        ends = sent + np.bincount(transfers.destination, minlength=devices)
        if needs == "links":
            return discovery, _silence(devices), _silence(devices)
        if needs == "hearing":
            told = _message_bytes(gains_bits, self._header)
            claim = self._header + math.ceil((2 * name_bits + _SLOT_BITS + self._change_bits) / BITS_PER_BYTE)
            return (discovery, _around(radio, tree, told, in_turn=False),
                    _around(radio, tree, ends * living * claim, in_turn=False))  # fmt: skip
        wanted_bits = sent * (name_bits + _SIZE_BITS + self._change_bits)
        own_bits = name_bits * living + wanted_bits + (gains_bits if needs == "gains" else 0)
        reports = _up(radio, tree, np.where(wanted_bits + renewed > 0, own_bits, 0), self._header)
        channel_bits = max(1, math.ceil(math.log2(max(radio.subchannels, 2))))
        grant_bits = 2 * name_bits + _SLOT_BITS + _RATE_BITS + channel_bits
        return discovery, reports, _down(radio, tree, ends * grant_bits, self._header)


def _until(parts: Parts, left_s: float) -> Parts:
    """What of the parts, one after the other, comes before a deadline."""
    discovery, reports, grants = parts
    after_s = left_s - discovery.span_s
    return discovery.until(left_s), reports.until(after_s), grants.until(after_s - reports.span_s)


def _silence(devices: int) -> ControlPart:
    return ControlPart(0, 0.0, 0.0, np.zeros(devices), np.zeros(devices))


def _message_bytes(bits: FloatArray, header_bytes: int) -> FloatArray:
    """Bytes of messages with a header; 0 where there is nothing to say."""
    return np.where(bits > 0, header_bytes + np.ceil(bits / BITS_PER_BYTE), 0.0)


def _around(radio: Radio, tree: Tree, sizes: FloatArray, *, in_turn: bool) -> ControlPart:
    """Messages to whoever hears them, at the lowest rate: all in turn, or those of parts that do not meet at once."""
    time_s = sizes * BITS_PER_BYTE / radio.law.lowest_bps
    span_s = float(time_s.sum()) if in_turn else float(np.bincount(tree.part, time_s).max(initial=0.0))
    return ControlPart(
        int(sizes.sum()), span_s, float(time_s.sum()) / radio.subchannels, time_s, tree.hears @ time_s
    )


def _below(tree: Tree, bits: FloatArray) -> FloatArray:
    """(N,) sum of bits over each device and those below it."""
    total = bits.astype(np.float64).copy()
    for device, parent in zip(tree.order.tolist(), tree.parent[tree.order].tolist(), strict=True):
        total[parent] += total[device]
    return total


def _up(radio: Radio, tree: Tree, bits: FloatArray, header_bytes: int) -> ControlPart:
    """Messages up the tree: each device sends its own and what came from below, once."""
    has_parent = tree.parent >= 0
    sizes = np.where(has_parent, _message_bytes(_below(tree, bits), header_bytes), 0.0)
    time_s = np.zeros(sizes.size)
    time_s[has_parent] = radio.law.expected_s(sizes[has_parent] * BITS_PER_BYTE, tree.link_snr[has_parent])
    heard_s = np.zeros(sizes.size)
    np.add.at(heard_s, tree.parent[has_parent], time_s[has_parent])
    return _on_tree(radio, tree, sizes, time_s, heard_s)


def _down(radio: Radio, tree: Tree, bits: FloatArray, header_bytes: int) -> ControlPart:
    """Messages down the tree: each device sends what those below it need, once, so that all of its next ones decode."""
    child = np.flatnonzero(tree.parent >= 0)
    below = _below(tree, bits)
    concerned = child[below[child] > 0]
    worst = np.full(bits.size, np.inf)
    np.minimum.at(worst, tree.parent[concerned], tree.link_snr[concerned])
    sizes = _message_bytes(np.where(np.isfinite(worst), below - bits, 0.0), header_bytes)
    time_s = np.zeros(bits.size)
    sends = sizes > 0
    time_s[sends] = radio.law.expected_s(sizes[sends] * BITS_PER_BYTE, worst[sends])
    heard_s = np.zeros(bits.size)
    heard_s[concerned] = time_s[tree.parent[concerned]]
    return _on_tree(radio, tree, sizes, time_s, heard_s)


def _on_tree(
    radio: Radio, tree: Tree, sizes: FloatArray, time_s: FloatArray, heard_s: FloatArray
) -> ControlPart:
    span_s = float(np.bincount(tree.part, time_s).max(initial=0.0))
    return ControlPart(int(sizes.sum()), span_s, float(time_s.sum()) / radio.subchannels, time_s, heard_s)


def _priced(parts: Parts, radio: Radio, battery_j: FloatArray, charged: bool) -> ControlCost:
    draw: PowerDraw = radio.draw
    drawn_w = radio.power_w / draw.amplifier_efficiency + draw.circuit_power_w
    sent_j = sum((part.transmit_s for part in parts), np.zeros(battery_j.size)) * drawn_w
    heard_j = sum((part.receive_s for part in parts), np.zeros(battery_j.size)) * draw.receive_power_w
    wanted = sent_j + heard_j
    share = np.divide(np.minimum(wanted, battery_j), wanted, out=np.zeros(wanted.size), where=wanted > 0)
    return ControlCost(*parts, sent_j * share, heard_j * share, charged)
