"""The order in which transfers are looked at: by what they are, never by where they stand in the input."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray, KeyArray
from channels.draws import keyed_uniform, mix, pair_words
from channels.transfers import Transfers


def canonical_order(
    wanted: Transfers, waited: IntArray, key: int, first: FloatArray | None = None
) -> IntArray:
    """Order transfers by the rounds their link has gone unserved, then by a keyed draw of their link.

    Two inputs that hold the same transfers in different orders give the same sequence of transfers, so no
    schedule depends on the order of its input. The key changes with the round, so no link is always last.

    Args:
        wanted: The transfers.
        waited: (M,) rounds in a row in which the transfer's link was wanted and not served.
        key: A `stream_key` of the round.
        first: (M,) what goes before all that, the least first; None for nothing.

    Returns:
        (M,) index of the transfer at each place.
    """
    draw = keyed_uniform(key, wanted.source, wanted.destination, ordered=True)
    hops = wanted.hops_before()
    columns = (
        _ways(wanted, int(hops.max(initial=0))),
        wanted.message,
        hops,
        wanted.payload_bytes,
        draw,
        -waited,
    )
    return np.lexsort(columns if first is None else (*columns, first)).astype(np.int64)


def remaining_s(wanted: Transfers, alone_s: FloatArray, unit: IntArray) -> FloatArray:
    """Time that each transmission and all that waits for it still takes: what `priority: deadline` goes by.

    One transmission at a time, all ready and of known length, the shortest first serve the most by any common deadline.

    Args:
        wanted: The transfers.
        alone_s: (M,) expected time of each with the band for itself, in s.
        unit: (M,) transmission that serves each; it takes as long as its slowest transfer.

    Returns:
        (M,) seconds.

    Source:
        Moore, An n Job, One Machine Sequencing Algorithm for Minimizing the Number of Late Jobs (1968), for one due
        date.
    """
    left = np.zeros(int(unit.max(initial=-1)) + 1)
    np.maximum.at(left, unit, alone_s)
    remaining = left[unit]
    for one in np.argsort(-wanted.hops_before(), kind="stable") if np.any(wanted.after >= 0) else ():
        before = wanted.after[one]
        if before >= 0:
            remaining[before] = max(remaining[before], left[unit[before]] + remaining[one])
    return remaining


def _ways(wanted: Transfers, most_hops: int) -> KeyArray:
    """(M,) hash of each transfer, all that it forwards, and all that forwards it: tells alike hops apart."""
    own = pair_words(0, wanted.source, wanted.destination, ordered=True)
    later = np.flatnonzero(wanted.after >= 0)
    before = wanted.after[later]
    with np.errstate(over="ignore"):
        own = mix(mix(own ^ mix(wanted.message.astype(np.uint64))) ^ wanted.payload_bytes.astype(np.uint64))
        onward = own
        for _ in range(most_hops):
            added = np.zeros_like(own)
            np.add.at(added, before, mix(onward[later]))
            onward = mix(own + added)
        ways = onward.copy()
        for _ in range(most_hops):
            ways[later] = mix(onward[later] ^ mix(ways[before]))
    return ways
