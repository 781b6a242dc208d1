"""The radio channel of a run: positions, gains, the virtual clock, batteries, and one plan per round.

A plain class; it is made a Ray actor elsewhere. Everything random is keyed by what it is for (see
`channels.draws`), so a snapshot holds no generator state and two channels with the same seed, settings and
history give the same bits.
"""

from __future__ import annotations

import math
import warnings
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.draws import stream_key
from channels.energy import DeviceClasses, draw_classes
from channels.fading import quantile_factors, shape_parameter
from channels.gains import NearGains, dense_gains, pair_gains, strong_gains, strong_pairs
from channels.interference import FarField, build_far_field
from channels.largescale import build_large_scale, qualifying_radius_m
from channels.link import mean_rate_bps, noise_power_dbm
from channels.pathloss import ValidityWarning
from channels.rounds import decorrelations_per_s, fading_table, round_end_s, round_plan
from channels.scheduling.engine import Request, run_slots
from channels.scheduling.levels import SlotFading
from channels.scheduling.problem import Radio
from channels.scheduling.table import get_scheduler
from channels.settings import RadioSettings
from channels.transfers import RoundPlan, Transfers
from channels.units import BITS_PER_BYTE, db_to_linear, dbm_to_watt

Snapshot: TypeAlias = "dict[str, NDArray[np.float64] | NDArray[np.bool_] | float | int | str]"

