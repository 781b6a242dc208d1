"""The rate chosen before the outcome, against the best of all fixed rates under each fading law."""

import numpy as np
import pytest
from scipy import stats

from channels.adaptation import MAX_EFFICIENCY
from channels.link import CQI_EFFICIENCIES, CQI_THRESHOLDS_DB
from channels.rounds import settings_law
from channels.settings import RadioSettings

RICIAN_K = 10**0.6
SURVIVAL = {
    "rayleigh": lambda h: np.exp(-h),
    "nakagami": lambda h: stats.gamma.sf(h, 3.0, scale=1 / 3.0),
    "rician": lambda h: stats.ncx2.sf(2 * (1 + RICIAN_K) * h, 2, 2 * RICIAN_K),
}

QUANTILE = {
    "rayleigh": stats.expon.ppf,
    "nakagami": lambda u: stats.gamma.ppf(u, 3.0, scale=1 / 3.0),
    "rician": lambda u: stats.ncx2.ppf(u, 2, 2 * RICIAN_K) / (2 * (1 + RICIAN_K)),
}


@pytest.mark.parametrize("fading", sorted(SURVIVAL))
@pytest.mark.parametrize("rate", ["shannon", "cqi"])
def test_no_fixed_rate_brings_more(fading, rate):
    settings = RadioSettings(fading=fading, nakagami_m=3.0, rician_k_db=6.0, rate=rate)
    law = settings_law(settings)
    if rate == "shannon":
        needed = np.geomspace(1.0, 1e5, 20_000)
        bps = 5e6 * np.minimum(np.log2(1 + needed / 10**0.3), MAX_EFFICIENCY)
    else:
        # Below the threshold of 0 dB nothing is decoded.
        needed = np.maximum(10 ** (np.array(CQI_THRESHOLDS_DB) / 10), 1.0)
        bps = 5e6 * np.array(CQI_EFFICIENCIES)
    for mean in 10 ** (np.arange(-5.0, 45.0, 1.7) / 10):
        best = np.max(bps * SURVIVAL[fading](needed / mean))
        chosen = float(law.chosen_rate(mean))
        brought = chosen * float(SURVIVAL[fading](float(law.needed_sinr(chosen)) / mean))
        assert brought >= best * (1 - 1e-3)
        assert float(law.goodput(mean)) == pytest.approx(brought, rel=2e-3)


@pytest.mark.parametrize("fading", sorted(SURVIVAL))
@pytest.mark.parametrize("rate", ["shannon", "cqi"])
def test_no_fixed_rate_brings_more_where_packets_are_lost_besides(fading, rate):
    """Chance exp(-m/(g·h)) wherever g·h carries the rate, by 4,000 quantiles of the fading."""
    shape = {"nakagami_m": 3.0, "rician_k_db": 6.0}
    settings = RadioSettings(
        fading=fading, rate=rate, errors="chen", waterfall_db=3.0, sinr_min_db=-5.0, **shape
    )
    law, fades = settings_law(settings), QUANTILE[fading]((np.arange(4000) + 0.5) / 4000)
    if rate == "shannon":
        needed = np.geomspace(10**-0.5, 1e4, 700)
        bps = 5e6 * np.minimum(np.log2(1 + needed / 10**0.3), MAX_EFFICIENCY)
    else:
        known = np.array(CQI_THRESHOLDS_DB) >= -5.0
        needed, bps = 10 ** (np.array(CQI_THRESHOLDS_DB)[known] / 10), 5e6 * np.array(CQI_EFFICIENCIES)[known]
    for mean in 10 ** (np.arange(-4.0, 40.0, 5.3) / 10):
        sinr = mean * fades
        above = np.concatenate([np.cumsum(np.exp(-(10**0.3) / sinr)[::-1])[::-1], [0.0]]) / fades.size

        def brought(bps, needed, sinr=sinr, above=above):
            return bps * above[np.searchsorted(sinr, needed * (1 - 1e-9))]

        chosen = float(law.chosen_rate(mean))
        reached = brought(chosen, float(law.needed_sinr(chosen)))
        assert reached >= brought(bps, needed).max() * 0.99
        assert float(law.goodput(mean)) == pytest.approx(reached, rel=0.02, abs=2e3)
