"""What a channel refuses and what it warns of: bad positions, links that never decode, models out of range."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from channels.adaptation import RateLaw
from channels.arrays import FloatArray, IntArray
from channels.pathloss import ValidityWarning
from channels.pathloss.model import PathLossModel
from channels.settings import ORDERED_SCHEDULERS, PAIRWISE_SCHEDULERS, RadioSettings


class OutOfReachWarning(UserWarning):
    """Transfers are wanted over links that practically never decode."""


def warn_out_of_reach(settings: RadioSettings, law: RateLaw, snr: FloatArray) -> bool:
    """Warn of links on which fewer than one attempt in a hundred is decoded.

    Args:
        settings: The radio settings.
        law: Their rates.
        snr: (M,) linear mean SNR of the wanted transfers on one sub-channel.

    Returns:
        Whether there was something to warn of.
    """
    unreachable = int(np.sum(law.hopeless(snr)))
    if unreachable:
        warnings.warn(
            f"{unreachable} of {snr.size} transfers go over links that practically never decode (mean SNR down"
            f" to {10 * math.log10(float(snr.min()) + 1e-300):.0f} dB, threshold {settings.sinr_min_db:g} dB):"
            " their airtime and energy are spent for nothing; raise radio.tx_power_dbm, place devices closer, or"
            " set topology.reach so that such links are left out or relayed",
            OutOfReachWarning,
            stacklevel=4,
        )
    return unreachable > 0


def distance_notes(model: PathLossModel, distance_m: FloatArray) -> tuple[str, ...]:
    """Say which links are shorter or longer than the path-loss model's range.

    Args:
        model: The path-loss model.
        distance_m: (links,) ground distances in m.

    Returns:
        One sentence, or nothing where all are within it.
    """
    near_m, far_m = model.distance_range_m
    outside = int(np.sum((distance_m < near_m) | (distance_m > far_m)))
    if not outside:
        return ()
    return (
        f"{outside} of {distance_m.size} links are outside the {near_m:g}-{far_m:g} m range of the path-loss model"
        f" {model.name} ({model.source})",
    )


def warn_distances(model: PathLossModel, distance_m: FloatArray) -> None:
    """Warn as `distance_notes` says, with a `ValidityWarning`.

    Args:
        model: The path-loss model.
        distance_m: (links,) ground distances in m.
    """
    for note in distance_notes(model, distance_m):
        warnings.warn(note, ValidityWarning, stacklevel=4)


def setting_notes(settings: RadioSettings, model: PathLossModel) -> tuple[str, ...]:
    """Say which of carrier and antenna heights are outside the path-loss model's range.

    Args:
        settings: The radio settings.
        model: Their path-loss model.

    Returns:
        A sentence for each value outside; one for drawn heights, since neither end is a base.
    """
    if settings.device_heights == "drawn":
        low_hz, high_hz = model.carrier_range_hz
        carrier = (
            () if low_hz <= settings.carrier_hz <= high_hz
            else setting_notes(replace(settings, device_heights="fixed", tx_height_m=None, rx_height_m=None), model)
        )  # fmt: skip
        return (
            f"device_heights is drawn: the higher end of a link is taken as the base, at 1.5 to 22.5 m; the path-loss"
            f" model {model.name} holds for a base of {model.heights_m[0]:g} m ({model.source})",
            *carrier,
        )
    heights = zip(
        ("tx_height_m", "rx_height_m"),
        (settings.tx_height_m, settings.rx_height_m),
        model.heights_m,
        (model.tx_height_range_m, model.rx_height_range_m),
        strict=True,
    )
    values = [("carrier_hz", settings.carrier_hz, model.carrier_range_hz)]
    values += [(name, own if given is None else given, bounds) for name, given, own, bounds in heights]
    return tuple(
        f"{name} is {value:g}; the path-loss model {model.name} holds from {low:g} to {high:g} ({model.source})"
        for name, value, (low, high) in values
        if not low <= value <= high
    )


def idle_notes(settings: RadioSettings, model: PathLossModel, devices: int) -> tuple[str, ...]:
    """Say which settings were changed and can change nothing, since another one keeps them out of use.

    Args:
        settings: The radio settings.
        model: Their path-loss model, with their shadowing.
        devices: Number of devices.

    Returns:
        A sentence for each setting that differs from its default in vain.
    """
    standard, notes = RadioSettings(), list[str]()
    for names, acts, reason in _uses(settings, model, devices):
        changed = () if acts else [n for n in names if getattr(settings, n) != getattr(standard, n)]
        notes += [f"{name} is {getattr(settings, name)} and has no effect: {reason}" for name in changed]
    return tuple(notes)


_MULTICAST = ("greedy_sinr", "broadcast", "tdma", "local_greedy", "sidelink_mode2")


def _uses(
    settings: RadioSettings, model: PathLossModel, devices: int
) -> tuple[tuple[tuple[str, ...], bool, str], ...]:
    """Names of settings, whether they act, and why not."""
    s, drawn = settings, settings.line_of_sight == "draw"
    scheduler, fading = f"scheduler is {s.scheduler}", f"fading is {s.fading}"
    one_state = model.los is model.nlos
    margins = s.scheduler in (*PAIRWISE_SCHEDULERS, "broadcast", "local_greedy")
    controls = s.scheduler not in ("fplinq", "aloha", "csma", "sidelink_mode2")
    ordered, many = s.scheduler in ORDERED_SCHEDULERS, devices > s.dense_devices
    gap = s.rate != "cqi" or s.errors in ("none", "finite_blocklength") or s.speed_mps is not None
    return (
        (("path_loss_exponent", "path_loss_reference_m"), s.path_loss == "log_distance", f"path_loss is {s.path_loss}"),
        (("line_of_sight",), not one_state, f"{s.path_loss} has one loss in sight and out of sight"),
        (("los_decorrelation_m",), drawn and not one_state, "no line of sight is drawn"),
        (("shadowing_sigma_db",), s.shadowing, "shadowing is off"),
        (("shadowing_decorrelation_m",), max(model.sigma_db) > 0, "nothing is shadowed"),
        (("rician_k_db",), s.fading == "rician", fading),
        (("nakagami_m",), s.fading == "nakagami", fading),
        (("speed_mps", "doppler", "delay_spread_s"), s.fading != "none", fading),
        *_surrounding_uses(s),
        (("csi",), s.fading != "none" or s.csi in ("delayed", "estimated"), fading),
        (("csi_pilots",), s.csi == "estimated", f"csi is {s.csi}"),
        (("csi_delay_s",), s.csi == "delayed" and s.fading != "none", f"csi is {s.csi}, {fading}"),
        (("outer_loop_target",), s.csi != "genie" and s.errors != "none", f"csi is {s.csi}, errors is {s.errors}"),
        (("outer_loop_step_db",), s.outer_loop_target is not None, "outer_loop_target is null"),
        (("rate_margin_db",), s.outer_loop_target is None, "outer_loop_target sets the margin"),
        (("snr_gap_db",), gap, f"rate is {s.rate}"),
        (("waterfall_db",), s.errors == "chen", f"errors is {s.errors}"),
        (("harq", "feedback_delay_s"), s.max_attempts > 1 and s.errors != "none",
         f"max_attempts is {s.max_attempts}, errors is {s.errors}"),
        (("amplifier_efficiency", "circuit_power_w", "receive_power_w", "listen_power_w", "idle_power_w"),
         s.energy == "components", f"energy is {s.energy}"),
        (("fade_margin_db",), margins or (controls and s.power_control != "fixed"), scheduler),
        (("power_control",), controls, scheduler),
        (("priority",), ordered or (s.priority != "deadline" and s.scheduler != "aloha"), scheduler),
        (("aloha_probability",), s.scheduler == "aloha", scheduler),
        (("slot_s",), s.scheduler in ("aloha", "csma", "sidelink_mode2"), scheduler),
        (("conflict_factor",), s.scheduler == "coloring", scheduler),
        (("multicast",), s.scheduler in _MULTICAST, scheduler),
        *_extra_uses(s),
        (("external_power_dbm", "external_duty"), s.external_per_km2 > 0, "external_per_km2 is 0"),
        (("far_field", "near_neighbours"), many, f"{devices} devices are no more than dense_devices"),
    )  # fmt: skip


def _extra_uses(s: RadioSettings) -> tuple[tuple[tuple[str, ...], bool, str], ...]:
    """What `_uses` says of the settings of nr and of control."""
    return (
        (("nr_table", "nr_spacing_hz", "nr_overhead"), s.rate == "nr", f"rate is {s.rate}"),
        (("nr_feedback_slots",), s.rate == "nr" and s.nr_overhead == "sidelink",
         f"rate is {s.rate}, nr_overhead is {s.nr_overhead}"),
        (("control_every_rounds", "control_gain_bits", "control_header_bytes"), s.control == "charged",
         f"control is {s.control}"),
    )  # fmt: skip


def _surrounding_uses(s: RadioSettings) -> tuple[tuple[tuple[str, ...], bool, str], ...]:
    """The same of what surrounds devices."""
    return (
        (("tx_height_m", "rx_height_m"), s.device_heights == "fixed", "device_heights is drawn"),
        (("indoor_share",), s.walls != "none" or s.device_heights == "drawn", f"walls is {s.walls}"),
        (("building_m",), s.walls in ("low_loss", "high_loss") or s.device_heights == "drawn",
         f"walls is {s.walls}"),
        (("blockers",), s.blockage != "none", f"blockage is {s.blockage}"),
        (("antenna_panels",), s.antenna != "isotropic", f"antenna is {s.antenna}"),
    )  # fmt: skip


def warn_setting_range(settings: RadioSettings, model: PathLossModel) -> None:
    """Warn as `setting_notes` says, with a `ValidityWarning`.

    Args:
        settings: The radio settings.
        model: Their path-loss model.
    """
    for note in setting_notes(settings, model):
        warnings.warn(note, ValidityWarning, stacklevel=4)


def check_devices(devices: int, *indices: IntArray) -> None:
    """Refuse device indices out of range.

    Args:
        devices: Number of devices.
        *indices: Arrays of indices.

    Raises:
        ValueError: Naming the range found.
    """
    for array in indices:
        if array.size and (array.min() < 0 or array.max() >= devices):
            raise ValueError(
                f"device indices run from {array.min()} to {array.max()}; expected 0 to {devices - 1}"
            )


def checked_positions(positions_m: ArrayLike, devices: int | None) -> FloatArray:
    """Positions as an (N, 2) array of their own.

    Args:
        positions_m: What was given, in m.
        devices: The number expected; None for any.

    Raises:
        ValueError: If the shape differs, or a value is not finite.
    """
    array = np.array(positions_m, dtype=np.float64)
    count = array.shape[0] if devices is None and array.ndim == 2 else devices
    if array.ndim != 2 or array.shape != (count, 2) or count == 0:
        raise ValueError(f"positions_m has shape {array.shape}; expected ({count or 'N >= 1'}, 2) in metres")
    if not np.isfinite(array).all():
        raise ValueError("positions_m holds nan or infinite values; expected finite metres")
    return array


def per_device(name: str, values: ArrayLike | None, devices: int) -> FloatArray:
    """One value >= 0 for each device; zeros where none are given.

    Args:
        name: What they are.
        values: (devices,) values, or None.
        devices: Number of devices.

    Raises:
        ValueError: If the shape differs or a value is negative.
    """
    array = np.zeros(devices) if values is None else np.asarray(values, dtype=np.float64)
    if array.shape != (devices,):
        raise ValueError(f"{name} has shape {array.shape}; expected one value for each of {devices} devices")
    if not np.all(array >= 0):
        raise ValueError(f"{name} holds {float(np.min(array))!r}; expected values >= 0")
    return array


def check_origin(snapshot: Mapping[str, object], own: Mapping[str, object]) -> None:
    """Refuse a snapshot of another channel.

    Args:
        snapshot: The snapshot.
        own: What its seed and settings must be.

    Raises:
        ValueError: Naming the first that differs.
    """
    for name, value in own.items():
        if snapshot[name] != value:
            raise ValueError(
                f"the snapshot's {name} is {snapshot[name]!r}, this channel's is {value!r};"
                " make the channel with the configuration of the run it is restored from"
            )
