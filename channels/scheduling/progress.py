"""Parts of messages: what a slot of fixed length carries of a message that is longer.

A part is a transport block: as many whole bytes as the usable time of a slot holds at the rate chosen for it. What
follows is sent once all receivers have it that are still in the transmission; a part that was lost is repeated as it
was, at its rate, towards those that lack it. A receiver is given up once the parts that it lost are together as long
as `max_attempts` messages, so that a message costs no more time than one that is sent whole. Where slots last as long
as their messages, a message is its own only part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.scheduling.fixed_slots import check_slot
from channels.scheduling.problem import Radio
from channels.units import BITS_PER_BYTE


@dataclass
class Progress:
    """How far the transfers of a round have come.

    Attributes:
        usable_s: Seconds of a slot that carry data; inf where messages are not cut.
        left_bits: (M,) bits not yet decoded.
        part_bits: (M,) length of the part that was lost last.
        rate_bps: (M,) its rate in bit/s.
        lost: (M,) failed attempts in a row of the part at hand; 0 for a fresh one.
        lost_bits: (M,) bits of all failed attempts.
    """

    usable_s: float
    left_bits: FloatArray
    part_bits: FloatArray
    rate_bps: FloatArray
    lost: IntArray
    lost_bits: FloatArray

    @classmethod
    def of(cls, bits: FloatArray, radio: Radio, fixed_slots: bool) -> Progress:
        """Nothing is sent yet.

        Args:
            bits: (M,) lengths of the messages in bits.
            radio: The physical side.
            fixed_slots: Whether slots have one length.

        Raises:
            ValueError: If a slot of fixed length has no room for the answers in it and one byte at the lowest rate.
        """
        usable_s = radio.slot_s - radio.feedback_s if fixed_slots else math.inf
        check_slot(usable_s + radio.feedback_s, radio.feedback_s, radio.law.lowest_bps)
        lost = np.zeros(bits.shape, dtype=np.int64)
        return cls(usable_s, bits.copy(), np.zeros_like(bits), np.zeros_like(bits), lost, np.zeros_like(bits))

    @property
    def cut(self) -> bool:
        """Whether messages are cut into parts."""
        return math.isfinite(self.usable_s)

    def at_hand(self, unit: IntArray, pending: BoolArray) -> BoolArray:
        """(M,) transfers that lack the part at hand of their transmission.

        Args:
            unit: (M,) transmission that serves each transfer.
            pending: (M,) transfers that are not done.
        """
        most = np.zeros(int(unit.max(initial=-1)) + 1)
        np.maximum.at(most, unit[pending], self.left_bits[pending])
        return self.left_bits == most[unit]

    def rates(self, chosen_bps: FloatArray, transfer: IntArray) -> FloatArray:
        """(U,) rates in bit/s: of fresh parts the chosen ones, of repeated parts their own.

        Args:
            chosen_bps: (U,) rates chosen for the units.
            transfer: (U,) first transfer of each.
        """
        if not self.cut:
            return chosen_bps
        # Where all is decoded, a deep fade may have slowed the part beyond its slot: it is no slower than that again.
        again = np.maximum(self.rate_bps[transfer], self.part_bits[transfer] / self.usable_s)
        return np.where(self.lost[transfer] > 0, again, chosen_bps)

    def lengths(self, rate_bps: FloatArray, transfer: IntArray) -> FloatArray:
        """(U,) bits of the parts at hand.

        Args:
            rate_bps: (U,) rates in bit/s.
            transfer: (U,) first transfer of each unit.
        """
        left = self.left_bits[transfer]
        if not self.cut:
            return left
        fresh = np.minimum(left, np.floor(rate_bps * self.usable_s / BITS_PER_BYTE) * BITS_PER_BYTE)
        return np.where(self.lost[transfer] > 0, self.part_bits[transfer], fresh)

    def settle(self, transfer: IntArray, decoded: BoolArray, bits: FloatArray, rate_bps: FloatArray) -> None:
        """Take in a slot's attempts.

        Args:
            transfer: (rows,) transfers that were tried.
            decoded: (rows,) whether the part was decoded.
            bits: (rows,) its length in bits.
            rate_bps: (rows,) its rate in bit/s.
        """
        done, failed = transfer[decoded], transfer[~decoded]
        self.left_bits[done] -= bits[decoded]
        self.lost[done] = 0
        self.lost[failed] += 1
        self.part_bits[failed] = bits[~decoded]
        self.rate_bps[failed] = rate_bps[~decoded]
        self.lost_bits[failed] += bits[~decoded]

    def spent(self, transfer: IntArray, bits: FloatArray, max_attempts: int) -> BoolArray:
        """(rows,) whether transfers that just failed have had all their attempts.

        Args:
            transfer: (rows,) the transfers.
            bits: (rows,) lengths of their messages in bits.
            max_attempts: Attempts of a message.
        """
        if not self.cut:
            return self.lost[transfer] >= max_attempts
        return self.lost_bits[transfer] >= max_attempts * bits
