"""What one round costs on the radio: the radio's part of `dfl-ray plan`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray, IntArray
from channels.channel import Channel
from channels.transfers import OUTCOMES, RoundPlan, Transfers

LATENCY_PERCENTILES: tuple[int, ...] = (50, 90, 99)


@dataclass(frozen=True)
class RoundEstimate:
    """Cost of one planned round.

    Attributes:
        devices: Number of devices.
        transfers: Number of wanted transfers.
        payload_bytes: Bytes put on the air, attempts that failed included, a broadcast counted once.
        wanted_bytes: Bytes asked for.
        airtime_s: Sum of the transmissions' durations in s.
        occupied_s: Span of the radio phase in s.
        round_s: Length of the round on the virtual clock in s.
        energy_j: Energy of all devices in J.
        delivered_fraction: Share of transfers delivered.
        losses: Number of lost transfers by reason.
        latency_s: Percentiles (50, 90, 99) of the time from the round's start to delivery in s.
        slots: Number of slots.
        transmissions_per_slot: Mean number of simultaneous transmissions.
        attempts_mean: Mean number of attempts per transfer.
        plan_wall_s: Wall time that planning took on this machine in s.
        peak_memory_bytes: Largest resident memory of this process so far.
    """

    devices: int
    transfers: int
    payload_bytes: int
    wanted_bytes: int
    airtime_s: float
    occupied_s: float
    round_s: float
    energy_j: float
    delivered_fraction: float
    losses: dict[str, int]
    latency_s: dict[str, float]
    slots: int
    transmissions_per_slot: float
    attempts_mean: float
    plan_wall_s: float
    peak_memory_bytes: int

    def as_dict(self) -> dict[str, object]:
        """The estimate as plain values for JSON."""
        return asdict(self)


def estimate_round(
    channel: Channel,
    transfers: Transfers,
    *,
    round_index: int = 0,
    ready_s: ArrayLike | None = None,
    compute_energy_j: ArrayLike | None = None,
) -> RoundEstimate:
    """Plan one round and sum it up.

    The round is really planned, with shadowing, fading, losses and retries; the channel is put back
    afterwards, so that estimating has no effect on a run.

    Args:
        channel: The channel.
        transfers: The wanted transfers.
        round_index: Round whose draws are used.
        ready_s: (N,) as in `Channel.plan_round`.
        compute_energy_j: (N,) as in `Channel.plan_round`.

    Returns:
        The estimate.
    """
    saved = channel.snapshot()
    begin = time.perf_counter()
    plan = channel.plan_round(round_index, transfers, ready_s=ready_s, compute_energy_j=compute_energy_j)
    wall_s = time.perf_counter() - begin
    channel.restore(saved)
    return summarise(channel.devices, transfers, plan, wall_s)


def summarise(devices: int, transfers: Transfers, plan: RoundPlan, wall_s: float = 0.0) -> RoundEstimate:
    """Sum up a planned round.

    Args:
        devices: Number of devices.
        transfers: The transfers the round wanted.
        plan: The round's plan.
        wall_s: Wall time planning took in s.

    Returns:
        The estimate.
    """
    once = plan.table.drop_duplicates("transmission")
    slots = int(plan.table["slot"].nunique())
    took_s = plan.finished_s[plan.delivered] - plan.start_s
    latency = {
        f"p{share}": float(np.percentile(took_s, share)) if took_s.size else float("nan")
        for share in LATENCY_PERCENTILES
    }
    reasons = np.bincount(plan.outcome, minlength=len(OUTCOMES))
    return RoundEstimate(
        devices=devices,
        transfers=len(transfers),
        payload_bytes=int(once["payload_bytes"].sum()),
        wanted_bytes=int(transfers.payload_bytes.sum()),
        airtime_s=plan.airtime_s,
        occupied_s=plan.occupied_s,
        round_s=plan.end_s - plan.start_s,
        energy_j=float(plan.energy_j.sum()),
        delivered_fraction=float(plan.delivered.mean()) if len(transfers) else 1.0,
        losses={name: int(reasons[code]) for code, name in enumerate(OUTCOMES) if code},
        latency_s=latency,
        slots=slots,
        transmissions_per_slot=len(once) / slots if slots else 0.0,
        attempts_mean=float(plan.attempts.mean()) if len(transfers) else 0.0,
        plan_wall_s=wall_s,
        peak_memory_bytes=_peak_memory_bytes(),
    )


def jain_index(values: ArrayLike) -> float:
    """Fairness of shares: (sum x)²/(n·sum x²), from 1/n (one has all) to 1 (all have the same).

    Args:
        values: (n,) shares >= 0, of any unit.

    Returns:
        The index; nan where there is none, or all are 0.

    Source:
        Jain, Chiu and Hawe, A Quantitative Measure of Fairness (DEC-TR-301, 1984).
    """
    x = np.asarray(values, dtype=np.float64)
    square = float((x**2).sum())
    return float(x.sum()) ** 2 / (x.size * square) if square > 0 else math.nan


def nearest_transfers(positions_m: FloatArray, neighbours: int, payload_bytes: int) -> Transfers:
    """Every device sends one message to each of its nearest devices: a stand-in for a topology.

    Args:
        positions_m: (N, 2) positions in m.
        neighbours: Number of nearest devices.
        payload_bytes: Size of the message in bytes.

    Returns:
        N·neighbours transfers, by sender; a device's transfers carry the same message.
    """
    from scipy.spatial import KDTree

    devices = positions_m.shape[0]
    count = min(neighbours, devices - 1)
    nearest = np.asarray(KDTree(positions_m).query(positions_m, k=count + 1)[1]).reshape(devices, -1)
    device: IntArray = np.arange(devices, dtype=np.int64)
    # Of devices on one spot any may come first, and with more of them than asked the device itself may be none of them.
    other = nearest != device[:, None]
    other[other.all(axis=1), -1] = False
    source: IntArray = np.repeat(device, count)
    return Transfers.build(source, nearest[other], payload_bytes, message=source)


def _peak_memory_bytes() -> int:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
