"""Which transfers one transmission serves."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.scheduling.broadcast import airtime_bound
from channels.scheduling.problem import Radio
from channels.transfers import Transfers


def unit_ids(radio: Radio, groups: bool, wanted: Transfers, gain: FloatArray) -> IntArray:
    """Number the transmissions that could serve the transfers.

    Args:
        radio: The physical side.
        groups: Whether transfers with the same source and message form one unit.
        wanted: The transfers.
        gain: (M,) mean linear gain of each transfer's link.

    Returns:
        (M,) unit of each transfer, from 0 without gaps, numbered by first appearance. Receivers that
        practically never decode, even without interference, get a unit of their own, so they do not slow the
        others.
    """
    if not groups or not len(wanted):
        return np.arange(len(wanted), dtype=np.int64)
    snr = radio.power_w[wanted.source] * gain / radio.noise_w[wanted.destination]
    alone = radio.law.hopeless(snr) | (snr < radio.sinr_min)
    hopeless = np.where(alone, np.arange(len(wanted)) + 1, 0)
    # The same message wanted twice by one receiver is sent twice: a transmission has each receiver once.
    same = np.stack([wanted.source, wanted.message, wanted.payload_bytes, wanted.destination], axis=1)
    rows = np.column_stack([same[:, :3], wanted.after, hopeless, _occurrence(same)])
    number = _kinds(rows)
    first = np.full(int(number.max()) + 1, number.size, dtype=np.int64)
    np.minimum.at(first, number, np.arange(number.size, dtype=np.int64))
    rank = np.empty(first.shape[0], dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.shape[0], dtype=np.int64)
    return rank[number]


def _kinds(rows: IntArray) -> IntArray:
    """(rows,) number of each distinct row, in lexical order."""
    order = np.lexsort(rows.T[::-1])
    new = np.any(rows[order[1:]] != rows[order[:-1]], axis=1)
    out = np.empty(rows.shape[0], dtype=np.int64)
    out[order] = np.concatenate(([0], np.cumsum(new)))
    return out


def _occurrence(keys: IntArray) -> IntArray:
    """(rows,) how many equal rows come before each row."""
    kind = _kinds(keys)
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
