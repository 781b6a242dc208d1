"""What senders know of their own link: attempts lost by an estimate's errors, in closed form."""

import math

import numpy as np
import pandas as pd
import pytest

from channels.channel import Channel
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LINKS, ROUNDS, SNR_DB = 500, 4, 18.0


def attempts(**fields):
    """Attempts of a few rounds over links of one mean SNR, all at once, each in a part of the plane of its own."""
    settings = RadioSettings(
        **{"path_loss": "log_distance", "path_loss_exponent": 4.0, "shadowing": False, "scheduler": "aloha",
           "aloha_probability": 1.0, "sinr_min_db": -20.0, "max_attempts": 1, "dense_devices": 10_000, **fields}
    )  # fmt: skip
    side = math.ceil(math.sqrt(LINKS))
    place = np.stack(np.divmod(np.arange(LINKS), side), axis=1) * 1e6
    positions = np.concatenate([place, place + np.array([50.0, 0.0])])
    more_db = SNR_DB - float(Channel(settings, positions[[0, LINKS]], seed=1).mean_snr_db(0, 1))
    settings = RadioSettings(**{**vars(settings), "tx_power_dbm": settings.tx_power_dbm + more_db})
    channel = Channel(settings, positions, seed=1)
    source = np.arange(LINKS)
    wanted = Transfers.build(source, source + LINKS, 2000)
    table = pd.concat([channel.plan_round(k, wanted).table.sort_values("transfer") for k in range(ROUNDS)])
    assert len(table) == ROUNDS * LINKS
    return table.reset_index(drop=True)


def above(estimate_mean, error_variance):
    """P(|h + e|²·m > |h|²) of complex normal h and e: of two correlated exponentials, one exceeds the other."""
    a, b = estimate_mean * (1 + error_variance), 1.0
    correlation = 1 / (1 + error_variance)
    return 0.5 * (1 + (a - b) / math.sqrt((a + b) ** 2 - 4 * correlation * a * b))


def test_the_closed_form_is_that_of_drawn_channels():
    random = np.random.default_rng(0)
    h, e = (random.normal(size=(2, 400_000)).T @ [1, 1j] / math.sqrt(2) for _ in range(2))
    for mean, variance in ((1.0, 0.1), (0.5, 0.02), (0.7, 1.0)):
        found = np.mean(mean * np.abs(h + math.sqrt(variance) * e) ** 2 > np.abs(h) ** 2)
        assert found == pytest.approx(above(mean, variance), abs=4 * 0.5 / math.sqrt(400_000))


@pytest.mark.parametrize(("pilots", "margin_db"), [(0.25, 0.0), (0.25, 3.0), (1.0, 1.0)])
def test_attempts_lost_by_an_estimate(pilots, margin_db):
    table = attempts(csi="estimated", csi_pilots=pilots, rate_margin_db=margin_db)
    variance = 1 / (pilots * 10 ** (SNR_DB / 10))
    expected = above(10 ** (-margin_db / 10), variance)
    found = float((~table.decoded).mean())
    assert abs(found - expected) < 3.5 * math.sqrt(expected * (1 - expected) / (ROUNDS * LINKS)) + 0.002


def test_who_knows_the_channel_loses_nothing_and_many_pilots_come_near():
    # The far senders' own fading is all that a sender here does not know: a hundredth of a decibel covers it.
    perfect, genie = attempts(csi="perfect", rate_margin_db=0.01), attempts(csi="genie")
    able = genie.sinr_db > -6.9  # the lowest rate needs -6.936 dB
    assert perfect.decoded[able].all()
    np.testing.assert_allclose(perfect.rate_bps[able], genie.rate_bps[able], rtol=0.01)
    close = attempts(csi="estimated", csi_pilots=1e9, rate_margin_db=0.0)
    np.testing.assert_allclose(close.rate_bps[able], genie.rate_bps[able], rtol=0.01)
    goodput = {csi: float((t.rate_bps * t.decoded).mean()) for csi, t in (
        ("perfect", perfect), ("estimated", attempts(csi="estimated")), ("mean", attempts()))}  # fmt: skip
    assert goodput["perfect"] > goodput["estimated"] > goodput["mean"]


@pytest.mark.parametrize("rate", ["shannon", "nr"])
@pytest.mark.parametrize("errors", ["outage", "chen", "finite_blocklength"])
def test_without_fading_all_know_the_same(errors, rate):
    """Mean, perfect and genie know one SINR, so they choose one rate, for codes of finite length too."""
    place = np.random.default_rng(0).random((20, 2)) * 200
    source = np.repeat(np.arange(20), 3)
    wanted = Transfers.build(source, (source + np.tile([1, 2, 3], 20)) % 20, np.tile([300, 2000, 40_000], 20))
    tables = []
    for csi in ("mean", "perfect", "genie"):
        settings = RadioSettings(csi=csi, errors=errors, rate=rate, fading="none", multicast=False)
        tables.append(Channel(settings, place, seed=0).plan_round(0, wanted).table)
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other, tables[0])
