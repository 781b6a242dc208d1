"""Walls: what buildings and cars take from devices inside.

A share of the places is inside. Buildings are the cells of random lines (see `channels.cells`), two places r apart in
one with chance exp(-r/`building_m`), so that devices that stand together are both inside or both outside, and no wall
is between devices in one building; a car is a device's own. The loss of a device inside is

    PL_tw + PL_in + N(0, sigma²),    PL_in = 0.5·d_in,    d_in the smaller of two uniforms from 0 to 25 m,

and counts at each end of a link. Wall losses mix materials at the carrier f in GHz: glass 2 + 0.2·f, IRR glass
23 + 0.3·f and concrete 5 + 4·f dB; low loss 5 - 10·lg(0.3·10^(-glass/10) + 0.7·10^(-concrete/10)), sigma 4.4 dB; high
loss 5 - 10·lg(0.7·10^(-IRR glass/10) + 0.3·10^(-concrete/10)), sigma 6.5 dB. Cars: N(9, 5²) dB, with metallised
windows N(20, 5²) dB.

Departures: no loss is below 0 dB (the normal part alone may be, in 1 of 300 devices at 2 GHz); two devices in two
buildings have both losses, which the clause, one end of whose links is outdoors, does not speak of.

Source:
    3GPP TR 38.901 V16.1.0, clause 7.4.3.1 (tables 7.4.3-1 and 7.4.3-2) and clause 7.4.3.2; 0.8 indoors: table 7.2-1.
    Material losses were checked against a public implementation; sigma and the losses of cars are from memory.
"""

from __future__ import annotations

import math

import numpy as np

from channels.arrays import FloatArray, IntArray, KeyArray
from channels.checks import require_range
from channels.draws import keyed_normal, keyed_uniform, stream_key
from channels.heights import inside_buildings

WALLS: tuple[str, ...] = ("none", "low_loss", "high_loss", "car", "metallised_car")
"""Names of what devices may be inside of."""

DEEPEST_M = 25.0
_CARS = {"car": 9.0, "metallised_car": 20.0}
_SIGMA_DB = {"low_loss": 4.4, "high_loss": 6.5, "car": 5.0, "metallised_car": 5.0}


def wall_db(kind: str, carrier_hz: float) -> float:
    """Mean loss of the outer wall (PL_tw), or of a car.

    Args:
        kind: One of `WALLS` but none.
        carrier_hz: Carrier in Hz, up to 1e12.

    Returns:
        Loss in dB: at 2 GHz 11.9 (low) and 26.1 (high loss), at 28 GHz 17.8 and 37.9.

    Raises:
        ValueError: If so much is lost at the carrier that nothing is left to be computed with.
    """
    require_range("carrier_hz", carrier_hz, 0.0, 1e12)
    if kind in _CARS:
        return _CARS[kind]
    ghz = carrier_hz / 1e9
    concrete = 10 ** (-(5 + 4 * ghz) / 10)
    if kind == "low_loss":
        return 5 - 10 * math.log10(0.3 * 10 ** (-(2 + 0.2 * ghz) / 10) + 0.7 * concrete)
    return 5 - 10 * math.log10(0.7 * 10 ** (-(23 + 0.3 * ghz) / 10) + 0.3 * concrete)


def wall_losses_db(
    kind: str, carrier_hz: float, share: float, building: KeyArray, *, seed: int
) -> tuple[FloatArray, KeyArray]:
    """Losses of devices, and what each is inside of.

    Args:
        kind: One of `WALLS` but none.
        carrier_hz: Carrier in Hz.
        share: Share of buildings, or cars, among places, in [0, 1].
        building: (N,) hash of the cell each device is in.
        seed: The experiment's seed.

    Returns:
        (N,) loss in dB, >= 0, 0 outside; and (N,) words, equal where devices are in one building or both outside.
    """
    device: IntArray = np.arange(building.shape[0], dtype=np.int64)
    cell = (device + 1).astype(np.uint64) if kind in _CARS else building

    def drawn(name: str, first: IntArray) -> FloatArray:
        return keyed_uniform(stream_key(seed, f"wall-{name}"), first, cell, ordered=True)

    inside = inside_buildings(share, cell, seed=seed)
    depth_m = DEEPEST_M * np.minimum(drawn("depth", device), drawn("other depth", device))
    spread = keyed_normal(stream_key(seed, "wall-spread"), device, cell, ordered=True)
    inner_db = 0.0 if kind in _CARS else 0.5 * depth_m
    loss_db = wall_db(kind, carrier_hz) + inner_db + _SIGMA_DB[kind] * spread
    return np.where(inside, np.maximum(loss_db, 0.0), 0.0), np.where(inside, cell, np.uint64(0))
