"""Aggregation rules that bear some wrong neighbours: what `method.aggregation` offers beside gossip and push-sum.

Each mixes x_i, the device's own values, with x_j of the n - 1 neighbours whose message arrived, part by part: a method
with an expert a task mixes every task by itself. f = min(ceil(q n), floor((n - 1) / 2)) of the n are taken to be wrong,
q = `method.faulty_share`; at least one where n >= 3 and q > 0. Values that are not finite never come here: they are
refused when a message is read (`gossip.finite_values`).

What they have in common: no rule weighs a neighbour above W_ij or an equal share, only the entries that are exchanged
count in a distance, and messages, error feedback and state are gossip's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from dfl_ray.methods.aggregations import Aggregation, Arrival, Mixing, PartState, PlainValues, gossip_mean

BALANCE_RADIUS = 1.0
"""Largest difference that `balance` takes in, relative to the length of the own values."""


@dataclass(frozen=True)
class Received:
    """What one device mixes.

    Attributes:
        own: x_i, (size,) float64.
        others: Sender -> x_j, (size,) float64, by sender.
        weights: Neighbour -> W_ij.
        faulty_share: q, the share of those who are mixed that is taken to be wrong.
    """

    own: np.ndarray
    others: Mapping[int, np.ndarray]
    weights: Mapping[int, float]
    faulty_share: float

    @property
    def stacked(self) -> np.ndarray:
        """(n, size): the own values, then the others' by sender."""
        return np.stack([self.own, *self.others.values()])

    @property
    def faulty(self) -> int:
        """f, how many of the n are taken to be wrong; see the module's text."""
        n = 1 + len(self.others)
        return min(math.ceil(self.faulty_share * n), (n - 1) // 2)


def clip(received: Received) -> np.ndarray:
    """Gossip in which no neighbour moves the device further than the median one would.

    x_i + sum_j W_ij min(1, tau / |x_j - x_i|) (x_j - x_i), tau = the lower median of |x_j - x_i| over the neighbours.

    Source: He, Karimireddy and Jaggi 2022 (arXiv 2202.01545), ClippedGossip. Departure: their tau needs the variance
    among honest neighbours, which no device knows; the lower median stands for it.

    Args:
        received: What is mixed, at least one neighbour.

    Returns:
        (size,) float64.
    """
    distances = sorted(float(np.linalg.norm(x - received.own)) for x in received.others.values())
    return _shortened(received, distances[(len(distances) - 1) // 2])


def balance(received: Received) -> np.ndarray:
    """Gossip with the neighbours that are nearer to the device than its own length; the others are left out.

    x_i + sum_{j: |x_j - x_i| <= tau} W_ij (x_j - x_i), tau = `BALANCE_RADIUS` |x_i|. What is left out keeps its weight
    with x_i, so that an honest neighbourhood is mixed as by gossip, and one that lies costs no more than its loss.

    Source: Fang et al. 2024 (arXiv 2406.10416), BALANCE, equation 4: a device's own model says what is near enough.
    Departures: the threshold does not shrink from round to round, and weights are W_ij.

    Args:
        received: What is mixed.

    Returns:
        (size,) float64.
    """
    longest = BALANCE_RADIUS * float(np.linalg.norm(received.own))
    near = {s: x for s, x in received.others.items() if float(np.linalg.norm(x - received.own)) <= longest}
    return gossip_mean(received.own, near, received.weights)


def trimmed_mean(received: Received) -> np.ndarray:
    """Entry by entry the mean without the f largest and f smallest of the n values.

    Source: Yin et al. 2018 (arXiv 1803.01498), definition 2. Departure: the device's own values are among the n.

    Args:
        received: What is mixed.

    Returns:
        (size,) float64.
    """
    ordered = np.sort(received.stacked, axis=0)
    return ordered[received.faulty : len(ordered) - received.faulty].mean(axis=0)


def median(received: Received) -> np.ndarray:
    """Entry by entry the median of the n values.

    Source: Yin et al. 2018 (arXiv 1803.01498), definition 1. Departure: the device's own values are among the n.

    Args:
        received: What is mixed.

    Returns:
        (size,) float64.
    """
    return np.median(received.stacked, axis=0)


def krum(received: Received) -> np.ndarray:
    """The one of the n whose max(1, n - f - 2) nearest others are nearest: the least sum of |x_k - x_l|^2.

    Of equals it is the one nearest to the own values; where one other counts, mutually nearest ones are equal.

    Source: Blanchard et al. 2017, "Machine learning with adversaries", section 4. Departures: the device's own values
    are among the n, at least one other counts where n <= f + 2, and no number of a device decides between equals.

    Args:
        received: What is mixed, at least one neighbour.

    Returns:
        (size,) float64.
    """
    rows = received.stacked
    squared = np.array([((rows - row) ** 2).sum(axis=1) for row in rows])
    from_own = squared[0].copy()
    np.fill_diagonal(squared, np.inf)
    near = max(1, len(rows) - received.faulty - 2)
    scores = np.sort(squared, axis=1)[:, :near].sum(axis=1)
    return rows[int(np.argmin(np.where(scores == scores.min(), from_own, np.inf)))]


def _shortened(received: Received, longest: float) -> np.ndarray:
    """Gossip with the differences to neighbours cut to a length."""
    cut: dict[int, np.ndarray] = {}
    for sender, values in received.others.items():
        difference = values - received.own
        length = float(np.linalg.norm(difference))
        cut[sender] = received.own + difference * (longest / length) if length > longest else values
    return gossip_mean(received.own, cut, received.weights)


@final
class RobustGossip(PlainValues):
    """Gossip's messages with another mixing.

    Args:
        rule: Gives the mixed values.
    """

    def __init__(self, rule: Callable[[Received], np.ndarray]) -> None:
        self.rule = rule

    def mix(
        self, kept: PartState, own: np.ndarray, arrived: Mapping[int, Arrival], mixing: Mixing
    ) -> np.ndarray:
        """Mix by the rule, on the entries that are exchanged.

        Args:
            kept: Not used.
            own: (size,) the device's own values.
            arrived: Sender -> its values.
            mixing: Says the weights W_ij, the exchanged entries and the share taken to be wrong.

        Returns:
            (size,) float64; the own values where nothing arrived and on entries that are not exchanged.
        """
        mixed = own.astype(np.float64)
        if not arrived:
            return mixed
        where = slice(None) if mixing.keep is None else mixing.keep
        others = {s: arrived[s].values[where].astype(np.float64) for s in sorted(arrived)}
        mixed[where] = self.rule(Received(mixed[where], others, mixing.own_weights, mixing.faulty_share))
        return mixed


CLIP: Aggregation = RobustGossip(clip)
BALANCE: Aggregation = RobustGossip(balance)
TRIMMED_MEAN: Aggregation = RobustGossip(trimmed_mean)
MEDIAN: Aggregation = RobustGossip(median)
KRUM: Aggregation = RobustGossip(krum)
