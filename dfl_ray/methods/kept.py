"""Which entries of an adapter a message keeps: the largest of all together, those of each factor, or some at random.

Nothing here imports torch, since traffic laws count by it.
"""

from __future__ import annotations

import numpy as np

from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import kept_entries


def kept_of_each(share: float, layout: Layout) -> int:
    """Entries of an adapter of which each factor of each layer keeps its share."""
    return sum(kept_entries(share, s.stop - s.start) for s in layout.segments)


def largest(values: np.ndarray, share: float) -> np.ndarray:
    """Mark the largest entries by absolute value, `kept_entries` of them, the first of equal ones.

    Args:
        values: (size,).
        share: In (0, 1].

    Returns:
        (size,) bool.
    """
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-np.abs(values), kind="stable")[: kept_entries(share, len(values))]] = True
    return mask


def largest_of_each(values: np.ndarray, share: float, layout: Layout) -> np.ndarray:
    """Mark the largest entries of each factor of each layer, as `largest` does.

    Args:
        values: (size,) of one adapter.
        share: In (0, 1], of every factor.
        layout: Where the factors lie.

    Returns:
        (size,) bool, `kept_of_each` of them True.
    """
    return np.concatenate([largest(values[s.start : s.stop], share) for s in layout.segments])


def drawn(places: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mark `kept_entries` of the entries in question, drawn without putting back.

    Args:
        places: (size,) bool, the entries in question.
        share: In (0, 1], of these.
        rng: The stream.

    Returns:
        (size,) bool.
    """
    chosen = np.flatnonzero(places)
    mask = np.zeros(len(places), bool)
    mask[rng.choice(chosen, kept_entries(share, len(chosen)), replace=False)] = True
    return mask
