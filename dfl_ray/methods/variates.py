"""Control variates, SCAFFOLD's correction of local steps for data that differ, without a server.

Device i keeps c_i, the mean gradient of its last local steps, and an estimate v_i of everybody's mean of it. Its local
steps go along g - c_i + v_i. After them c_i' = mean over the steps of its own g, y_i = v_i + c_i' - c_i is sent beside
the adapter, and v_i <- sum_j W_ij y_j. Under doubly stochastic weights sum_i v_i = sum_i c_i at all times, as in
gradient tracking; on a complete graph with equal weights v_i is SCAFFOLD's c.

Source: Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, equations 3 to 5. With local SGD its option II,
c_i' = c_i - c + (x - y) / (K eta), is the mean of g over the local steps, which is what is computed here, since AdamW's
steps are no multiple of a gradient. Departures: every device takes part in every round; the server's mean is gossip;
the corrected gradient is clipped and goes through AdamW. A lost message leaves its weight at home, which ends the
equality of the sums. Values on air have the adapter's precision, without error feedback. Measured with AdamW and
with SGD, one task a device: far worse than without, at steps that learn (docs/papers.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass
class Variates:
    """What a device keeps, (size,) float32 each; None is 0.

    Attributes:
        own: c_i.
        mean: v_i; between sending and mixing y_i.
        gradient: Sum of its plain gradients over the local steps since the last exchange.
        steps: Number of these steps.
    """

    own: np.ndarray | None = None
    mean: np.ndarray | None = None
    gradient: np.ndarray | None = None
    steps: int = 0

    def correction(self, size: int) -> np.ndarray:
        """What is added to every local gradient, v_i - c_i; 0 before the first exchange.

        Args:
            size: Values of the adapter.

        Returns:
            (size,) float32.
        """
        if self.own is None or self.mean is None:
            return np.zeros(size, np.float32)
        return self.mean - self.own

    def observe(self, gradient: np.ndarray, steps: int) -> None:
        """Add what local steps have seen.

        Args:
            gradient: (size,) float32, the sum of the plain gradients.
            steps: Number of steps.
        """
        self.gradient = gradient if self.gradient is None else self.gradient + gradient
        self.steps += steps

    def say(self, size: int, keep: np.ndarray | None) -> np.ndarray:
        """Take the new c_i and give y_i; without local steps since the last call y_i is as it was.

        Args:
            size: Values of the adapter.
            keep: (size,) bool of the entries that are exchanged; None = all. The others stay as they are.

        Returns:
            (size,) float32.
        """
        zero = np.zeros(size, np.float32)
        own, mean = (zero if x is None else x for x in (self.own, self.mean))
        if self.gradient is not None and self.steps:
            change = self.gradient / np.float32(self.steps) - own
            change = change if keep is None else np.where(keep, change, np.float32(0))
            own, mean = own + change, mean + change
        self.own, self.mean, self.gradient, self.steps = own, mean, None, 0
        return mean

    def mix(
        self, weights: Mapping[int, float], arrived: Mapping[int, np.ndarray], keep: np.ndarray | None
    ) -> None:
        """Average y_i with what arrived; the weight of what did not stays at home. Who has said nothing has y_i = 0.

        Args:
            weights: Neighbour -> W_ij.
            arrived: Neighbour -> (size,) y_j, 0 outside `keep`.
            keep: (size,) bool of the entries that are exchanged; None = all.
        """
        if self.own is None or self.mean is None:  # off, crashed or diverged since the first round
            if not arrived:
                return
            zero = np.zeros_like(next(iter(arrived.values())), np.float32)
            self.own, self.mean = (zero if x is None else x for x in (self.own, self.mean))
        share = 1.0 - sum(weights[j] for j in arrived)
        mixed = share * self.mean.astype(np.float64)
        for j in sorted(arrived):
            mixed += weights[j] * arrived[j]
        mixed = mixed.astype(np.float32)
        self.mean = mixed if keep is None else np.where(keep, mixed, self.mean)
