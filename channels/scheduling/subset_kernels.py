"""Compiled dynamic programming over subsets. Import only inside functions: this imports numba."""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel


@kernel
def least_total(times_s):
    """Least total of a partition of all elements, by dynamic programming over subsets (see `exact.shortest_span`)."""
    best = np.full(times_s.shape[0], math.inf)
    best[0] = 0.0
    for whole in range(1, times_s.shape[0]):
        first = whole & -whole
        rest = whole ^ first
        part = rest
        best[whole] = times_s[whole]
        # Runs over all subsets of the other elements.
        while True:
            best[whole] = min(best[whole], times_s[part | first] + best[rest ^ part])
            if part == 0:
                break
            part = (part - 1) & rest
    return best[-1]