_FADING_KINDS = {"none": 0, "rayleigh": 1, "rician": 2, "nakagami": 3}
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
    ) -> None:
        """Place N devices.

        Args:
            settings: The radio settings.
            positions_m: (N, 2) positions in m, finite.
            seed: The experiment's seed; it keys shadowing, LOS states and fading.
            device_classes: Classes of the devices; None makes all of the default class.

        Raises:
            ValueError: If positions are not (N, 2) finite numbers or the classes are for another N.
        """
        self.settings = settings
        self.seed = int(seed)
        self._positions_m = _checked_positions(positions_m, None)
        devices = self._positions_m.shape[0]
        classes = draw_classes((), devices, seed=self.seed) if device_classes is None else device_classes
        if len(classes) != devices:
            raise ValueError(f"device_classes are for {len(classes)} devices; positions are for {devices}")
        self.clock_s = 0.0
        self.battery_j: FloatArray = classes.battery_j.copy()
        self._power_w = classes.tx_power_w(settings.tx_power_dbm)
        self._travelled_m: FloatArray = np.zeros(devices)
        self._scale = build_large_scale(settings, seed=self.seed)
        self._near: NearGains | None = None
        self._far: FarField | None = None
        self._fading_table = fading_table(settings)

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
        self._check_devices(src, dst)
        flat_src, flat_dst = src.reshape(-1), dst.reshape(-1)
        gain = pair_gains(self._scale, self._positions_m, self._travelled_m, flat_src, flat_dst)
        power = np.minimum(self._power_w[flat_src], self._power_w[flat_dst])
        return (10 * np.log10(gain * power / self._noise_w())).reshape(src.shape)

    def airtime_s_per_mb(self, source: ArrayLike, destination: ArrayLike) -> FloatArray:
        """Mean airtime of 1e6 bytes on links without interference: the topology builder's link cost.

        8e6 bits over the mean goodput E[R(g·h)·1(g·h >= beta)] over fading, on one sub-channel.

        Args:
            source: Device indices, any shape.
            destination: Device indices; broadcasts.

        Returns:
            Seconds in the broadcast shape; inf for links that practically never decode.
        """
        settings = self.settings
        snr_db = np.asarray(self.mean_snr_db(source, destination)) + 10 * math.log10(settings.subchannels)
        factors = quantile_factors(settings.fading, 400, **settings.fading_shape())
        # Every link is read from one curve over dB: the mean over 400 quantiles costs too much per link.
        grid_db = np.linspace(-60.0, 160.0, 2201)
        rate = mean_rate_bps(
            settings.rate, db_to_linear(grid_db), factors, settings.bandwidth_hz / settings.subchannels,
            settings.snr_gap_db, float(db_to_linear(settings.sinr_min_db)),
        )  # fmt: skip
        mean = np.interp(snr_db, grid_db, rate)
        with np.errstate(divide="ignore"):
            return np.where(mean > 1.0, _AIRTIME_REFERENCE_BYTES * BITS_PER_BYTE / mean, np.inf)

    def candidate_links(self, min_snr_db: float) -> tuple[IntArray, FloatArray]:
        """All pairs whose mean SNR reaches a bound.

        Up to `dense_devices` every pair is looked at; above, only pairs closer than the distance at which
        one link in a hundred still qualifies.

        Args:
            min_snr_db: Lowest mean SNR in dB.

        Returns:
            (E, 2) pairs i < j, sorted, and (E,) mean SNR in dB.
        """
        noise_w = self._noise_w()
        strongest_w = float(self._power_w.max())
        min_gain = float(db_to_linear(min_snr_db)) * noise_w / strongest_w
        dense = self.devices <= self.settings.dense_devices
        radius = math.inf if dense else qualifying_radius_m(self._scale, min_gain)
        pairs, gain = strong_pairs(self._scale, self._positions_m, self._travelled_m, min_gain, radius)
        power = np.minimum(self._power_w[pairs[:, 0]], self._power_w[pairs[:, 1]])
        snr_db = 10 * np.log10(gain * power / noise_w)
        kept = np.flatnonzero(snr_db >= min_snr_db)
        order = kept[np.lexsort((pairs[kept, 1], pairs[kept, 0]))]
        return pairs[order].astype(np.int64), snr_db[order]

    def move(self, positions_m: ArrayLike) -> None:
        """Put the devices elsewhere; shadowing decorrelates with the distance both ends have moved.

        Args:
            positions_m: (N, 2) new positions in m.

        Raises:
            ValueError: If the shape differs from before or a value is not finite.
        """
        new = _checked_positions(positions_m, self.devices)
        step_m = np.hypot(*(new - self._positions_m).T)
        if not step_m.any():
            return
        self._travelled_m = self._travelled_m + step_m
        self._positions_m = new
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

        Local training starts with the round; a device can send once its own is done, and can receive at any
        time. A device whose battery its training empties takes no further part.

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
        self._check_devices(transfers.source, transfers.destination)
        ready = self._per_device("ready_s", ready_s)
        compute = np.where(self.alive, self._per_device("compute_energy_j", compute_energy_j), 0.0)
        start, deadline = self.clock_s, self.clock_s + (self.settings.deadline_s or math.inf)
        battery = np.maximum(self.battery_j - compute, 0.0)
        gain = pair_gains(
            self._scale, self._positions_m, self._travelled_m, transfers.source, transfers.destination
        )  # fmt: skip
        self._warn_range(transfers)
        outcome = run_slots(
            self._radio(),
            get_scheduler(self.settings.scheduler, self.settings.scheduler_options),
            Request(
                transfers=transfers,
                gain=gain,
                start_s=start,
                ready_s=start + ready,
                deadline_s=deadline,
                battery_j=battery,
                fading=lambda slot, now_s: self._slot_fading(round_index, slot, now_s),
            ),
        )
        self.battery_j = outcome.battery_j
        self.clock_s = round_end_s(outcome, start, deadline, ready[battery > 0])
        return round_plan(outcome, start, self.clock_s, compute, self.alive)

    def snapshot(self) -> Snapshot:
        """State that `restore` needs: arrays and numbers only.

        Returns:
            Positions, ground covered, batteries, clock, seed and the settings as text.
        """
        return {
            "positions_m": self._positions_m.copy(),
            "travelled_m": self._travelled_m.copy(),
            "battery_j": self.battery_j.copy(),
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
        for name, own in (("seed", self.seed), ("settings", repr(self.settings))):
            if snapshot[name] != own:
                raise ValueError(
                    f"the snapshot's {name} is {snapshot[name]!r}, this channel's is {own!r};"
                    " make the channel with the configuration of the run it is restored from"
                )
        self._positions_m = _checked_positions(np.asarray(snapshot["positions_m"]), self.devices)
        self._travelled_m = np.array(snapshot["travelled_m"], dtype=np.float64)
        self.battery_j = np.array(snapshot["battery_j"], dtype=np.float64)
        self.clock_s = float(snapshot["clock_s"])  # type: ignore[arg-type]
        self._near = self._far = None

    def _noise_w(self) -> float:
        return float(dbm_to_watt(noise_power_dbm(self.settings.bandwidth_hz, self.settings.noise_figure_db)))

    def _gains(self) -> tuple[NearGains, FarField | None]:
        if self._near is None:
            place, moved = self._positions_m, self._travelled_m
            if self.devices <= self.settings.dense_devices:
                self._near = dense_gains(self._scale, place, moved)
            else:
                self._near = strong_gains(self._scale, place, moved, self.settings.near_neighbours)
            self._far = build_far_field(self._scale, place, self._near, self.settings.far_field)
        return self._near, self._far

    def _radio(self) -> Radio:
        settings = self.settings
        near, far = self._gains()
        return Radio(
            near=near,
            far=far,
            power_w=self._power_w,
            noise_w=np.full(self.devices, self._noise_w() / settings.subchannels),
            bandwidth_hz=settings.bandwidth_hz / settings.subchannels,
            subchannels=settings.subchannels,
            sinr_min=float(db_to_linear(settings.sinr_min_db)),
            plan_min=float(db_to_linear(settings.sinr_min_db + settings.fade_margin_db)),
            rate=settings.rate,
            gap_db=settings.snr_gap_db,
            errors=settings.errors,
            waterfall_db=settings.waterfall_db,
            power_control=settings.power_control,
            max_attempts=settings.max_attempts,
            amplifier_efficiency=settings.amplifier_efficiency,
            circuit_power_w=settings.circuit_power_w,
            receive_power_w=settings.receive_power_w,
            slot_s=settings.slot_s,
            seed=self.seed,
            aloha_probability=settings.aloha_probability,
            conflict_factor=settings.conflict_factor,
            exponent=settings.path_loss_exponent,
            positions_m=self._positions_m,
        )

    def _slot_fading(self, round_index: int, slot: int, now_s: float) -> SlotFading:
        settings = self.settings
        fresh = settings.speed_mps is None
        kind = _FADING_KINDS[settings.fading]
        return SlotFading(
            time=-1.0 if fresh else now_s * decorrelations_per_s(settings),
            kind=kind,
            shape=shape_parameter("rician", k_db=settings.rician_k_db) if kind == 2 else 0.0,
            table=self._fading_table,
            key=stream_key(self.seed, "fading", round_index, slot)
            if fresh
            else stream_key(self.seed, "fading"),
            success_key=stream_key(self.seed, "packet", round_index, slot),
        )

    def _per_device(self, name: str, values: ArrayLike | None) -> FloatArray:
        array = np.zeros(self.devices) if values is None else np.asarray(values, dtype=np.float64)
        if array.shape != (self.devices,):
            raise ValueError(
                f"{name} has shape {array.shape}; expected one value for each of {self.devices} devices"
            )
        if not np.all(array >= 0):
            raise ValueError(f"{name} holds {float(np.min(array))!r}; expected values >= 0")
        return array

    def _check_devices(self, *indices: IntArray) -> None:
        for array in indices:
            if array.size and (array.min() < 0 or array.max() >= self.devices):
                raise ValueError(
                    f"device indices run from {array.min()} to {array.max()};"
                    f" expected 0 to {self.devices - 1}"
                )

    def _warn_range(self, transfers: Transfers) -> None:
        if not len(transfers):
            return
        apart = np.hypot(*(self._positions_m[transfers.source] - self._positions_m[transfers.destination]).T)
        near_m, far_m = self._scale.model.distance_range_m
        outside = int(np.sum((apart < near_m) | (apart > far_m)))
        if outside:
            warnings.warn(
                f"some links are outside the {near_m:g}-{far_m:g} m range of the path-loss model"
                f" {self._scale.model.name} ({self._scale.model.source})",
                ValidityWarning,
                stacklevel=3,
            )


def _checked_positions(positions_m: ArrayLike, devices: int | None) -> FloatArray:
    array = np.array(positions_m, dtype=np.float64)
    count = array.shape[0] if devices is None and array.ndim == 2 else devices
    if array.ndim != 2 or array.shape != (count, 2) or count == 0:
        raise ValueError(f"positions_m has shape {array.shape}; expected ({count or 'N >= 1'}, 2) in metres")
    if not np.isfinite(array).all():
        raise ValueError("positions_m holds nan or infinite values; expected finite metres")
    return array
