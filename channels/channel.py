"""The radio channel of a run: positions, gains, the virtual clock, batteries, and one plan per round.

A plain class; it is made a Ray actor elsewhere. Everything random is keyed by what it is for (see
`channels.draws`), so a snapshot holds no generator state and two channels with the same seed, settings and
history give the same bits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.control import ControlPlane
from channels.draws import stream_key
from channels.energy import DeviceClasses, draw_classes
from channels.external import ExternalField, external_field
from channels.gains import NearGains, listed_gains, pair_gains, reaching_pairs
from channels.interference import FarField, build_far_field
from channels.largescale import build_large_scale
from channels.physical import band_noise_w, channel_noise_w, radio_elsewhere, round_radio
from channels.presence import Presence
from channels.rounds import (
    cut_s,
    fading_table,
    rest_of_round,
    round_end_s,
    round_plan,
    settings_law,
    slot_fading,
    training_times,
)
from channels.scheduling.engine import Request, run_slots
from channels.scheduling.problem import Radio
from channels.scheduling.table import get_scheduler
from channels.service import LinkService
from channels.settings import RadioSettings
from channels.shadowing import build_sites
from channels.transfers import RoundPlan, Transfers
from channels.units import BITS_PER_BYTE, db_to_linear
from channels.validity import (
    check_devices,
    check_origin,
    checked_positions,
    per_device,
    warn_distances,
    warn_out_of_reach,
    warn_setting_range,
)
from channels.velocity import Velocity

Snapshot: TypeAlias = (
    "dict[str, NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_] | float | int | str]"
)

_AIRTIME_REFERENCE_BYTES = 1_000_000


class Channel:
    """The shared radio of N devices.

    Attributes:
        settings: The radio settings.
        clock_s: The virtual clock in s; rounds advance it.
        battery_j: (N,) energy left in J.
        alive: (N,) devices whose battery is not empty.
    """

    def __init__(
        self,
        settings: RadioSettings,
        positions_m: ArrayLike,
        *,
        seed: int,
        device_classes: DeviceClasses | None = None,
        presence: Presence | None = None,
    ) -> None:
        """Place N devices.

        Args:
            settings: The radio settings.
            positions_m: (N, 2) positions in m, finite.
            seed: The experiment's seed; it keys shadowing, LOS states and fading.
            device_classes: Classes of the devices; None makes all of the default class.
            presence: When devices are on and how fast they are; None where they always are, at their class's speed.

        Raises:
            ValueError: If positions are not (N, 2) finite numbers or the classes are for another N.
        """
        self.settings = settings
        self.seed = int(seed)
        self.presence = presence
        self._positions_m = checked_positions(positions_m, None)
        settings.check_size(self._positions_m.shape[0])
        devices = self._positions_m.shape[0]
        classes = draw_classes((), devices, seed=self.seed) if device_classes is None else device_classes
        if len(classes) != devices:
            raise ValueError(f"device_classes are for {len(classes)} devices; positions are for {devices}")
        self.clock_s = 0.0
        self.battery_j: FloatArray = classes.battery_j.copy()
        self._power_w = classes.tx_power_w(settings.tx_power_dbm)
        self._scale = build_large_scale(settings, seed=self.seed)
        self._sites = build_sites(self._scale, self._positions_m)
        warn_setting_range(settings, self._scale.model)
        self._near: NearGains | None = None
        self._far: FarField | None = None
        self._external: ExternalField | None = None
        self._fading_table = fading_table(settings)
        self._law, self._warned = settings_law(settings), False
        self._service, self._control = LinkService(devices), ControlPlane(settings)
        self._average_bps, self._busy_until_s, self._silent_s = np.zeros((3, devices))
        self._velocity = Velocity(devices, wanted=settings.doppler == "velocity")

    @property
    def devices(self) -> int:
        """Number of devices N."""
        return self._positions_m.shape[0]

    @property
    def positions_m(self) -> FloatArray:
        """(N, 2) current positions in m, a copy."""
        return self._positions_m.copy()

    @property
    def alive(self) -> BoolArray:
        """(N,) devices whose battery is not empty."""
        return self.battery_j > 0

    def mean_snr_db(self, source: ArrayLike, destination: ArrayLike) -> FloatArray:
        """Mean SNR of links: path loss and shadowing, no fading, no interference, over the whole band.

        Args:
            source: Device indices, any shape.
            destination: Device indices; broadcasts.

        Returns:
            SNR in dB in the broadcast shape. Symmetric: the weaker end's transmit power counts, so that
            both directions have it.
        """
        src, dst = np.broadcast_arrays(np.asarray(source, np.int64), np.asarray(destination, np.int64))
        flat_src, flat_dst = src.reshape(-1), dst.reshape(-1)
        check_devices(self.devices, flat_src, flat_dst)
        gain = pair_gains(self._scale, self._sites, flat_src, flat_dst)
        power = np.minimum(self._power_w[flat_src], self._power_w[flat_dst])
        return (10 * np.log10(gain * power / band_noise_w(self.settings))).reshape(src.shape)

    def airtime_s_per_mb(self, source: ArrayLike, destination: ArrayLike) -> FloatArray:
        """Mean airtime of 1e6 bytes on links without interference: the topology builder's link cost.

        8e6 bits over the expected goodput of the rate a sender chooses (see `channels.adaptation`), on one
        sub-channel.

        Args:
            source: Device indices, any shape.
            destination: Device indices; broadcasts.

        Returns:
            Seconds in the broadcast shape; inf for links that practically never decode.
        """
        # A sub-channel has its share of the noise, and all of the power.
        snr_db = self.mean_snr_db(source, destination) + 10 * math.log10(self.settings.subchannels)
        mean = self._law.goodput(db_to_linear(snr_db))
        with np.errstate(divide="ignore"):
            return np.where(mean > 1.0, _AIRTIME_REFERENCE_BYTES * BITS_PER_BYTE / mean, np.inf)

    def energy_j_per_mb(self, source: ArrayLike, destination: ArrayLike) -> FloatArray:
        """Mean energy of 1e6 bytes on links without interference, in J: `airtime_s_per_mb` times drawn power.

        Sending and receiving, the mean of both directions; arguments as there, inf likewise.
        """
        radiated_w = (self._power_w[np.asarray(source)] + self._power_w[np.asarray(destination)]) / 2
        draw = self.settings.power_draw()
        drawn_w = radiated_w / draw.amplifier_efficiency + draw.circuit_power_w
        return self.airtime_s_per_mb(source, destination) * (drawn_w + draw.receive_power_w)

    def candidate_links(self, min_snr_db: float) -> tuple[IntArray, FloatArray]:
        """All pairs whose mean SNR reaches a bound.

        Up to `dense_devices` every pair is looked at; above, pairs up to distances beyond which at most one in a
        hundred of those that qualify lies (see `channels.gains.reaching_pairs`).

        Args:
            min_snr_db: Lowest mean SNR in dB.

        Returns:
            (E, 2) pairs i < j, sorted, and (E,) mean SNR in dB.
        """
        noise_w = band_noise_w(self.settings)
        strongest_w = float(self._power_w.max())
        min_gain = float(db_to_linear(min_snr_db)) * noise_w / strongest_w
        pairs, gain = reaching_pairs(self._scale, self._sites, min_gain, self.settings.dense_devices)
        power = np.minimum(self._power_w[pairs[:, 0]], self._power_w[pairs[:, 1]])
        snr_db = 10 * np.log10(gain * power / noise_w)
        kept = np.flatnonzero(snr_db >= min_snr_db)
        order = kept[np.argsort(pairs[kept, 0].astype(np.int64) * self.devices + pairs[kept, 1])]
        return pairs[order].astype(np.int64), snr_db[order]

    def move(self, positions_m: ArrayLike, velocity_mps: FloatArray | None = None) -> None:
        """Put the devices elsewhere; shadowing and lines of sight follow from where both ends are.

        Args:
            positions_m: (N, 2) new positions in m.
            velocity_mps: (N, 2) their velocities from now on in m/s; None: those at which they got there.

        Raises:
            ValueError: If the shape differs from before or a value is not finite.
        """
        new = checked_positions(positions_m, self.devices)
        self._velocity.moved(new - self._positions_m, self.clock_s, velocity_mps)
        if np.array_equal(new, self._positions_m):
            return
        self._positions_m, self._sites = new, build_sites(self._scale, new)
        self._near = self._far = None

    def plan_round(
        self,
        round_index: int,
        transfers: Transfers,
        *,
        ready_s: ArrayLike | None = None,
        compute_energy_j: ArrayLike | None = None,
    ) -> RoundPlan:
        """Run one round's transfers over the radio on the virtual clock.

        Local training starts with the round, or when what is left of the last round's is done; a device can
        send once its own is done, and can receive at any time. A device that is not done by the deadline is
        late: it sends nothing in this round, and its training runs on into the next. A device whose battery
        its training empties stops there, which the round lasts for, and takes no further part. While a device
        is off, its training stands still and nothing is sent by it or to it; without a deadline a round waits for
        each device until it goes off, and for one that is off only where all are that have anything to do.

        Args:
            round_index: Number of the round; with slot and link it keys the fading.
            transfers: What is to be sent.
            ready_s: (N,) seconds after the start at which each device can send; None for 0.
            compute_energy_j: (N,) energy of this round's training in J; None for 0.

        Returns:
            The plan; the clock and the batteries are advanced.

        Raises:
            ValueError: If arrays do not fit the devices, or a time or energy is negative.
        """
        check_devices(self.devices, transfers.source, transfers.destination)
        start, deadline = self.clock_s, self.clock_s + (self.settings.deadline_s or math.inf)
        work = per_device("ready_s", ready_s, self.devices)
        left = np.maximum(self._busy_until_s - start, 0.0)
        times = training_times(self.presence, start, left, work)
        need = per_device("compute_energy_j", compute_energy_j, self.devices)
        battery = np.maximum(self.battery_j - (compute := np.minimum(need, self.battery_j)), 0.0)
        radio = self._radio(round_index)
        scheduler = get_scheduler(self.settings.scheduler, self.settings.scheduler_options)
        living = battery > 0
        waited = times.waited_s(living, idle=not len(transfers.source))
        waited = np.append(waited, cut_s(self.presence, start, left, work, (need, self.battery_j)))
        control, reported = self._control.phase(
            transfers, radio, scheduler.needs, battery, partial(radio_elsewhere, self.settings, self._scale),
            on=None if self.presence is None else self.presence.on_at(start), left_s=deadline - start,
        )  # fmt: skip
        battery, waited = np.maximum(battery - control.energy_j, 0.0), waited + control.span_s
        ready_s = start + times.ready_s + control.span_s
        ready_s = np.maximum(ready_s, deadline) if control.cut else ready_s
        request = self._request(round_index, transfers, ready_s, deadline, battery, reported)
        if self.presence is not None:
            until_s = start + float(waited.max(initial=0.0)) if deadline == math.inf else math.inf
            request = replace(request, presence=self.presence, until_s=until_s)
        outcome = run_slots(radio, scheduler, request)
        self.clock_s = round_end_s(outcome, start, deadline, waited)
        off_s = 0.0 if self.presence is None else self.presence.off_s(outcome.now_s, self.clock_s)
        rest = rest_of_round(radio.draw, outcome, self.clock_s, off_s)
        self.battery_j = np.maximum(outcome.battery_j - rest.energy_j, 0.0)
        self._silent_s = rest.silent_s
        self._average_bps = outcome.average_bps
        self._busy_until_s = np.where(living, start + times.ready_s, 0.0)
        self._service.update(transfers, outcome.schedule.outcome, request.loop)
        return replace(
            round_plan(outcome, start, self.clock_s, compute, rest, control),
            alive=self.alive,
            late=living & times.late(self.clock_s, deadline),
            starved_fraction=self._service.starved_fraction,
            on=times.on,
            training_s=times.training_s,
        )

    def _request(
        self,
        round_index: int,
        transfers: Transfers,
        ready_s: FloatArray,
        deadline_s: float,
        battery_j: FloatArray,
        reported: NearGains | None,
    ) -> Request:
        """What a round asks of the scheduler, by the virtual clock; says which links are out of a model's range."""
        gain = pair_gains(self._scale, self._sites, transfers.source, transfers.destination)
        self._warn_links(transfers, gain)
        draw = partial(slot_fading, self.settings, self.seed, self._fading_table)
        return Request(
            transfers=transfers,
            gain=gain,
            start_s=self.clock_s,
            ready_s=ready_s,
            deadline_s=deadline_s,
            battery_j=battery_j,
            fading=partial(draw, round_index, motion=self._velocity.motion(self.settings.carrier_hz)),
            order_key=stream_key(self.seed, "transfer-order", round_index),
            waited=self._service.neglect(transfers, self.settings.priority),
            worth=transfers.worth() if self.settings.by_change() else None,
            shortest_first=self.settings.shortest_first(),
            silent_s=self._silent_s,
            reported=reported,
            average_bps=self._average_bps,
            loop=self._service.outer_loop(
                transfers, self.settings.outer_loop_target, self.settings.outer_loop_step_db
            ),
        )

    def snapshot(self) -> Snapshot:
        """State that `restore` needs: arrays and numbers only.

        Returns:
            Positions, batteries, served rates, unfinished training, service of the links,
            clock, seed and the settings as text.
        """
        return {
            "positions_m": self._positions_m.copy(),
            "battery_j": self.battery_j.copy(),
            "average_bps": self._average_bps.copy(),
            "busy_until_s": self._busy_until_s.copy(),
            "silent_s": self._silent_s.copy(),
            **self._service.snapshot(),
            **self._control.snapshot(),
            **self._velocity.snapshot(),
            "clock_s": self.clock_s,
            "seed": self.seed,
            "settings": repr(self.settings),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, bit for bit.

        Args:
            snapshot: What `snapshot` gave for a channel with the same settings, seed and devices.

        Raises:
            ValueError: If it is from another channel.
        """
        check_origin(snapshot, {"seed": self.seed, "settings": repr(self.settings)})
        self._positions_m = checked_positions(np.asarray(snapshot["positions_m"]), self.devices)
        self._sites = build_sites(self._scale, self._positions_m)
        self.battery_j = np.array(snapshot["battery_j"], dtype=np.float64)
        self._average_bps = np.array(snapshot["average_bps"], dtype=np.float64)
        self._busy_until_s = np.array(snapshot["busy_until_s"], dtype=np.float64)
        self._silent_s = np.array(snapshot["silent_s"], dtype=np.float64)
        self._service.restore(snapshot)
        self._control.restore(snapshot)
        self._velocity.restore(snapshot)
        self.clock_s = float(snapshot["clock_s"])  # type: ignore[arg-type]
        self._near = self._far = None

    def _gains(self) -> tuple[NearGains, FarField | None]:
        if self._near is None:
            limits = self.settings.dense_devices, self.settings.near_neighbours
            self._near = listed_gains(self._scale, self._sites, *limits)
            self._far = build_far_field(self._scale, self._sites, self._near, self.settings.far_field)
            noise_w = channel_noise_w(self.settings)
            self._external = external_field(self.settings, self._scale, self._positions_m, noise_w)
        return self._near, self._far

    def _radio(self, round_index: int) -> Radio:
        return round_radio(
            self.settings,
            self._law,
            *self._gains(),
            power_w=self._power_w,
            external=self._external,
            seed=self.seed,
            round_index=round_index,
            positions_m=self._positions_m,
        )

    def _warn_links(self, transfers: Transfers, gain: FloatArray) -> None:
        if not len(transfers):
            return
        source, place = transfers.source, self._positions_m
        warn_distances(self._scale.model, np.hypot(*(place[source] - place[transfers.destination]).T))
        noise_w = channel_noise_w(self.settings)
        if not self._warned:
            snr = self._power_w[source] * gain / noise_w
            self._warned = warn_out_of_reach(self.settings, self._law, snr)
