"""Counter-based random numbers: every draw is a hash of what it is for.

A draw depends on its key (seed, stream, and where it applies round and slot) and on the pair of
devices, never on who asks first or how many others ask. The hash is SplitMix64's finaliser, folded
over the words; normals are the inverse normal CDF of a 52-bit uniform. `channels.kernels` compiles
the same functions; both give the same bits for uniforms.

Source:
    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014); Salmon et al.,
    Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011) for the idea of a keyed counter.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray, KeyArray

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _mix_int(word: int) -> int:
    word = (word + GOLDEN) & _MASK
    word = ((word ^ (word >> 30)) * FIRST) & _MASK
    word = ((word ^ (word >> 27)) * SECOND) & _MASK
    return word ^ (word >> 31)


def mix(words: KeyArray) -> KeyArray:
    """SplitMix64's finaliser: a bijection of 64-bit words that spreads every bit over all.

    Args:
        words: uint64, any shape.

    Returns:
        uint64, in the shape of `words`.

    Source:
        Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014).
    """
    z = words + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=256)
def _name_word(stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")


def stream_key(seed: int, stream: str, *counters: int) -> int:
    """Key of one random stream.

    Args:
        seed: The experiment's seed, any integer.
        stream: Name of what is drawn ("shadowing", "fading", ...).
        *counters: Further words, such as round and slot.

    Returns:
        A 64-bit key.
    """
    key = _name_word(stream)
    for word in (seed, *counters):
        key = _mix_int(key ^ _mix_int(word & _MASK))
    return key


def pair_words(key: int, first: ArrayLike, second: ArrayLike, *, ordered: bool = False) -> KeyArray:
    """Hash of a key and a pair of devices; symmetric in the pair unless `ordered`.

    Args:
        key: A `stream_key`.
        first: Device indices, any shape.
        second: Device indices; broadcasts.
        ordered: Whether (i, j) and (j, i) get different words.

    Returns:
        64-bit words in the broadcast shape.
    """
    a, b = np.broadcast_arrays(np.asarray(first, dtype=np.uint64), np.asarray(second, dtype=np.uint64))
    low, high = (a, b) if ordered else (np.minimum(a, b), np.maximum(a, b))
    with np.errstate(over="ignore"):
        return mix(mix(np.uint64(key) ^ low) ^ high)


def words_to_uniform(words: KeyArray) -> FloatArray:
    """Uniforms strictly inside (0, 1): (top 52 bits + 1/2)·2^-52, exact in a double.

    Args:
        words: uint64 hashes, any shape.

    Returns:
        Uniforms in the shape of `words`, from 2^-53 to 1 - 2^-53.
    """
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def keyed_uniform(key: int, first: ArrayLike, second: ArrayLike, *, ordered: bool = False) -> FloatArray:
    """Uniform of each pair of devices under a key.

    Args:
        key: A `stream_key`.
        first: Device indices, >= 0, any shape.
        second: Device indices, >= 0; broadcasts.
        ordered: Whether (i, j) and (j, i) get different values.

    Returns:
        Uniforms in (0, 1), in the broadcast shape.
    """
    return words_to_uniform(pair_words(key, first, second, ordered=ordered))


def keyed_normal(key: int, first: ArrayLike, second: ArrayLike, *, ordered: bool = False) -> FloatArray:
    """Standard normal of each pair of devices under a key: the inverse normal CDF of `keyed_uniform`.

    Args:
        key: A `stream_key`.
        first: Device indices, >= 0, any shape.
        second: Device indices, >= 0; broadcasts.
        ordered: Whether (i, j) and (j, i) get different values.

    Returns:
        Normals of mean 0 and variance 1, in the broadcast shape, within ±8.3.
    """
    from scipy.special import ndtri

    return np.asarray(ndtri(keyed_uniform(key, first, second, ordered=ordered)))
