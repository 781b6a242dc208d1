"""Codes of finite length and HARQ against closed forms, quadrature and plain draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from channels.adaptation import rate_law
from channels.blocklength import error_probability, rate_at
from channels.channel import Channel
from channels.presence import Presence
from channels.rounds import settings_law
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PAIRS = 300
FLAT = {"path_loss": "log_distance", "path_loss_exponent": 4.0, "shadowing": False, "scheduler": "coloring",
        "csi": "mean", "rate_margin_db": 0.0, "sinr_min_db": -30.0, "snr_gap_db": 0.0}  # fmt: skip


def pairs(snr_db, count=PAIRS, **fields):
    """A channel of many pairs 10 km apart, all links of one mean SNR: one slot holds an attempt of each."""
    across = 10_000.0 * np.arange(count)
    place = np.concatenate([np.stack([across, 0 * across], 1), np.stack([across, 0 * across + 30.0], 1)])
    settings = RadioSettings(**(FLAT | fields))
    probe = float(Channel(settings, place[[0, count]], seed=0).mean_snr_db(0, 1))
    return Channel(replace(settings, tx_power_dbm=settings.tx_power_dbm + snr_db - probe), place, seed=5)


def wanted(payload_bytes=1000, count=PAIRS):
    source = np.arange(count)
    return Transfers.build(source, source + count, payload_bytes)


# Codes of finite length


def test_the_normal_approximation_at_its_published_point():
    """0.836 bit a use at 0 dB, n = 500, eps = 1e-3; and by the real channel's form with two uses for one."""
    assert float(rate_at(1.0, 500, 1e-3)) == pytest.approx(0.836, abs=5e-4)
    power, uses, error = 1.0, 2 * 500, 1e-3
    spread = power * (power + 2) / (2 * (power + 1) ** 2) * math.log2(math.e) ** 2
    bits = (
        uses * math.log2(1 + power) / 2
        - math.sqrt(uses * spread) * stats.norm.isf(error)
        + math.log2(uses) / 2
    )
    # The real form's log term counts real uses: half a bit more in a message of 418.
    assert bits - 0.5 == pytest.approx(500 * float(rate_at(1.0, 500, 1e-3)), abs=1e-9)
    for snr_db in (-5.0, 3.0, 17.0):
        for n in (100, 2000):
            rate = float(rate_at(10 ** (snr_db / 10), n, 1e-5))
            assert float(error_probability(10 ** (snr_db / 10), rate, n)) == pytest.approx(1e-5, rel=1e-6)


def test_errors_rise_with_the_rate_and_fall_with_sinr_and_length():
    sinr, rate = 10 ** (np.linspace(-15, 25, 161) / 10), np.linspace(0.2, 6.0, 59)
    n = 2.0 ** np.arange(6, 22)
    lost = error_probability(sinr[:, None, None], rate[:, None], n)
    assert ((lost >= 0) & (lost <= 1)).all() and lost.min() < 1e-12 and lost.max() == 1.0
    assert (np.diff(lost, axis=0) <= 1e-15).all() and (np.diff(lost, axis=1) >= -1e-15).all()
    left = n * (np.log2(1 + sinr)[:, None, None] - rate[:, None])
    longer = np.diff(lost, axis=2)
    assert (longer[left[:, :, :-1] > 4] <= 1e-15).all() and (longer[left[:, :, :-1] < -20] >= -1e-15).all()


def test_without_a_signal_nothing_is_decoded_and_long_codes_are_the_outage():
    assert error_probability(0.0, 0.5, 1000) == 1.0
    sinr = 10 ** (np.linspace(-10, 20, 400) / 10)
    below = np.log2(1 + sinr) > 1.7
    assert np.array_equal(error_probability(sinr, 1.7, 1e12) < 0.5, below)
    outage = stats.expon.cdf((2**1.7 - 1) / 10)
    for n, close in ((100, 0.01), (1e4, 2e-3), (1e9, 1e-5)):
        mean = integrate.quad(lambda h, n=n: float(error_probability(10 * h, 1.7, n)) * math.exp(-h), 0, 40,
                              points=[(2**1.7 - 1) / 10], limit=500)[0]  # fmt: skip
        assert abs(mean - outage) < close


@pytest.mark.parametrize("fading", ["rayleigh", "none"])
@pytest.mark.parametrize("rate", ["shannon", "cqi"])
def test_the_chosen_rate_brings_the_most_for_messages_of_a_length(fading, rate):
    """No rate of a fine choice brings more, with the mean over the fading by quadrature."""
    law = settings_law(RadioSettings(fading=fading, rate=rate, errors="finite_blocklength", sinr_min_db=-5.0))
    own = rate_law(replace(law.rule, message_bits=2.0**9))
    gap = 10**0.3
    fade = np.ones(1) if fading == "none" else stats.expon.ppf((np.arange(2000) + 0.5) / 2000)
    for mean in 10 ** (np.array([-3.0, 4.0, 11.0, 23.0]) / 10):
        offered = own.rate(np.geomspace(10**-0.5, 1e3, 600)) / 5e6
        offered = np.unique(offered)[:, None]
        brought = offered[:, 0] * (1 - error_probability(mean * fade / gap, offered, 512 / offered)).mean(
            axis=1
        )
        chosen = law.rate_for(np.array([mean]), np.array([600.0]))[0]
        assert chosen == float(own.chosen_rate(mean))
        mine = chosen / 5e6
        got = mine * (1 - error_probability(mean * fade / gap, mine, 512 / mine)).mean()
        assert got >= brought.max() * (1 - 3e-3)
        assert float(own.goodput(mean)) == pytest.approx(5e6 * got, rel=5e-3)


