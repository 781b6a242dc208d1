"""Transport blocks worked by hand from TS 38.214, clause 5.1.3.2, and rounds at NR's rates."""

import math

import numpy as np
import pytest

from channels.blocklength import error_probability
from channels.channel import Channel
from channels.nr import (
    HIGH_RESOURCE_BLOCKS,
    MCS_TABLES,
    RESOURCE_BLOCKS,
    TRANSPORT_BLOCKS,
    nr_modes,
    schemes,
    sidelink_overhead,
    transport_block_bits,
)
from channels.rounds import settings_law
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    ("blocks", "order", "rate", "bits"),
    [
        # 914.06 bits; units of 2^3 give 912; the table's next size.
        (25, 2, 120, 928),
        # 21663.28; units of 2^9: 42 of them, 21504; three code blocks of 897 bytes less the CRC.
        (25, 6, 948, 21504),
        # 5179.7; units of 2^7: 40; one code block.
        (25, 4, 340, 5120),
        # 8106.6 at a code rate below 1/4; units of 2^7: 63; three code blocks of at most 3816 bits.
        (106, 2, 251, 8064),
        # 36.56; units of 2^3: 32.
        (1, 2, 120, 32),
        # 1155.4; units of 2^4: 1152; the table has 1160.
        (1, 8, 948, 1160),
    ],
)
def test_transport_blocks_worked_by_hand(blocks, order, rate, bits):
    assert transport_block_bits(156 * blocks, order, rate / 1024) == bits


def test_tables_end_where_the_standard_says():
    found = {name: [order * rate for order, rate in schemes(name)] for name in MCS_TABLES}
    assert [len(found[n]) for n in ("qam64", "qam256", "low_efficiency")] == [29, 28, 29]
    ends = {"qam64": (0.2344, 5.5547), "qam256": (0.2344, 7.4063), "low_efficiency": (0.0586, 4.5234)}
    for name, (low, high) in ends.items():
        assert found[name][0] == pytest.approx(low, abs=6e-5) and found[name][-1] == pytest.approx(
            high, abs=6e-5
        )
    assert len(TRANSPORT_BLOCKS) == 93 and list(TRANSPORT_BLOCKS) == sorted(set(TRANSPORT_BLOCKS))
    assert sum(TRANSPORT_BLOCKS) == 104712 and all(size % 8 == 0 for size in TRANSPORT_BLOCKS)
    # At most 98 % of a band is used, and no less than three quarters.
    used = [12 * spacing * n / band for table in (RESOURCE_BLOCKS, HIGH_RESOURCE_BLOCKS)
            for (spacing, band), n in table.items()]  # fmt: skip
    assert min(used) > 0.75 and max(used) < 0.985


def test_a_block_never_strays_far_from_the_bits_of_its_resource_elements():
    for name in MCS_TABLES:
        for order, rate in schemes(name):
            for blocks in (1, 3, 11, 52, 273):
                bits = transport_block_bits(156 * blocks, order, rate)
                wanted = 156 * blocks * order * rate
                assert bits % 8 == 0 and abs(bits - wanted) <= max(32, wanted / 20)


@pytest.mark.parametrize("table", sorted(MCS_TABLES))
def test_modes_rise_and_lose_the_overhead(table):
    modes = nr_modes(table, 20e6, 2, 30e3, 3.0)
    rows = np.array([modes.thresholds_db, modes.efficiencies, modes.carried])
    assert (np.diff(rows, axis=1) > 0).all() and len(modes.carried) >= 27
    # 25 of the 51 blocks on each half of the band, 12·13 elements in half a millisecond each.
    share = 25 * 156 / 0.5e-3 / 10e6
    np.testing.assert_allclose(rows[1] / rows[2], share, rtol=0.035)
    np.testing.assert_allclose(10 ** (rows[0] / 10), 10**0.3 * (2 ** rows[2] - 1))


def test_rounds_use_the_schemes_and_decode_from_their_sinr_on():
    place = np.random.default_rng(0).random((14, 2)) * 150
    source = np.arange(14)
    wanted = Transfers.build(source, (source + 1) % 14, 20_000)
    settings = RadioSettings(rate="nr", nr_table="qam256", sinr_min_db=-8.0, bandwidth_hz=10e6)
    modes = settings.modes()
    table = Channel(settings, place, seed=1).plan_round(0, wanted).table
    mode = [int(np.argmin(abs(np.array(modes.efficiencies) - e))) for e in table.rate_bps / 10e6]
    np.testing.assert_allclose(table.rate_bps / 10e6, np.array(modes.efficiencies)[mode])
    enough = table.sinr_db >= np.array(modes.thresholds_db)[mode] - 1e-6
    assert np.array_equal(enough, table.decoded) and len(set(mode)) > 4 and 0.3 < enough.mean() < 1


