"""`line`: devices in a row, evenly spaced."""

import numpy as np


def line(count: int, *, area_m: tuple[float, float], rng: np.random.Generator, at: float = 0.5) -> np.ndarray:
    """Devices along the area's width.

    Args:
        count: Number of devices.
        area_m: Width and height, metres.
        rng: Not used.
        at: Height of the row as a share of the area's.
    """
    return np.stack([(np.arange(count) + 0.5) / count * area_m[0], np.full(count, at * area_m[1])], axis=1)
