"""Cells between random lines: which places stand together, by a hash of the cell that each is in.

The number of lines between two places r apart is Poisson with mean r over a length, so that they share their cell with
chance exp(-r/length). See `channels.shadowing` for the construction and its source.
"""

from __future__ import annotations

import math

import numpy as np

from channels.arrays import FloatArray, KeyArray
from channels.draws import mix, words_to_uniform

DIRECTIONS = 6
# Chance that a unit of a line's axis holds at most 0, 1, 2, ... lines: Poisson with mean 1.
_COUNTS: FloatArray = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(15)] + [1.0])


def cell_words(key: int, x_m: FloatArray, y_m: FloatArray, length_m: float) -> KeyArray:
    """Hash of the cell of each place, for one set of lines.

    Args:
        key: A `stream_key`; it draws the lines.
        x_m: (places,) positions in m.
        y_m: (places,) positions in m.
        length_m: Distance over which places share their cell with chance 1/e, in m.

    Returns:
        (places,) hashes; equal iff no line is between the places.
    """
    from channels import cell_kernels

    turn = float(words_to_uniform(np.asarray([key], dtype=np.uint64))[0])
    angle = (np.arange(DIRECTIONS) + turn) * (math.pi / DIRECTIONS)
    # The mean of |cos| is 2/pi, so DIRECTIONS sets of this rate have r/length_m lines over a distance r.
    rate = math.pi / (2 * DIRECTIONS * length_m)
    with np.errstate(over="ignore"):
        keys = mix(np.uint64(key) + np.arange(1, DIRECTIONS + 1, dtype=np.uint64))
    axes = np.stack([np.cos(angle), np.sin(angle)]) * rate
    return cell_kernels.cell_words(x_m, y_m, axes, keys, _COUNTS)
