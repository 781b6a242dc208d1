"""5G NR: modulation and coding schemes, resource blocks, transport blocks, and the rates that follow.

A slot of n resource blocks carries a transport block whose size follows from the scheme (TS 38.214, clause 5.1.3.2).
A sub-channel's rate is that size over the slot's length. A scheme's SINR is that at which a code with its modulation
order and code rate, Q·R bit a resource element, is decoded: gap·(2^(Q·R) - 1).

Departures: each block has 14 symbols less 12 resource elements of DM-RS (one symbol) and no other overhead, unless
`nr_overhead` is `sidelink`; one layer; transmissions last as long as their bits need, and not whole slots.

Source:
    3GPP TS 38.214 V16.2.0, tables 5.1.3.1-1 to -3 and clause 5.1.3.2 with table 5.1.3.2-1.
    3GPP TS 38.101-1 and TS 38.101-2, Release 17, tables 5.3.2-1 (transmission bandwidth).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from channels.link import Modes

MCS_TABLES: dict[str, tuple[tuple[int, tuple[float, ...]], ...]] = {
    "qam64": (
        (2, (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
        (4, (340, 378, 434, 490, 553, 616, 658)),
        (6, (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    ),
    "qam256": (
        (2, (120, 193, 308, 449, 602)),
        (4, (378, 434, 490, 553, 616, 658)),
        (6, (466, 517, 567, 616, 666, 719, 772, 822, 873)),
        (8, (682.5, 711, 754, 797, 841, 885, 916.5, 948)),
    ),
    "low_efficiency": (
        (2, (30, 40, 50, 64, 78, 99, 120, 157, 193, 251, 308, 379, 449, 526, 602)),
        (4, (340, 378, 434, 490, 553, 616)),
        (6, (438, 466, 517, 567, 616, 666, 719, 772)),
    ),
}
"""Name -> for each modulation order its code rates times 1024, in the order of the MCS index."""

TRANSPORT_BLOCKS: tuple[int, ...] = (
    *range(24, 193, 8), *range(208, 385, 16), *range(408, 577, 24), *range(608, 769, 32), 808, 848, 888, 928, 984, 1032,
    1064, 1128, *range(1160, 1353, 32), *range(1416, 1929, 64), *range(2024, 2281, 64), *range(2408, 2857, 64), 2976,
    3104, 3240, 3368, 3496, 3624, 3752, 3824,
)  # fmt: skip
"""Sizes in bits up to 3824 (TS 38.214 table 5.1.3.2-1)."""

RESOURCE_BLOCKS: dict[tuple[float, float], int] = {
    (spacing_khz * 1e3, band_mhz * 1e6): blocks
    for spacing_khz, row in {
        15: {5: 25, 10: 52, 15: 79, 20: 106, 25: 133, 30: 160, 35: 188, 40: 216, 45: 242, 50: 270},
        30: {5: 11, 10: 24, 15: 38, 20: 51, 25: 65, 30: 78, 35: 92, 40: 106, 45: 119, 50: 133, 60: 162, 70: 189,
             80: 217, 90: 245, 100: 273},
        60: {10: 11, 15: 18, 20: 24, 25: 31, 30: 38, 35: 44, 40: 51, 45: 58, 50: 65, 60: 79, 70: 93, 80: 107, 90: 121,
             100: 135},
    }.items()
    for band_mhz, blocks in row.items()
}  # fmt: skip
"""(sub-carrier spacing, bandwidth) in Hz -> resource blocks below 24.25 GHz (TS 38.101-1)."""

HIGH_RESOURCE_BLOCKS: dict[tuple[float, float], int] = {
    (spacing_khz * 1e3, band_mhz * 1e6): blocks
    for spacing_khz, row in {
        60: {50: 66, 100: 132, 200: 264},
        120: {50: 32, 100: 66, 200: 132, 400: 264},
    }.items()
    for band_mhz, blocks in row.items()
}
"""The same from 24.25 GHz on, in frequency range 2 (TS 38.101-2)."""

HIGH_HZ = 24.25e9
"""Carrier from which on frequency range 2 counts."""

OVERHEADS: tuple[str, ...] = ("pilots", "sidelink")
FEEDBACK_SLOTS: tuple[int, ...] = (0, 1, 2, 4)

_DATA_ELEMENTS = 12 * 14 - 12
_CONTROL_BLOCKS = 10


def schemes(table: str) -> tuple[tuple[int, float], ...]:
    """Modulation order Q and code rate R of every MCS index of a table.

    Args:
        table: A name in `MCS_TABLES`.

    Returns:
        (Q, R), R in (0, 1).
    """
    return tuple((order, rate / 1024) for order, rates in MCS_TABLES[table] for rate in rates)


def transport_block_bits(elements: int, order: int, code_rate: float, layers: int = 1) -> int:
    """Size of a transport block.

    Args:
        elements: Resource elements N_RE of the allocation.
        order: Modulation order Q.
        code_rate: Code rate R in (0, 1).
        layers: Number of layers.

    Returns:
        Bits, a multiple of 8.

    Source:
        3GPP TS 38.214 V16.2.0, clause 5.1.3.2, steps 2 to 4.
    """
    wanted = elements * code_rate * order * layers
    if wanted <= 3824:
        unit = 2 ** max(3, math.floor(math.log2(wanted)) - 6)
        least = max(24, unit * math.floor(wanted / unit))
        return next(size for size in TRANSPORT_BLOCKS if size >= least)
    unit = 2 ** (math.floor(math.log2(wanted - 24)) - 5)
    # The clause's round() takes halves up.
    near = max(3840, unit * math.floor((wanted - 24) / unit + 0.5))
    longest = 3816 if code_rate <= 0.25 else 8424
    blocks = math.ceil((near + 24) / longest) if code_rate <= 0.25 or near > 8424 else 1
    return 8 * blocks * math.ceil((near + 24) / (8 * blocks)) - 24


def sidelink_overhead(blocks: int, code_rate: float, spacing_hz: float, feedback_slots: int) -> float:
    """Resource elements of a sidelink slot that carry no data.

    PSCCH (10 blocks, 2 symbols: 240), second-stage control ceil((35 + 24)·1.125/(2·R)), DM-RS (2 symbols, every other
    sub-carrier: 12 a block), the symbols for AGC and for the guard (12 a block each), the synchronisation block (a slot
    in 160 ms, spread over the slots), and PSFCH (3 symbols in every `feedback_slots`-th slot, spread likewise).

    Args:
        blocks: Resource blocks n of the slot, >= 10.
        code_rate: Code rate R of the data, in (0, 1).
        spacing_hz: Sub-carrier spacing in Hz.
        feedback_slots: Period of the feedback channel in slots: 1, 2, 4, or 0 for none.

    Returns:
        Elements in the mean slot, of 168·n.

    Source:
        3GPP TS 38.211 clause 8.3, TS 38.212 clause 8.4 and TS 38.214 clause 8, by way of NIST's 5G NR sidelink capacity
        estimator (2,202.6 elements at 52 blocks, 15 kHz, R = 948/1024 and no feedback).
    """
    second_stage = math.ceil((35 + 24) * 1.125 / (2 * code_rate))
    synchronisation = 168 * blocks * (15e3 / spacing_hz) / 160
    feedback = 36 * blocks / feedback_slots if feedback_slots else 0.0
    return 240 + second_stage + (12 + 12 + 12) * blocks + synchronisation + feedback


def _resource_blocks(bandwidth_hz: float, subchannels: int, spacing_hz: float, carrier_hz: float) -> int:
    """Resource blocks of a sub-channel; refuses what the standard does not have (see `nr_modes`)."""
    high = carrier_hz >= HIGH_HZ
    table = HIGH_RESOURCE_BLOCKS if high else RESOURCE_BLOCKS
    found = table.get((float(spacing_hz), float(bandwidth_hz)))
    if found is None or found < subchannels:
        known = [f"{b / 1e6:g}" for s, b in table if s == spacing_hz]
        spacings = ", ".join(f"{s / 1e3:g}" for s in sorted({s for s, _ in table}))
        where = "from 24.25 GHz on (TS 38.101-2)" if high else "below 24.25 GHz (TS 38.101-1)"
        wanted = f"{', '.join(known)} MHz at this spacing" if known else f"a spacing of {spacings} kHz"
        raise ValueError(
            f"rate is 'nr' with bandwidth_hz {bandwidth_hz:g}, nr_spacing_hz {spacing_hz:g}, carrier_hz {carrier_hz:g}"
            f" and {subchannels} subchannels; expected {wanted} {where} and no more subchannels than resource blocks"
        )
    return found // subchannels


@lru_cache(maxsize=16)
def nr_modes(
    table: str,
    bandwidth_hz: float,
    subchannels: int,
    spacing_hz: float,
    gap_db: float,
    overhead: str = "pilots",
    feedback_slots: int = 0,
    carrier_hz: float = 2e9,
) -> Modes:
    """The schemes of a table as modes of a sub-channel; those that another one beats in rate and SINR are left out.

    Args:
        table: A name in `MCS_TABLES`.
        bandwidth_hz: Bandwidth of the whole band in Hz.
        subchannels: Parts that its resource blocks are dealt to, in equal numbers; what is left over is unused.
        spacing_hz: Sub-carrier spacing in Hz.
        gap_db: SNR gap in dB.
        overhead: pilots (12 elements of DM-RS a block) or sidelink (`sidelink_overhead`).
        feedback_slots: Period of the sidelink's feedback channel in slots, 0 for none.
        carrier_hz: Carrier in Hz; from 24.25 GHz on the resource blocks are those of TS 38.101-2, below of TS 38.101-1.

    Returns:
        Thresholds, rates over a sub-channel's bandwidth, and bit a resource element.

    Raises:
        ValueError: The standard has no such bandwidth at this spacing, or fewer resource blocks than sub-channels; or
            a sub-channel has no room for the sidelink's control channel.
    """
    blocks, slot_s = _resource_blocks(bandwidth_hz, subchannels, spacing_hz, carrier_hz), 15.0 / spacing_hz
    if overhead == "sidelink" and blocks < _CONTROL_BLOCKS:
        raise ValueError(
            f"nr_overhead is 'sidelink' with {blocks} resource blocks a sub-channel; expected at least"
            f" {_CONTROL_BLOCKS}, which its control channel takes: set fewer subchannels or a wider band"
        )
    elements = _DATA_ELEMENTS * blocks
    rows: list[tuple[float, float, float]] = []
    for order, code_rate in schemes(table):
        carried = order * code_rate
        if overhead == "sidelink":
            elements = int(168 * blocks - sidelink_overhead(blocks, code_rate, spacing_hz, feedback_slots))
        bits = transport_block_bits(elements, order, code_rate)
        needed_db = gap_db + 10 * math.log10(math.expm1(carried * math.log(2.0)))
        rows.append((needed_db, bits / slot_s / (bandwidth_hz / subchannels), carried))
    kept = [row for row in rows if not any(r[0] <= row[0] and r[1] >= row[1] and r != row for r in rows)]
    columns = np.array(sorted(set(kept))).T.tolist()
    return Modes(*(tuple(column) for column in columns))