def test_rounds_lose_what_the_formula_says():
    margin_db, snr_db, bits = 0.3, 6.0, 8 * 90
    fields = {"errors": "finite_blocklength", "fading": "none", "max_attempts": 1}
    channel = pairs(snr_db, **(fields | {"rate_margin_db": margin_db}))
    rate = math.log2(1 + 10 ** ((snr_db - margin_db) / 10))
    chance = float(error_probability(10 ** (snr_db / 10), rate, bits / rate))
    plans = [channel.plan_round(k, wanted(90)) for k in range(6)]
    np.testing.assert_allclose(plans[0].table.rate_bps / 5e6, rate, rtol=1e-5)
    lost = np.mean([~p.delivered for p in plans])
    assert 0.05 < chance < 0.5 and abs(lost - chance) < 4 * math.sqrt(chance * (1 - chance) / (6 * PAIRS))


def test_rounds_of_long_messages_are_those_of_the_outage_model():
    fields = {"max_attempts": 2, "rate_margin_db": 3.0}
    plans = [pairs(10.0, errors=errors, **fields).plan_round(0, wanted(10**8))
             for errors in ("outage", "finite_blocklength")]  # fmt: skip
    assert plans[0].table.equals(plans[1].table) and 0.3 < plans[0].delivered.mean() < 1
    short = pairs(10.0, errors="finite_blocklength", **fields).plan_round(0, wanted(10))
    assert not np.array_equal(short.table.decoded, plans[0].table.decoded)


# The outer loop


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (0.1, {"rate": "nr"}),
        (0.3, {"harq": "incremental", "max_attempts": 3}),
        (0.1, {"csi": "delayed", "csi_delay_s": 8e-3, "speed_mps": 4.0}),
    ],
)
def test_the_outer_loop_loses_its_target_whatever_the_sender_knows(target, fields):
    """After a start, the share of lost first attempts is within 1 % of the target, over outdated SINRs too."""
    few, settled, told = 25, 60, []
    channel = pairs(
        22.0, count=few, outer_loop_target=target, outer_loop_step_db=1.0, **({"max_attempts": 1} | fields)
    )
    for k in range(260):
        table = channel.plan_round(k, wanted(3000, few)).table
        told.append(~table.decoded[table.attempts == 1].to_numpy())
    lost = np.concatenate(told[settled:]).mean()
    assert len(told[-1]) == few and abs(lost - target) < 0.01
    assert np.concatenate(told[:3]).mean() > 2 * target


def test_the_outer_loop_is_part_of_a_channels_state():
    one, other = (pairs(15.0, count=4, outer_loop_target=0.1) for _ in range(2))
    for k in range(6):
        one.plan_round(k, wanted(1000, 4))
    other.restore(one.snapshot())
    assert other.plan_round(6, wanted(1000, 4)).table.equals(one.plan_round(6, wanted(1000, 4)).table)
    assert abs(one.snapshot()["links_offset_db"]).min() > 0


# HARQ


def lost_after(kind, snr_db, rounds=8, **fields):
    """(4,) share of the messages not decoded after 1 to 4 attempts at the rate of the mean SNR, Rayleigh fading."""
    channel = pairs(snr_db, harq=kind, max_attempts=4, **fields)
    decoded = np.zeros(4)
    for k in range(rounds):
        table = channel.plan_round(k, wanted()).table
        assert np.ptp(table.rate_bps) < 1e-5 * table.rate_bps.mean()
        decoded += np.bincount(table.attempts[table.decoded] - 1, minlength=4)
    return 1 - np.cumsum(decoded) / (rounds * PAIRS)


def close(found, chance, count):
    assert np.all(np.abs(found - chance) < 4 * np.sqrt(chance * (1 - chance) / count) + 1 / count)


def test_chase_combining_adds_up_sinrs():
    """The sum of k exponential gains is below 1 with chance P(k, 1): .632, .264, .080, .019."""
    chance = stats.gamma.cdf(1.0, np.arange(1, 5))
    assert np.allclose(chance, [0.632, 0.264, 0.080, 0.019], atol=5e-4)
    close(lost_after("chase", 7.0), chance, 8 * PAIRS)


def test_repetition_without_memory():
    chance = 0.632121 ** np.arange(1, 5)
    assert np.allclose(chance, [0.632, 0.400, 0.253, 0.160], atol=5e-4)
    close(lost_after("none", 7.0), chance, 8 * PAIRS)


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_incremental_redundancy_adds_up_information(snr_db):
    """Against a million plain draws of sums of lb(1 + SNR·h)."""
    snr = 10 ** (snr_db / 10)
    heard = np.cumsum(np.log2(1 + snr * np.random.default_rng(1).exponential(size=(1_000_000, 4))), axis=1)
    chance = (heard < math.log2(1 + snr)).mean(axis=0)
    assert chance[1] < stats.gamma.cdf(1.0, 2) + 1e-3
    close(lost_after("incremental", snr_db), chance, 8 * PAIRS)


