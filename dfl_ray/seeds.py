"""Named random streams: every draw of a run is keyed by (seed, stream, round, device), never by order.

Two runs with the same seed make the same draws whatever the placement, packing or number of actors, because no
generator is ever shared between two places (design: `SeedSequence(seed, spawn_key=(stream, round, device))`).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """One number per purpose; never reuse or renumber one, or old runs stop being repeatable."""

    PLACEMENT = 1
    PARTITION = 2
    ROWS = 3
    TOPOLOGY = 4
    BATCHES = 5
    PROJECTION = 6
    INITIAL_FACTORS = 7
    CHANNEL = 8
    SYNTHETIC_TASKS = 9
    EVALUATION_ROWS = 10
    SKETCH_ROWS = 11
    DEVICE_CLASSES = 12
    MOBILITY = 13
    METHOD = 14
    TEST_SPLIT = 15
    FAULTS = 16
    PRIVACY = 17
    CONSENSUS = 18
    WALK = 19
    BASES = 20


def sequence(seed: int, stream: Stream, *key: int) -> np.random.SeedSequence:
    """Seed sequence of one stream; `key` is usually (round, device).

    Args:
        seed: The run's seed, >= 0.
        stream: What the draws are for.
        key: Further integers >= 0 that tell this place from all others, e.g. round and device index.
    """
    return np.random.SeedSequence(entropy=seed, spawn_key=(int(stream), *key))


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """NumPy generator (PCG64) of one stream; see `sequence`."""
    return np.random.Generator(np.random.PCG64(sequence(seed, stream, *key)))


def integer(seed: int, stream: Stream, *key: int) -> int:
    """One 63-bit seed for a library that takes an integer; see `sequence`."""
    return int(sequence(seed, stream, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))
