"""Which transfers one transmission serves."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.scheduling.broadcast import airtime_bound
from channels.scheduling.problem import Radio, Scheduler
from channels.transfers import Transfers


def unit_ids(radio: Radio, scheduler: Scheduler, wanted: Transfers, gain: FloatArray) -> IntArray:
    """Number the transmissions that could serve the transfers.

    Args:
        radio: The physical side.
        scheduler: The scheduling rule; only one that groups makes units of several transfers.
        wanted: The transfers.
        gain: (M,) mean linear gain of each transfer's link.

    Returns:
        (M,) unit of each transfer, from 0 without gaps. Receivers in outage even without interference get
        a unit of their own.
    """
    if not scheduler.groups:
        return np.arange(len(wanted), dtype=np.int64)
    snr = radio.power_w[wanted.source] * gain / radio.noise_w[wanted.destination]
    hopeless = np.where(snr < radio.sinr_min, np.arange(len(wanted)) + 1, 0)
    # The same message wanted twice by one receiver is sent twice: a transmission has each receiver once.
    same = np.stack([wanted.source, wanted.message, wanted.payload_bytes, wanted.destination], axis=1)
    groups = np.column_stack([same[:, :3], hopeless, _occurrence(same)])
    return np.unique(groups, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _occurrence(keys: IntArray) -> IntArray:
    """(rows,) how many equal rows come before each row."""
    kind = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(kind, kind="stable")
    first = np.searchsorted(kind[order], kind[order])
    count = np.empty(kind.shape[0], dtype=np.int64)
    count[order] = np.arange(kind.shape[0], dtype=np.int64) - first
    return count


def unit_bounds(radio: Radio, wanted: Transfers, gain: FloatArray, unit: IntArray) -> FloatArray:
    """SINR bounds of units that share receivers' airtime (see `airtime_bound`).

    Args:
        radio: The physical side.
        wanted: The transfers, at least one.
        gain: (M,) mean linear gain of each transfer's link.
        unit: (M,) unit of each transfer.

    Returns:
        (U,) linear SINR bounds.
    """
    order = np.argsort(unit, kind="stable")
    first = np.searchsorted(unit[order], np.arange(int(unit.max()) + 2, dtype=np.int64))
    snr = radio.power_w[wanted.source] * gain / radio.noise_w[wanted.destination]
    bits = wanted.payload_bytes[order[first[:-1]]].astype(np.float64)
    return airtime_bound(radio, snr[order], bits, first)
