"""An outer loop of link adaptation: each link's margin follows what was decoded, until a set share is lost.

The sender reckons with an SINR lower by the link's offset. A lost attempt raises the offset by one step, a decoded one
lowers it by step·t/(1 - t): over a long time, as long as the offset stays inside its bounds, the share of lost attempts
is the target t, whatever the errors of the known SINR. With retransmissions that are combined, first attempts alone
count.

Source:
    Sampath, Kumar and Holtzman, On setting reverse link target SIR in a CDMA system (VTC 1997).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray

MOST_DB = 20.0
"""Largest offset up and down, in dB: links that lose all, or nothing at the highest rate, end there."""


@dataclass
class OuterLoop:
    """The offsets of a round's links.

    Attributes:
        target: Share t of attempts that is to be lost, in (0, 1).
        step_db: Step in dB, > 0.
        link: (M,) place of each transfer's link in `offset_db`.
        offset_db: (L,) offset of each link in dB; attempts change it.
    """

    target: float
    step_db: float
    link: IntArray
    offset_db: FloatArray

    def reckoned(self, sinr: FloatArray, transfer: IntArray) -> FloatArray:
        """SINR that the sender reckons with.

        Args:
            sinr: (rows,) known linear SINR.
            transfer: (rows,) transfer of each.

        Returns:
            (rows,) linear SINR.
        """
        return sinr * 10 ** (-self.offset_db[self.link[transfer]] / 10)

    def learn(self, transfer: IntArray, decoded: BoolArray) -> None:
        """Take in a slot's attempts.

        Args:
            transfer: (rows,) transfers that were tried.
            decoded: (rows,) whether each attempt was decoded.
        """
        up, down = self.step_db, self.step_db * self.target / (1 - self.target)
        np.add.at(self.offset_db, self.link[transfer], np.where(decoded, -down, up))
        np.clip(self.offset_db, -MOST_DB, MOST_DB, out=self.offset_db)
