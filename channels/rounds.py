"""Small parts of a round: fading parameters, its end, its record."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from channels.adaptation import RateLaw, rate_law
from channels.arrays import BoolArray, FloatArray
from channels.control_cost import ControlCost
from channels.decoding import RateRule
from channels.draws import stream_key
from channels.fading import doppler_hz, shape_parameter
from channels.power_states import PowerDraw, resting_energy
from channels.presence import Presence
from channels.scheduling.engine import Outcome
from channels.scheduling.state import idle_energy
from channels.settings import RadioSettings
from channels.slot_fading import SlotFading
from channels.transfers import RoundPlan
from channels.units import db_to_linear

_FADING_KINDS = {"none": 0, "rayleigh": 1, "rician": 2, "nakagami": 3}


def fading_table(settings: RadioSettings) -> FloatArray:
    """(2, 4097) ln quantiles of nakagami over ln of a Rayleigh power; (2, 2) zeros for other kinds.

    Row 1 starts with the first ln power and the points per unit.
    """
    if settings.fading != "nakagami":
        return np.zeros((2, 2))
    from scipy.special import gammainccinv, gammaincinv

    log_power = np.linspace(-30.0, 4.0, 4097)
    power, m = np.exp(log_power), settings.nakagami_m
    # The smaller of the two tail probabilities keeps its precision.
    low = np.asarray(gammaincinv(m, -np.expm1(-power)))
    high = np.asarray(gammainccinv(m, np.exp(-power)))
    quantile = np.where(power < 0.7, low, high) / m
    scale = np.zeros(log_power.size)
    scale[:2] = log_power[0], 1.0 / (log_power[1] - log_power[0])
    return np.stack([np.log(np.maximum(quantile, 1e-300)), scale])


def settings_law(settings: RadioSettings) -> RateLaw:
    """The rates of one sub-channel under the settings (see `channels.adaptation`)."""
    return rate_law(
        RateRule(
            kind=settings.rate,
            bandwidth_hz=settings.bandwidth_hz / settings.subchannels,
            gap_db=settings.snr_gap_db,
            sinr_min=float(db_to_linear(settings.sinr_min_db)),
            fading=settings.fading,
            shape=tuple(settings.fading_shape().items()),
            margin_db=settings.rate_margin_db,
            certain=settings.errors == "none",
            waterfall=float(db_to_linear(settings.waterfall_db)) if settings.errors == "chen" else None,
            modes=settings.modes(),
            message_bits=math.inf if settings.errors == "finite_blocklength" else None,
        )
    )


def least_snr_db(settings: RadioSettings) -> float:
    """Lowest mean SNR over the band, in dB, of links over which anything is ever decoded (`Channel.airtime_s_per_mb`).

    Args:
        settings: The radio settings.
    """
    sinr = float(settings_law(settings).mean_sinr_for(1.0))
    return 10 * math.log10(sinr / settings.subchannels)


def slot_fading(
    settings: RadioSettings,
    seed: int,
    table: FloatArray,
    round_index: int,
    slot: int,
    motion: FloatArray | None = None,
) -> SlotFading:
    """The fading of one slot, keyed by its round and number, or in time by the clock alone.

    Args:
        settings: The radio settings.
        seed: The channel's seed.
        table: What `fading_table` gave.
        round_index: Number of the round.
        slot: Number of the slot in it.
        motion: (4, N) ways and velocities of the devices under doppler velocity (`Velocity.motion`).
    """
    fresh = settings.speed_mps is None
    doppler = -1.0 if settings.speed_mps is None else doppler_hz(settings.speed_mps, settings.carrier_hz)
    kind = _FADING_KINDS[settings.fading]
    return SlotFading(
        doppler_hz=float(doppler),
        kind=kind,
        shape=shape_parameter("rician", k_db=settings.rician_k_db) if kind == 2 else 0.0,
        table=table,
        key=stream_key(seed, "fading", round_index, slot) if fresh else stream_key(seed, "fading"),
        success_key=stream_key(seed, "packet", round_index, slot),
        motion=np.zeros((4, 0)) if motion is None else motion,
        delay_spread_s=settings.delay_spread_s if kind else 0.0,
        bandwidth_hz=settings.bandwidth_hz / settings.subchannels,
        subchannels=settings.subchannels,
    )


@dataclass(frozen=True)
class TrainingTimes:
    """When the devices of a round have trained; times are seconds after its start.

    Attributes:
        start_s: Start of the round in s.
        ready_s: (N,) when each device has trained.
        presence: When devices are on; None where they always are.
        on: (N,) devices that are on at the start; None where they always are.
        training_s: (N,) length of each device's training; see `channels.transfers.RoundPlan`.
    """

    start_s: float
    ready_s: FloatArray
    presence: Presence | None = None
    on: BoolArray | None = None
    training_s: FloatArray | None = None

    def waited_s(self, living: BoolArray, *, idle: bool = False) -> FloatArray:
        """For how long a round without a deadline waits for each living device.

        Args:
            living: (N,) devices that have not run empty.
            idle: Whether nothing is to be sent.

        Returns:
            (living devices,) until it has trained or goes off, whichever is first; for a device that is off at the
            start no time, or, where all are that have anything to do, until the first of those that are off is on.
        """
        if self.presence is None or self.on is None:
            return self.ready_s[living]
        if not (self.on & living).any() or (idle and not self.ready_s[self.on & living].any()):
            away = living & ~self.on
            first = (self.presence.on_after(self.start_s)[away] - self.start_s).min(initial=math.inf)
            return np.array([first if math.isfinite(first) else 0.0])
        until_off = np.where(self.on, self.presence.off_after(self.start_s) - self.start_s, 0.0)
        return np.minimum(self.ready_s, until_off)[living]

    def late(self, end_s: float, deadline_s: float) -> BoolArray:
        """(N,) devices that took part and were not done by the deadline, or, where they pause, by the end."""
        if self.on is None:
            return self.start_s + self.ready_s > deadline_s
        return self.on & (self.start_s + self.ready_s > min(end_s, deadline_s))


def training_times(
    presence: Presence | None, start_s: float, left_s: FloatArray, work_s: FloatArray
) -> TrainingTimes:
    """When devices have trained that go on with what is left of earlier rounds first.

    Args:
        presence: When devices are on and how fast they are; None where they always are.
        start_s: Start of the round in s.
        left_s: (N,) seconds after it at which earlier rounds' training ends.
        work_s: (N,) seconds that this round's takes at the speed of the device's class.
    """
    if presence is None:
        return TrainingTimes(start_s, left_s + work_s)
    begin = start_s + left_s
    done = presence.done_s(begin, work_s)
    ready = np.where(work_s > 0, done - start_s, left_s)
    with np.errstate(invalid="ignore"):
        until_off = np.where(np.isfinite(begin), np.maximum(presence.off_after(start_s) - begin, 0.0), 0.0)
        length = np.where(np.isfinite(done), done - begin, until_off)
    return TrainingTimes(start_s, ready, presence, presence.on_at(start_s), np.where(work_s > 0, length, 0.0))


def cut_s(
    presence: Presence | None,
    start_s: float,
    left_s: FloatArray,
    work_s: FloatArray,
    energy_j: tuple[FloatArray, FloatArray],
) -> FloatArray:
    """When trainings stop that empty a battery: at the share of the work that it pays for.

    Args:
        presence: See `training_times`.
        start_s: See `training_times`.
        left_s: See `training_times`.
        work_s: See `training_times`.
        energy_j: (N,) what this round's training takes, and what the batteries have before it, in J.

    Returns:
        (devices that run empty in it,) in s after the start; those whose training never goes on are left out.
    """
    need_j, have_j = energy_j
    emptied = (have_j > 0) & (need_j >= have_j)
    if not emptied.any():
        return np.zeros(0)
    paid = np.divide(have_j, need_j, out=np.zeros_like(need_j), where=emptied)
    until = training_times(presence, start_s, left_s, work_s * paid).ready_s[emptied]
    return until[np.isfinite(until)]


def round_end_s(outcome: Outcome, start_s: float, deadline_s: float, ready_s: FloatArray) -> float:
    """When a round ends: all trained and sent, or the deadline if something is missing.

    Args:
        outcome: What the engine did.
        start_s: Start of the round in s.
        deadline_s: Its deadline in s, inf for none.
        ready_s: When the living devices have trained, or are no longer waited for, in s after the start.

    Returns:
        The end in s.
    """
    trained_s = start_s + float(ready_s.max(initial=0.0))
    missing = not outcome.schedule.delivered.all()
    waited_s = deadline_s if missing and math.isfinite(deadline_s) else max(outcome.schedule.end_s, trained_s)
    return min(waited_s, deadline_s)


@dataclass(frozen=True)
class Rest:
    """What devices do from the engine's end to the round's: they listen, idle or sleep.

    Attributes:
        energy_j: (N,) energy in J.
        silent_s: (N,) silence of each device at the round's end in s.
        state_energy_j: (7, N) the energy by state in J; None where radios have no states.
    """

    energy_j: FloatArray
    silent_s: FloatArray
    state_energy_j: FloatArray | None = None


def rest_of_round(draw: PowerDraw, outcome: Outcome, end_s: float, off_s: FloatArray | float) -> Rest:
    """Let devices wait for the end of a round.

    Args:
        draw: What a device draws in each state.
        outcome: What the engine did.
        end_s: End of the round in s.
        off_s: (N,) seconds until then in which each device is off.

    Returns:
        What it takes.
    """
    step_s = end_s - outcome.now_s
    if outcome.silent_s is None:
        idle_j = idle_energy(draw, step_s, outcome.awaiting, outcome.battery_j, off_s)
        return Rest(idle_j, np.zeros(idle_j.shape))
    parts, silent_s = resting_energy(
        draw, step_s, outcome.awaiting, outcome.battery_j, outcome.silent_s, off_s=off_s
    )
    return Rest(parts.sum(axis=0), silent_s, parts)


def round_plan(
    outcome: Outcome,
    start_s: float,
    end_s: float,
    compute_j: FloatArray,
    rest: Rest,
    control: ControlCost | None = None,
) -> RoundPlan:
    """Put a round's plan together; radio and computing energy stay apart.

    Args:
        outcome: What the engine did.
        start_s: Start of the round in s.
        end_s: Its end in s.
        compute_j: (N,) energy of the round's training in J, 0 for devices that could not train.
        rest: The waiting from the engine's end to the round's.
        control: What control cost before.

    Returns:
        The plan, with everybody alive, nobody late and no link starved: the channel fills these in.
    """
    schedule = outcome.schedule
    sent = schedule.table
    everybody: BoolArray = np.isfinite(compute_j)
    radio_j, idle_j = outcome.energy_j + rest.energy_j, outcome.idle_energy_j + rest.energy_j
    by_state = None
    if outcome.state_energy_j is not None and rest.state_energy_j is not None:
        by_state = outcome.state_energy_j + rest.state_energy_j
        if control is not None:
            by_state[:2] += control.transmit_j, control.receive_j
        radio_j, idle_j = by_state.sum(axis=0), by_state[2:].sum(axis=0)
    elif control is not None:
        radio_j = radio_j + control.energy_j
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
        radio_energy_j=radio_j,
        compute_energy_j=compute_j,
        alive=everybody,
        idle_energy_j=idle_j,
        late=~everybody,
        starved_fraction=0.0,
        state_energy_j=by_state,
        control=control if control is not None and control.charged else None,
    )
