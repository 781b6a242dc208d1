"""Power control."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray


def foschini_miljanic(
    gains: ArrayLike,
    noise_w: ArrayLike,
    sinr_min: ArrayLike,
    max_power_w: ArrayLike,
    *,
    iterations: int = 200,
    group: ArrayLike | None = None,
) -> FloatArray:
    """Lowest powers that keep every link's SINR: p <- min(p_max, p·beta/SINR).

    From p = p_max the powers fall monotonically to the least fixed point; a set that cannot be served
    keeps its hopeless links at full power.

    Args:
        gains: (links, links) linear gains, gains[i, j] from transmitter i to receiver j.
        noise_w: Noise power in W, scalar or (links,), > 0.
        sinr_min: Target linear SINR beta, scalar or (links,).
        max_power_w: Power limit in W, scalar or (links,).
        iterations: Most steps taken; it stops earlier once powers change by less than 1e-12.
        group: (links,) transmission each link belongs to: links of one transmission have the same transmitter
            and one power, the largest any of them needs, and do not interfere with one another. None gives
            each link its own.

    Returns:
        (links,) powers in W. Where the targets are feasible every link's SINR is at least beta, to the
        relative accuracy of the last step.

    Source:
        Foschini and Miljanic, IEEE Trans. Veh. Tech. 42(4), 1993; bounded form: Yates, IEEE JSAC 13(7), 1995.
    """
    gain = np.asarray(gains, dtype=np.float64)
    own = np.diagonal(gain)
    cross = gain.copy()
    together = np.arange(own.shape[0], dtype=np.int64) if group is None else np.asarray(group, dtype=np.int64)
    same = together[:, None] == together
    cross[same] = 0.0
    # The power of a transmission counts once, at its first link.
    first = np.unique(together, return_index=True)[1]
    silent = np.ones(own.shape[0], dtype=bool)
    silent[first] = False
    cross[silent] = 0.0
    target, limit, noise = np.asarray(sinr_min), np.asarray(max_power_w), np.asarray(noise_w)
    power = np.broadcast_to(limit, own.shape).astype(np.float64).copy()
    for _ in range(iterations):
        single = np.minimum(limit, target * (power @ cross + noise) / own)
        largest = np.zeros(first.shape[0])
        np.maximum.at(largest, together, single)
        wanted = largest[together]
        done = np.allclose(wanted, power, rtol=1e-12, atol=0.0)
        power = wanted
        if done:
            break
    return power