def test_retransmissions_repeat_the_rate_of_a_multicast():
    """Receivers that failed are tried again together, and each combines what it heard itself."""
    place = [[0.0, 0.0], [40.0, 0.0], [0.0, 300.0], [-350.0, 0.0]]
    fields = {"path_loss": "log_distance", "shadowing": False, "harq": "chase", "max_attempts": 6}
    channel = Channel(RadioSettings(**fields), place, seed=2)
    message = Transfers.build([0, 0, 0], [1, 2, 3], 20_000, message=[0, 0, 0])
    again = 0
    for k in range(20):
        table = channel.plan_round(k, message).table
        for _, own in table.groupby("transfer"):
            again += len(own) > 1
            assert own.rate_bps.nunique() == 1
            threshold = 10 ** (3.0 / 10) * (2 ** (own.rate_bps.iloc[0] / 5e6) - 1)
            total = np.cumsum(10 ** (own.sinr_db / 10))
            assert ((total >= threshold * (1 - 1e-6)) == own.decoded).all()
    assert again > 3


def test_feedback_takes_air_and_energy_and_delays_what_is_tried_again():
    place, answer_s, delay_s = [[0.0, 0.0], [50.0, 0.0]], 2e-3, 7e-3
    fields = {
        "scheduler": "tdma",
        "max_attempts": 3,
        "rate_margin_db": 0.0,
        "listen_power_w": 0.0,
        "idle_power_w": 0.0,
    }
    one = Transfers.build([0], [1], 5000)
    for k in range(12):
        bare, told = (Channel(RadioSettings(**fields, **more), place, seed=1).plan_round(k, one)
                      for more in ({}, {"feedback_s": answer_s, "feedback_delay_s": delay_s}))  # fmt: skip
        tries = len(told.table)
        assert tries == len(bare.table)
        assert told.airtime_s == pytest.approx(bare.airtime_s + tries * answer_s)
        gaps = told.table.start_s.to_numpy()[1:] - told.table.end_s.to_numpy()[:-1]
        np.testing.assert_allclose(gaps, answer_s + delay_s)
        assert told.end_s == pytest.approx(bare.end_s + tries * answer_s + (tries - 1) * delay_s)
        drawn_w = 10**-0.7 / 0.35 + 0.1
        np.testing.assert_allclose(
            told.radio_energy_j - bare.radio_energy_j, tries * answer_s * np.array([0.1, drawn_w])
        )
        assert told.table.energy_j.sum() == pytest.approx(told.radio_energy_j.sum())
    assert RadioSettings().feedback_s == RadioSettings().feedback_delay_s == 0.0


@pytest.mark.parametrize("answered", [-1.0, 0.0, 0.25, 1.0, 4.0])
def test_who_goes_off_answers_and_listens_until_then(answered):
    # On until some share of the answer is on air; below 0 until the middle of the transmission.
    answer_s, one = 2e-3, Transfers.build([0], [1], 5000)
    settings = RadioSettings(scheduler="tdma", max_attempts=1, fading="none", shadowing=False, line_of_sight="always",
                             listen_power_w=0.0, idle_power_w=0.0, feedback_s=answer_s)  # fmt: skip
    place = [[0.0, 0.0], [50.0, 0.0]]
    whole = Channel(settings, place, seed=1).plan_round(0, one)
    sent_s = float(whole.table.end_s.iloc[0])
    on_s = sent_s + answered * answer_s if answered >= 0 else sent_s / 2
    share = min(max(answered, 0.0), 1.0)
    drawn_w = 10**-0.7 / 0.35 + 0.1
    for device, power_w in ((0, 0.1), (1, drawn_w)):
        away = Presence.build(2, [device], [on_s], [0], [1.0])
        found = Channel(settings, place, seed=1, presence=away).plan_round(0, one)
        bare = Channel(replace(settings, feedback_s=0.0), place, seed=1, presence=away).plan_round(0, one)
        more_j = found.radio_energy_j - bare.radio_energy_j
        assert more_j[device] == pytest.approx(share * answer_s * power_w, abs=1e-12)
        assert more_j[1 - device] == pytest.approx(answer_s * (drawn_w if device == 0 else 0.1))


def test_a_delayed_retransmission_leaves_the_air_to_others():
    place = [[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]]
    fields = {"scheduler": "tdma", "max_attempts": 2, "feedback_delay_s": 0.5, "sinr_min_db": 60.0}
    table = (
        Channel(RadioSettings(**fields), place, seed=1)
        .plan_round(0, Transfers.build([0, 0], [1, 2], 100))
        .table
    )
    assert sorted(table.transfer[:2]) == [0, 1] and len(table) == 4
    assert (table.start_s[2:].to_numpy() >= 0.5).all() and table.start_s[1] < 0.5
