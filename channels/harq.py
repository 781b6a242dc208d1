"""HARQ: a receiver keeps the signal that it could not decode and combines it with that of the next attempt.

`chase`: every attempt repeats the first one's codeword at its rate, and the SINRs of the attempts add up (maximum-ratio
combining). `incremental`: every attempt brings new parity at the rate of the moment, and the mutual information adds
up: after attempts at SINRs s_k and rates R_k the message is decoded once sum_k lb(1 + s_k/gap)/R_k reaches 1. Both are
told to the error model as one effective SINR of the last attempt. `none` forgets: each attempt stands for itself.

An attempt that was cut, by a deadline or a battery, leaves nothing behind. Memories last for a round.

Source:
    Caire and Tuninetti, The Throughput of Hybrid-ARQ Protocols for the Gaussian Collision Channel (IEEE Trans. IT
    47(5), 2001): repetition time diversity and incremental redundancy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from channels.arrays import FloatArray, IntArray

HARQ_KINDS: tuple[str, ...] = ("none", "chase", "incremental")
"""What a receiver does with attempts that it could not decode."""


@dataclass
class SoftMemory:
    """What the receivers have kept of a round's transfers.

    Attributes:
        kind: One of `HARQ_KINDS`.
        gap: SNR gap, linear.
        bandwidth_hz: Bandwidth of a sub-channel in Hz.
        kept: (M,) `chase`: sum of the linear SINRs kept; `incremental`: share of the message's bits that is known.
        rate_bps: (M,) rate of what is kept in bit/s; 0 where nothing is.
    """

    kind: str
    gap: float
    bandwidth_hz: float
    kept: FloatArray
    rate_bps: FloatArray

    @classmethod
    def empty(cls, kind: str, gap: float, bandwidth_hz: float, transfers: int) -> SoftMemory:
        """Nothing is kept yet.

        Args:
            kind: One of `HARQ_KINDS`.
            gap: SNR gap, linear.
            bandwidth_hz: Bandwidth of a sub-channel in Hz.
            transfers: Number of transfers M.
        """
        return cls(kind, gap, bandwidth_hz, np.zeros(transfers), np.zeros(transfers))

    def rates(self, chosen_bps: FloatArray, unit: IntArray, transfer: IntArray) -> FloatArray:
        """Rates of a slot: under `chase` a unit of which something is kept repeats that rate.

        Args:
            chosen_bps: (U,) rates chosen for the units.
            unit: (rows,) unit of each reception.
            transfer: (rows,) its transfer.

        Returns:
            (U,) rates in bit/s.
        """
        if self.kind != "chase":
            return chosen_bps
        repeated = np.zeros(chosen_bps.shape)
        np.maximum.at(repeated, unit, self.rate_bps[transfer])
        return np.where(repeated > 0, repeated, chosen_bps)

    def effective_sinr(self, sinr: FloatArray, rate_bps: FloatArray, transfer: IntArray) -> FloatArray:
        """SINR of the attempt that would be worth as much as this one and all that is kept.

        Args:
            sinr: (rows,) linear SINR of the attempts.
            rate_bps: (rows,) their rates in bit/s.
            transfer: (rows,) their transfers.

        Returns:
            (rows,) linear SINR, not below `sinr`.
        """
        if self.kind == "none":
            return sinr
        kept = self.kept[transfer]
        if self.kind == "chase":
            return sinr + np.where(self.rate_bps[transfer] == rate_bps, kept, 0.0)
        more = np.exp2(kept * rate_bps / self.bandwidth_hz)
        return np.where(kept > 0, (self.gap + sinr) * more - self.gap, sinr)

    def keep(self, sinr: FloatArray, rate_bps: FloatArray, transfer: IntArray) -> None:
        """Take in attempts that were received whole and not decoded.

        Args:
            sinr: (rows,) linear SINR of the attempts.
            rate_bps: (rows,) their rates in bit/s.
            transfer: (rows,) their transfers, each once.
        """
        if self.kind == "chase":
            same = self.rate_bps[transfer] == rate_bps
            self.kept[transfer] = sinr + np.where(same, self.kept[transfer], 0.0)
        elif self.kind == "incremental":
            self.kept[transfer] += np.log2(1.0 + sinr / self.gap) * self.bandwidth_hz / rate_bps
        self.rate_bps[transfer] = rate_bps

    def forget(self, transfer: IntArray) -> None:
        """Drop what is kept of transfers: what was sent is decoded.

        Args:
            transfer: (rows,) the transfers.
        """
        self.kept[transfer] = self.rate_bps[transfer] = 0.0
