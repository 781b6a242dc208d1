"""Random fields over pairs of places: shadowing of links, and whether their ends are in sight of one another.

A field assigns every pair of places (a, b) a value with correlation

    corr(S(a, b), S(a', b')) = exp(-(|a - a'| + |b - b'|)/d_corr),        S(a, b) = S(b, a),

so that devices that stand together see a third alike, and a device that walks away and comes back finds what
it left. Nothing is stored: a value is computed from the two places alone, in constant time, for any number of
devices.

Construction: random lines cut the plane into cells such that the number of lines between two places r apart is
Poisson with mean r/d_corr; no line is between them with chance exp(-r/d_corr). A hash of the unordered pair of
cells is the value, so two pairs have one value iff no line parts a from a' nor b from b', and independent ones
otherwise. The mean over `TESSELLATIONS` independent sets of lines makes the value nearly normal and its steps
small. The lines of a set have `DIRECTIONS` directions, equally spaced from a random one, and Poisson places along
each; their mean over the random direction is isotropic.

Departure: a line that parts both ends at once is counted once, which makes the correlation of a link shorter than
its shift slightly larger than the law.

Source:
    Wang, Tameh and Nix, Joint Shadowing Process in Urban Peer-to-Peer Radio Channels, IEEE Trans. Veh. Technol.
    57(1) (2008), 52-64, for the law over both ends (its decorrelation distance is that of correlation 1/2; here, as in
    3GPP's reports, of 1/e); Miles, Random polygons determined by random lines in a plane,
    PNAS 52 (1964), for the cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from channels.arrays import FloatArray, KeyArray
from channels.cells import cell_words
from channels.draws import stream_key
from channels.largescale import LargeScale
from channels.surroundings import LocalGains, no_local_gains

TESSELLATIONS = 8


@dataclass(frozen=True)
class Sites:
    """Where the devices are, as the compiled loops take it.

    Attributes:
        x_m: (N,) positions in m.
        y_m: (N,) positions in m.
        words: (N, 2·TESSELLATIONS + 1) hashes of the cells each device is in: of shadowing in sight, of shadowing
            out of sight, and of the line of sight.
        local: What surrounds each device takes (see `channels.surroundings`).
    """

    x_m: FloatArray
    y_m: FloatArray
    words: KeyArray
    local: LocalGains = field(default_factory=no_local_gains)

    @property
    def positions_m(self) -> FloatArray:
        """(N, 2) positions in m, a copy."""
        return np.column_stack([self.x_m, self.y_m])


def build_sites(scale: LargeScale, positions_m: FloatArray, devices: int | None = None) -> Sites:
    """Find the cells of devices.

    Args:
        scale: The tabulated model; it holds the decorrelation distances and the seed.
        positions_m: (N, 2) positions in m.
        devices: How many of them, from the first on, are devices of the run and not transmitters from outside; None for
            all.

    Returns:
        The sites. A device's words depend on its position and the seed alone.
    """
    los_m, nlos_m, state_m = (float(value) for value in scale.numbers[4:7])
    lengths_m = [los_m] * TESSELLATIONS + [nlos_m] * TESSELLATIONS + [state_m]
    drawn = scale.numbers[[2, 3]] > 0
    wanted = [bool(drawn[0])] * TESSELLATIONS + [bool(drawn[1])] * TESSELLATIONS + [scale.numbers[7] == 0]
    x, y = (np.ascontiguousarray(axis) for axis in positions_m.T)
    words = np.zeros((x.shape[0], len(lengths_m)), dtype=np.uint64)
    for number, length_m in enumerate(lengths_m):
        if wanted[number]:
            words[:, number] = cell_words(stream_key(scale.seed, "cells", number), x, y, length_m)
    if scale.around is None:
        return Sites(x, y, words)
    return Sites(x, y, words, scale.around.local_gains(x, y, devices))