def test_codes_of_finite_length_carry_their_own_rate_and_not_the_pilots():
    settings = RadioSettings(rate="nr", errors="finite_blocklength", fading="none", sinr_min_db=-8.0)
    law, modes = settings_law(settings), settings.modes()
    mean = 10 ** ((modes.thresholds_db[10] + 0.35) / 10)
    chosen = law.rate_for(np.array([mean]), np.array([1000.0]))
    best = max(
        (e * (1 - float(error_probability(mean / 10**0.3, c, 512 / c))), e)
        for e, c in zip(modes.efficiencies, modes.carried, strict=True)
    )
    assert chosen[0] == pytest.approx(5e6 * best[1])
    assert float(law.carried(chosen)[0]) > chosen[0] / 5e6


def test_a_band_that_the_standard_does_not_have_is_refused():
    for fields in (
        {"bandwidth_hz": 7e6},
        {"nr_spacing_hz": 120e3},
        {"nr_spacing_hz": 30e3, "subchannels": 12},
    ):
        with pytest.raises(ValueError, match=r"TS 38\.101"):
            RadioSettings(rate="nr", **fields)
    assert math.isclose(RadioSettings(rate="nr").modes().efficiencies[-1], 21504 / 1e-3 / 5e6)


@pytest.mark.parametrize(
    ("carrier_hz", "spacing_khz", "band_mhz", "blocks"),
    [
        (3.5e9, 60, 50, 65), (3.5e9, 60, 100, 135), (7.1e9, 30, 100, 273), (28e9, 60, 50, 66), (28e9, 60, 100, 132),
        (28e9, 60, 200, 264), (28e9, 120, 50, 32), (28e9, 120, 100, 66), (28e9, 120, 200, 132), (28e9, 120, 400, 264),
        (3.5e9, 60, 200, 0), (3.5e9, 120, 100, 0), (28e9, 15, 50, 0), (28e9, 30, 100, 0), (28e9, 60, 40, 0),
    ],
)  # fmt: skip
def test_resource_blocks_are_those_of_the_carriers_range(carrier_hz, spacing_khz, band_mhz, blocks):
    """TS 38.101-1 and TS 38.101-2, table 5.3.2-1 each; 0: the standard has none."""
    fields = {"carrier_hz": carrier_hz, "nr_spacing_hz": spacing_khz * 1e3, "bandwidth_hz": band_mhz * 1e6}
    if not blocks:
        with pytest.raises(ValueError, match=r"24\.25 GHz.*TS 38\.101"):
            RadioSettings(rate="nr", **fields)
        return
    bits = transport_block_bits(156 * blocks, 6, 948 / 1024)
    rate_bps = RadioSettings(rate="nr", **fields).modes().efficiencies[-1] * band_mhz * 1e6
    assert rate_bps == pytest.approx(bits / (15e-3 / spacing_khz))


def test_overhead_and_capacity_of_a_sidelink_are_those_of_the_public_estimator():
    """NIST's estimator gives 2,202.6 elements and 96.776 Mbit/s; with feedback in every slot 4,074.6 and 69.047."""
    for feedback_slots, elements, mbps in ((0, 2202.6, 96.776), (1, 4074.6, 69.047)):
        overhead = sidelink_overhead(52, 948 / 1024, 15e3, feedback_slots)
        assert overhead == pytest.approx(elements, abs=0.05)
        # 2 layers of 256QAM at the highest code rate, in a slot of 1 ms.
        rate_bps = 2 * 8 * 948 / 1024 * (52 * 168 - overhead) / 1e-3
        assert rate_bps / 1e6 == pytest.approx(mbps, abs=5e-4)
    ours = nr_modes("qam256", 10e6, 1, 15e3, 3.0, "sidelink", 0)
    assert 2 * ours.efficiencies[-1] * 10e6 / 1e6 == pytest.approx(96.776, rel=0.01)
    with pytest.raises(ValueError, match="at least 10"):
        nr_modes("qam256", 10e6, 6, 15e3, 3.0, "sidelink", 0)
