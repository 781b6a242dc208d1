"""Compiled keyed draws: hashes, uniforms and normals. Import only inside functions: this imports numba.

They define what every seed draws and never change, so that other files of compiled loops may call them (see
`channels.kernels`).
"""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S12, _S27, _S30, _S31 = np.uint64(12), np.uint64(27), np.uint64(30), np.uint64(31)
_TWO_M52 = 2.0**-52


@kernel
def mix(word):
    """SplitMix64's finaliser (see `channels.draws.mix`)."""
    z = word + _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return z ^ (z >> _S31)


@kernel
def pair_word(key, first, second):
    """Symmetric hash of a key and a pair (see `channels.draws.pair_words`)."""
    low, high = np.uint64(min(first, second)), np.uint64(max(first, second))
    return mix(mix(key ^ low) ^ high)


@kernel
def uniform(word):
    """Uniform in (0, 1) from a uint64 word (see `channels.draws.words_to_uniform`)."""
    return (np.float64(word >> _S12) + 0.5) * _TWO_M52


# Wichura's coefficients, highest power first: centre, middle, tail; numerators and denominators.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_MIDDLE = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


@kernel
def _ratio(coefficients, r):
    above, below = coefficients[0][0], coefficients[1][0]
    for k in range(1, 8):
        above = above * r + coefficients[0][k]
        below = below * r + coefficients[1][k]
    return above / below


@kernel
def normal(word):
    """Standard normal from a uint64 word: the inverse CDF of its uniform, relative error 1e-16.

    Source:
        Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37 (1988).
    """
    q = uniform(word) - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(_CENTRE, 0.180625 - q * q)
    r = math.sqrt(-math.log(0.5 - abs(q)))
    value = _ratio(_MIDDLE, r - 1.6) if r <= 5.0 else _ratio(_TAIL, r - 5.0)
    return math.copysign(value, q)
