"""Scheduling: which transmission runs when, at what SINR and rate.

`plan` schedules transfers over given gains, without fading; `channels.channel.Channel` runs the same
schedulers over positions, shadowing, fading, retries, deadlines and batteries.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from channels.adaptation import rate_law
from channels.arrays import FloatArray
from channels.checks import require_positive
from channels.decoding import RateRule
from channels.draws import stream_key
from channels.gains import matrix_gains
from channels.link import CHEN_WATERFALL_DB, check_rate_names
from channels.power_states import PowerDraw
from channels.registry import unknown_name
from channels.scheduling.problem import Radio
from channels.scheduling.table import get_scheduler
from channels.tables import SCHEDULERS
from channels.transfers import Schedule, Transfers, as_transfers
from channels.units import db_to_linear

__all__ = ["SCHEDULERS", "Schedule", "Transfers", "plan"]

_PASSED_ON = frozenset(
    {field.name for field in fields(Radio)}
    - {"near", "far", "power_w", "noise_w", "sinr_min", "plan_min", "law", "round_index", "csi_delay_s"}
    - {"known_margin_db", "csi", "csi_pilots", "draw", "external"}
)
_DRAWN = frozenset({"amplifier_efficiency", "circuit_power_w", "receive_power_w"})
_OWN = frozenset(
    {"sinr_min_db", "beta_db", "fade_margin_db", "rate", "snr_gap_db", "max_slots", "deadline_s"}
)


def plan(
    name: str, transfers: Any, gains: ArrayLike, power_w: ArrayLike, noise_w: ArrayLike, **options: Any
) -> Schedule:
    """Schedule transfers over fixed gains.

    Args:
        name: A name in `channels.tables.SCHEDULERS`.
        transfers: A `Transfers`, a mapping or DataFrame with `source`, `destination`, `payload_bytes` and
            optionally `message`, or a sequence of (source, destination or destinations, payload_bytes).
        gains: (N, N) linear power gains between devices, gains[i, j] from i to j; the diagonal is unused.
        power_w: Transmit power in W, scalar or (N,).
        noise_w: Noise power over the whole band in W, scalar or (N,).
        **options: `sinr_min_db` (threshold beta; 5, or none for fplinq; also `beta_db`), `fade_margin_db`
            (0), `bandwidth_hz` (1e6), `rate` (shannon), `snr_gap_db` (0), `errors` (outage), `subchannels`
            (1), `max_attempts` (1; 100 for aloha), `max_slots`, `deadline_s`, `power_control`,
            `positions_m` and `conflict_factor` (coloring), `exponent` (coloring without positions),
            `aloha_probability`, `seed` (of random access, packet errors and tie-breaks), `multicast` (True),
            `slot_s`, `waterfall_db`, `amplifier_efficiency`, `circuit_power_w`, `receive_power_w`,
            `scheduler_options` (the scheduler's own).

    Returns:
        The schedule; it does not depend on the order of the transfers. Every row's `sinr_db` is exact for the
        rows that share its slot and sub-channel. A link that cannot reach the threshold alone appears
        once, undelivered.

    Raises:
        ValueError: For an unknown scheduler or option, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> gains = np.array([[0, 1e-8, 1e-12, 1e-12], [1e-8, 0, 1e-12, 1e-12],
        ...                   [1e-12, 1e-12, 0, 1e-8], [1e-12, 1e-12, 1e-8, 0]])
        >>> schedule = plan("greedy_sinr", [(0, 1, 1000), (2, 3, 1000)], gains, 0.2, 1e-13)
        >>> schedule.table.slot.tolist()
        [0, 0]
    """
    from channels.scheduling.engine import Request, run_slots
    from channels.slot_fading import SlotFading

    scheduler = get_scheduler(name, options.pop("scheduler_options", None))
    for option in options:
        if option not in _PASSED_ON | _OWN | _DRAWN:
            raise unknown_name("scheduling option", option, _PASSED_ON | _OWN | _DRAWN)
    wanted = as_transfers(transfers)
    gain, power, noise = _checked(wanted, gains, power_w, noise_w)
    radio = _radio(name, gain, power, noise, options)
    seed = int(options.get("seed", 0))

    def unfaded(slot: int) -> SlotFading:
        return SlotFading(success_key=stream_key(seed, "packet", 0, slot))

    request = Request(
        transfers=wanted,
        gain=gain[wanted.source, wanted.destination],
        start_s=0.0,
        ready_s=np.zeros_like(power),
        deadline_s=float(options.get("deadline_s") or math.inf),
        battery_j=np.full_like(power, np.inf),
        fading=unfaded,
        max_slots=options.get("max_slots"),
        order_key=stream_key(seed, "transfer-order", 0),
    )
    return run_slots(radio, scheduler, request).schedule


def _checked(
    wanted: Transfers, gains: ArrayLike, power_w: ArrayLike, noise_w: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    gain = np.asarray(gains, dtype=np.float64)
    if gain.ndim != 2 or gain.shape[0] != gain.shape[1]:
        raise ValueError(f"gains have shape {gain.shape}; expected a square (devices, devices) matrix")
    off_diagonal = gain[~np.eye(gain.shape[0], dtype=bool)]
    if not np.all(off_diagonal >= 0):
        raise ValueError("gains hold negative or nan values; expected linear power gains >= 0, not dB")
    devices = gain.shape[0]
    if len(wanted):
        ends = np.concatenate([wanted.source, wanted.destination])
        if ends.min() < 0 or ends.max() >= devices:
            raise ValueError(
                f"transfers name devices {ends.min()} to {ends.max()};"
                f" gains are for devices 0 to {devices - 1}"
            )
    power = np.broadcast_to(np.asarray(power_w, dtype=np.float64), (devices,)).copy()
    noise = np.broadcast_to(np.asarray(noise_w, dtype=np.float64), (devices,)).copy()
    for label, values in (("power_w", power), ("noise_w", noise)):
        if not np.all(values > 0):
            raise ValueError(f"{label} holds {float(values.min())!r}; expected values > 0 in watts")
    return gain, power, noise


def _radio(
    name: str, gain: FloatArray, power: FloatArray, noise: FloatArray, options: dict[str, Any]
) -> Radio:
    passed = {key: value for key, value in options.items() if key in _PASSED_ON}
    subchannels = int(passed.pop("subchannels", 1))
    bandwidth = float(passed.pop("bandwidth_hz", 1e6))
    gap_db, rate = float(options.get("snr_gap_db", 0.0)), str(options.get("rate", "shannon"))
    errors = str(passed.get("errors", "outage"))
    require_positive("subchannels", subchannels)
    require_positive("bandwidth_hz", bandwidth)
    check_rate_names(rate, errors, gap_db)
    if rate == "nr":
        raise ValueError(
            "rate 'nr' needs the numbers of a band; make a channels.channel.Channel with it, or use cqi"
        )
    default_db = -math.inf if name == "fplinq" else 5.0
    threshold_db = options.get("sinr_min_db", options.get("beta_db"))
    beta = float(db_to_linear(default_db if threshold_db is None else float(threshold_db)))
    passed.setdefault("max_attempts", 100 if name == "aloha" else 1)
    waterfall = float(db_to_linear(passed.get("waterfall_db", CHEN_WATERFALL_DB)))
    return Radio(
        near=matrix_gains(gain),
        power_w=power,
        noise_w=noise / subchannels,
        bandwidth_hz=bandwidth / subchannels,
        sinr_min=beta,
        plan_min=beta * float(db_to_linear(options.get("fade_margin_db", 0.0))),
        subchannels=subchannels,
        draw=replace(PowerDraw(), **{name: options[name] for name in _DRAWN if name in options}),
        law=rate_law(
            RateRule(
                rate,
                bandwidth / subchannels,
                gap_db,
                beta,
                certain=errors == "none",
                waterfall=waterfall if errors == "chen" else None,
                message_bits=math.inf if errors == "finite_blocklength" else None,
            )
        ),
        **passed,
    )
