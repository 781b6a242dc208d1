"""Small parts of a round: fading parameters, its end, its record."""

from __future__ import annotations

import math

import numpy as np

from channels.arrays import BoolArray, FloatArray
from channels.fading import doppler_correlation, power_quantile
from channels.scheduling.engine import Outcome
from channels.settings import RadioSettings
from channels.transfers import RoundPlan


def fading_table(settings: RadioSettings) -> FloatArray:
    """(1, 4097) ln quantiles of nakagami over the normal from -8 to 8; (1, 2) zeros for other kinds."""
    if settings.fading != "nakagami":
        return np.zeros((1, 2))
    from scipy.special import ndtr

    normal = np.linspace(-8.0, 8.0, 4097)
    probability = np.clip(np.asarray(ndtr(normal)), 1e-15, 1 - 1e-15)
    return np.log(power_quantile("nakagami", probability, m=settings.nakagami_m))[None, :]


def decorrelations_per_s(settings: RadioSettings) -> float:
    """Rate at which AR(1) fading forgets: -ln(rho)/slot_s with rho = J0(2·pi·f_D·slot_s), kept in (0, 1)."""
    rho = float(doppler_correlation(settings.speed_mps or 0.0, settings.carrier_hz, settings.slot_s))
    return -math.log(min(max(rho, 1e-6), 1.0)) / settings.slot_s


def round_end_s(outcome: Outcome, start_s: float, deadline_s: float, ready_s: FloatArray) -> float:
    """When a round ends: all trained and sent, or the deadline if something is missing.

    Args:
        outcome: What the engine did.
        start_s: Start of the round in s.
        deadline_s: Its deadline in s, inf for none.
        ready_s: Training times of the living devices in s.

    Returns:
        The end in s.
    """
    trained_s = start_s + float(ready_s.max(initial=0.0))
    missing = not outcome.schedule.delivered.all()
    waited_s = deadline_s if missing and math.isfinite(deadline_s) else max(outcome.schedule.end_s, trained_s)
    return min(waited_s, deadline_s)


def round_plan(
    outcome: Outcome, start_s: float, end_s: float, compute_j: FloatArray, alive: BoolArray
) -> RoundPlan:
    """Put a round's plan together; radio and computing energy stay apart.

    Args:
        outcome: What the engine did.
        start_s: Start of the round in s.
        end_s: Its end in s.
        compute_j: (N,) energy of the round's training in J, 0 for devices that could not train.
        alive: (N,) devices whose battery is not empty after the round.

    Returns:
        The plan.
    """
    schedule = outcome.schedule
    sent = schedule.table
    return RoundPlan(
        table=sent,
        delivered=schedule.delivered,
        finished_s=schedule.finished_s,
        attempts=schedule.attempts,
        outcome=schedule.outcome,
        start_s=start_s,
        end_s=end_s,
        airtime_s=schedule.airtime_s,
        occupied_s=float(sent["end_s"].max() - sent["start_s"].min()) if len(sent) else 0.0,
        radio_energy_j=outcome.energy_j,
        compute_energy_j=compute_j,
        alive=alive,
    )
