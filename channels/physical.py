"""The physical side of a round: powers, gains, noise and rates, as schedulers and the air see them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from channels.adaptation import RateLaw
from channels.arrays import FloatArray
from channels.external import ExternalField, external_field
from channels.gains import NearGains, listed_gains
from channels.interference import FarField
from channels.largescale import LargeScale
from channels.link import noise_power_dbm
from channels.scheduling.problem import Radio
from channels.settings import RadioSettings
from channels.shadowing import build_sites
from channels.units import db_to_linear, dbm_to_watt


def band_noise_w(settings: RadioSettings) -> float:
    """Thermal noise power of the whole band in W.

    Args:
        settings: The radio settings.
    """
    return float(dbm_to_watt(noise_power_dbm(settings.bandwidth_hz, settings.noise_figure_db)))


def channel_noise_w(settings: RadioSettings) -> float:
    """Thermal noise power of one sub-channel in W.

    Args:
        settings: The radio settings.
    """
    return band_noise_w(settings) / settings.subchannels


def round_radio(
    settings: RadioSettings,
    law: RateLaw,
    near: NearGains,
    far: FarField | None,
    *,
    power_w: FloatArray,
    external: ExternalField | None,
    seed: int,
    round_index: int,
    positions_m: FloatArray,
) -> Radio:
    """The physical side of a round.

    Args:
        settings: The radio settings.
        law: What `settings_law` gave for them.
        near: Mean gains between devices.
        far: Far interference, or None.
        power_w: (N,) transmit power of each device in W.
        external: What reaches the devices from outside.
        seed: The channel's seed.
        round_index: Number of the round.
        positions_m: (N, 2) positions in m.
    """
    return Radio(
        near=near,
        far=far,
        external=external,
        power_w=power_w,
        noise_w=_mean_noise_w(power_w, channel_noise_w(settings), external),
        bandwidth_hz=settings.bandwidth_hz / settings.subchannels,
        subchannels=settings.subchannels,
        sinr_min=float(db_to_linear(settings.sinr_min_db)),
        plan_min=float(db_to_linear(settings.sinr_min_db + settings.fade_margin_db)),
        law=law,
        csi=settings.csi,
        csi_delay_s=settings.csi_delay_s,
        csi_pilots=settings.csi_pilots,
        known_margin_db=(0.0 if settings.csi == "perfect" else 3.0)
        if settings.rate_margin_db is None
        else settings.rate_margin_db,
        errors=settings.errors,
        waterfall_db=settings.waterfall_db,
        power_control=settings.power_control,
        max_attempts=settings.max_attempts,
        harq=settings.harq,
        feedback_s=settings.feedback_s,
        feedback_delay_s=settings.feedback_delay_s,
        draw=settings.power_draw(),
        slot_s=settings.slot_s,
        seed=seed,
        round_index=round_index,
        multicast=settings.multicast,
        aloha_probability=settings.aloha_probability,
        conflict_factor=settings.conflict_factor,
        exponent=settings.path_loss_exponent,
        positions_m=positions_m,
    )


def _mean_noise_w(power_w: FloatArray, noise_w: float, external: ExternalField | None) -> FloatArray:
    return np.full(power_w.shape, noise_w) if external is None else noise_w + external.mean_w


def radio_elsewhere(
    settings: RadioSettings, scale: LargeScale, radio: Radio, positions_m: FloatArray
) -> Radio:
    """The physical side of a round, were the devices elsewhere: its gains, noise and positions.

    Args:
        settings: The radio settings.
        scale: The tabulated path-loss model.
        radio: The round's.
        positions_m: (N, 2) other positions in m.
    """
    thermal_w = channel_noise_w(settings)
    external = external_field(settings, scale, positions_m, thermal_w)
    near = listed_gains(
        scale, build_sites(scale, positions_m), settings.dense_devices, settings.near_neighbours
    )
    noise_w = _mean_noise_w(radio.power_w, thermal_w, external)
    return replace(radio, near=near, noise_w=noise_w, positions_m=positions_m)
