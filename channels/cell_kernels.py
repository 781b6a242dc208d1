"""Compiled loops over places: the cells between random lines. Import only inside functions: it imports numba."""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel
from channels.draw_kernels import mix, uniform


@kernel
def _lines(word, counts):
    """Number of lines in a unit: the quantile of its hash under the distribution function `counts`."""
    drawn, number = uniform(word), 0
    while counts[number] < drawn:
        number += 1
    return number


@kernel
def cell_words(x_m, y_m, axes, keys, counts):
    """Hash (places,) of the cell of each place between random lines (see `channels.shadowing`).

    `axes` (2, directions) turns positions into places along each direction, at one line a unit; `keys`
    (directions,) draws the lines. A unit's number of lines and their places are hashes of the unit, so that the
    last line at or below a place is found without a list.
    """
    out = np.zeros(x_m.shape[0], np.uint64)
    for p in range(x_m.shape[0]):
        for k in range(keys.shape[0]):
            place = x_m[p] * axes[0, k] + y_m[p] * axes[1, k]
            unit = math.floor(place)
            word = mix(keys[k] ^ np.uint64(np.int64(unit)))
            below = 0
            for number in range(_lines(word, counts)):
                below += uniform(mix(word + np.uint64(number + 1))) <= place - unit
            while below == 0:
                unit -= 1
                word = mix(keys[k] ^ np.uint64(np.int64(unit)))
                below = _lines(word, counts)
            out[p] = mix(out[p] ^ mix(word ^ mix(np.uint64(below))))
    return out
