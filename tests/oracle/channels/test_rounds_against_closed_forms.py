"""Whole rounds against what can be worked out by hand."""

import math

import numpy as np
import pytest
from scipy import optimize

from channels.adaptation import MAX_EFFICIENCY, rate_law
from channels.channel import Channel
from channels.decoding import RateRule
from channels.energy import DeviceClass, draw_classes
from channels.settings import RadioSettings
from channels.tables import SCHEDULERS
from channels.transfers import OUTCOMES, Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CERTAIN = {"shadowing": False, "line_of_sight": "always"}


def at_snr_db(*wanted_db, **fields):
    """A channel whose device 0 has links to devices 1, 2, ... of the given mean SNR, each in its direction."""
    fields = CERTAIN | {"path_loss": "free_space", "carrier_hz": 2e9} | fields
    probe = Channel(RadioSettings(**fields), [[0.0, 0.0], [100.0, 0.0]], seed=0).mean_snr_db(0, 1)
    turn = np.linspace(0, np.pi, len(wanted_db))
    reach = 100 * 10 ** ((float(probe) - np.asarray(wanted_db)) / 20)
    place = np.concatenate([[[0.0, 0.0]], reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)])
    return Channel(RadioSettings(**fields), place, seed=3)


def square(devices, side_m, seed=0):
    return np.random.default_rng(seed).random((devices, 2)) * side_m


def ring(devices, payload_bytes=20_000):
    source = np.arange(devices)
    return Transfers.build(source, (source + 1) % devices, payload_bytes)


# Relays


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_hop_follows_the_one_it_forwards(scheduler):
    place = [[0.0, 0.0], [60.0, 0.0], [120.0, 0.0], [60.0, 60.0]]
    fields = {"scheduler": scheduler, "aloha_probability": 0.5, "max_attempts": 2}
    channel = Channel(RadioSettings(**fields), place, seed=1)
    # The second hop stands first in the input, and its sender is ready long before the first one's.
    wanted = Transfers.build([1, 0, 3], [2, 1, 0], 20_000, after=[1, -1, -1])
    sent = 0
    for number in range(12):
        done = channel.plan_round(number, wanted, ready_s=[1.0, 0.0, 0.0, 0.0])
        hops = done.table[done.table.transfer == 0]
        if done.delivered[1]:
            assert (hops.start_s >= done.finished_s[1] - 1e-12).all() and len(hops)
            sent += 1
        else:
            assert hops.empty and OUTCOMES[done.outcome[0]] == "upstream" and done.attempts[0] == 0
    assert sent


def test_two_hops_arrive_with_the_product_of_their_chances():
    channel = at_snr_db(8.0, 6.0, max_attempts=1, scheduler="tdma")
    # Device 1 sends to 0, which forwards to 2; every attempt is in a slot of its own.
    rounds = 500
    after = np.stack([np.full(rounds, -1), 2 * np.arange(rounds)], axis=1).reshape(-1)
    wanted = Transfers.build([1, 0] * rounds, [0, 2] * rounds, 1000, after=after)
    law = channel._law
    one, other = (float(law.chance(10 ** (snr / 10))) for snr in (8.0, 6.0))
    got = channel.plan_round(0, wanted).delivered.reshape(rounds, 2)
    assert np.all(got[:, 0] >= got[:, 1])
    for found, chance in ((got[:, 0], one), (got[:, 1], one * other)):
        assert abs(found.mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / rounds)


def test_bad_precedences_are_refused():
    for after, words in (([5, -1], "0 to 1"), ([1, -1], "ends at device"), ([1, 0], "circle")):
        ends = ([1, 0], [0, 1]) if words == "circle" else ([0, 1], [1, 2])
        with pytest.raises(ValueError, match=words):
            Transfers.build(*ends, 10, after=after)


# Rates


def test_the_best_fixed_rate_under_rayleigh_fading():
    # max over R of R·exp(-(2^R - 1)/10): 1.569 bit/s/Hz; the ergodic rate 2.907 takes knowledge of each fade.
    best = optimize.minimize_scalar(
        lambda r: -r * math.exp(-(2**r - 1) / 10), bounds=(0, 6), method="bounded"
    )
    assert -best.fun == pytest.approx(1.569, abs=5e-4)
    law = rate_law(RateRule("shannon", 1.0, 0.0, 1e-6, "rayleigh"))
    assert float(law.goodput(10.0)) == pytest.approx(-best.fun, rel=1e-3)
    fields = {"snr_gap_db": 0.0, "max_attempts": 1, "scheduler": "tdma", "sinr_min_db": -10.0}
    attempts = 700
    wanted = Transfers.build([0] * attempts, [1] * attempts, 5000)
    honest, genie = (at_snr_db(10.0, csi=csi, **fields).plan_round(0, wanted) for csi in ("mean", "genie"))
    rate = set((honest.table.rate_bps / 5e6).tolist())
    assert len(rate) == 1 and len(honest.table) == honest.table.slot.nunique() == attempts
    goodput, error = rate.pop() * honest.delivered.mean(), 4 * math.sqrt(0.25 / attempts) * 2.6
    assert abs(goodput - 1.569) < error
    assert np.mean(genie.table.rate_bps / 5e6) == pytest.approx(2.907, abs=0.15)


def test_no_rate_exceeds_the_highest_modulation_nor_what_the_channel_carries():
    place = square(20, 150.0)
    for fields in ({}, {"csi": "genie"}, {"errors": "none"}, {"errors": "chen"}, {"rate": "cqi"}):
        table = Channel(RadioSettings(**fields), place, seed=2).plan_round(0, ring(20)).table
        assert table.rate_bps.max() <= MAX_EFFICIENCY * 5e6 * (1 + 1e-12)
        carried = 5e6 * np.log2(1 + 10 ** (table.sinr_db / 10))
        assert (table.rate_bps <= carried * (1 + 1e-6))[table.delivered].all()
    weak = at_snr_db(-52.0, errors="none", fading="none", tx_power_dbm=-60.0)
    weak = weak.plan_round(0, Transfers.build([0], [1], 10))
    # 5 MHz at -52 dB less 3 dB carries 22.8 bit/s.
    assert weak.table.rate_bps[0] == pytest.approx(5e6 * math.log2(1 + 10**-5.5), rel=2e-3)


@pytest.mark.parametrize("errors", ["outage", "chen"])
def test_a_failed_attempt_takes_the_time_of_the_rate_it_was_sent_at(errors):
    channel = at_snr_db(12.0, errors=errors, max_attempts=40)
    table = channel.plan_round(0, Transfers.build([0] * 30, [1] * 30, 10_000)).table
    failed = table[~table.delivered]
    assert len(failed) >= 3 and table.rate_bps.nunique() == 1
    np.testing.assert_allclose(failed.end_s - failed.start_s, 8e4 / failed.rate_bps)


@pytest.mark.parametrize(
    "scheduler", [name for name in SCHEDULERS if name not in ("aloha", "sidelink_mode2")]
)
def test_the_same_failed_attempt_costs_the_same_under_every_scheduler(scheduler):
    # Both links of a pair share a device, so each is alone in its slot; one of them never decodes.
    channel = at_snr_db(-15.0, 25.0, fading="none", max_attempts=2, scheduler=scheduler)
    done = channel.plan_round(0, Transfers.build([0, 0], [1, 2], 3000))
    tries = done.table[done.table.transfer == 0]
    assert done.delivered.tolist() == [False, True] and done.attempts[0] == 2
    lowest = 5e6 * math.log2(1 + 10**-0.3)
    np.testing.assert_allclose(tries.end_s - tries.start_s, 24_000 / lowest, rtol=1e-9)


def test_what_the_deadline_cuts_books_the_bytes_really_sent():
    channel = at_snr_db(20.0, fading="none", deadline_s=0.1)
    done = channel.plan_round(0, Transfers.build([0], [1], 50_000_000))
    row = done.table.iloc[0]
    assert row.payload_bytes == math.floor(0.1 * row.rate_bps / 8) and not row.delivered
    radiated, idle = 10 ** (23 / 10 - 3) / 0.35, 0.1
    assert row.energy_j == pytest.approx((radiated + idle + 0.1) * 0.1)


def test_delayed_knowledge_is_worth_what_the_channel_still_remembers():
    links, delivered = 400, []
    wanted = Transfers.build([0] * links, np.arange(1, links + 1), 2000)
    for delay_s in (1e-4, 40e-3):
        fields = {"csi": "delayed", "csi_delay_s": delay_s, "speed_mps": 10.0, "max_attempts": 1}
        channel = at_snr_db(*([15.0] * links), scheduler="tdma", **fields)
        delivered.append(channel.plan_round(0, wanted).delivered.mean())
    assert delivered[0] > 0.9 and delivered[1] < 0.87
    with pytest.raises(ValueError, match="speed_mps"):
        RadioSettings(csi="delayed")


# Schedules


def test_links_of_any_weakness_share_slots_only_where_that_is_shorter_when_all_is_decoded():
    """Down to -70 dB: a rate below the lowest is what takes long, so that plans must count it."""
    for seed in range(3):
        place = square(12, 1500.0, seed)
        fields = {"errors": "none", "fading": "none", "tx_power_dbm": 0.0}
        shared, serial = (
            Channel(RadioSettings(scheduler=name, **fields), place, seed=seed).plan_round(0, ring(12))
            for name in ("greedy_sinr", "tdma")
        )
        assert serial.table.sinr_db.min() < -30 and shared.delivered.all()
        assert shared.occupied_s <= serial.occupied_s * (1 + 1e-6)


def test_a_link_out_of_reach_costs_no_good_slot_its_time():
    channel = at_snr_db(30.0, 28.0, -20.0, fading="none", max_attempts=1)
    wanted = Transfers.build([0, 1, 2], [1, 2, 3], 10_000)
    table = channel.plan_round(0, wanted).table
    lost = table[table.transfer == 2]
    assert (table[table.transfer != 2].slot < lost.slot.min()).all()


def test_one_transmission_serves_the_receivers_of_one_message():
    channel = at_snr_db(30.0, 25.0, 20.0, fading="none")
    wanted = Transfers.build([0, 0, 0], [1, 2, 3], 10_000, message=[7, 7, 7])
    once = channel.plan_round(0, wanted)
    assert once.table.transmission.nunique() == 1 and once.delivered.all()
    worst = 5e6 * math.log2(1 + 10**2.0 / 10**0.3)
    assert once.airtime_s == pytest.approx(8e4 / worst, rel=1e-3)
    apart = at_snr_db(30.0, 25.0, 20.0, fading="none", multicast=False).plan_round(0, wanted)
    assert apart.table.transmission.nunique() == 3 and apart.airtime_s > once.airtime_s


def test_sub_channels_carry_alike_and_airtime_counts_their_share():
    place = square(60, 300.0)
    wanted = Transfers.build(np.arange(60), (np.arange(60) + 30) % 60, 20_000)
    done = Channel(RadioSettings(subchannels=8, fading="none"), place, seed=1).plan_round(0, wanted)
    once = done.table.drop_duplicates("transmission")
    taken = np.bincount(once.subchannel, weights=once.end_s - once.start_s, minlength=8)
    assert taken.max() / taken.sum() < 0.3 and taken.min() > 0
    assert done.airtime_s == pytest.approx(taken.sum() / 8)


@pytest.mark.parametrize("scheduler", ["coloring", "fplinq", "max_weight", "proportional_fair"])
def test_links_of_a_slot_are_spread_over_all_sub_channels(scheduler):
    random = np.random.default_rng(1)
    start, angle = random.random((60, 2)) * 800, random.random(60) * 2 * np.pi
    place = np.concatenate([start, start + 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    wanted = Transfers.build(np.arange(60), np.arange(60) + 60, 20_000)
    fields = RadioSettings(subchannels=8, fading="none", scheduler=scheduler)
    done = Channel(fields, place, seed=1).plan_round(0, wanted)
    table = done.table
    taken = np.bincount(table.subchannel, weights=table.end_s - table.start_s, minlength=8)
    assert taken.max() < 0.3 * taken.sum() and taken.min() > 0.02 * taken.sum() and done.delivered.all()
    # A link that shares its sub-channel with nobody takes no longer.
    alone = 160_000 * 8 / (5e6 * MAX_EFFICIENCY)
    assert done.occupied_s <= 1.2 * alone


# Energy, deadlines, training


def test_no_device_spends_more_than_its_battery():
    classes = draw_classes([DeviceClass(battery_j=0.02)], 12, seed=0)
    channel = Channel(RadioSettings(), square(12, 250.0), seed=1, device_classes=classes)
    spent = np.zeros(12)
    for number in range(40):
        spent += channel.plan_round(number, ring(12), compute_energy_j=np.full(12, 1e-3)).energy_j
    assert np.all(spent <= 0.02 * (1 + 1e-12))
    np.testing.assert_allclose(spent, 0.02 - channel.battery_j, rtol=1e-9)
    assert not channel.alive.any()


def test_a_transmission_stops_when_it_empties_the_battery():
    classes = draw_classes([DeviceClass(battery_j=1e-3)], 2, seed=0)
    channel = at_snr_db(20.0, fading="none", idle_power_w=0.0, listen_power_w=0.0)
    channel.battery_j = classes.battery_j.copy()
    done = channel.plan_round(0, Transfers.build([0], [1], 1_000_000))
    assert not done.delivered[0] and OUTCOMES[done.outcome[0]] == "dead" and not done.alive[0]
    drawn_w = 10 ** (23 / 10 - 3) / 0.35 + 0.1
    row = done.table.iloc[0]
    assert row.end_s - row.start_s == pytest.approx(1e-3 / drawn_w)
    assert row.payload_bytes == math.floor(1e-3 / drawn_w * row.rate_bps / 8)
    assert done.energy_j[0] == pytest.approx(1e-3, rel=1e-12)


def test_every_second_of_every_device_has_a_state():
    fields = {"fading": "none", "listen_power_w": 0.03, "idle_power_w": 0.01, "receive_power_w": 0.2}
    channel = at_snr_db(20.0, 20.0, **fields)
    done = channel.plan_round(0, Transfers.build([0], [1], 10_000), ready_s=[2.0, 0.0, 5.0])
    on_air = float(done.table.end_s[0] - done.table.start_s[0])
    sending = 10 ** (23 / 10 - 3) / 0.35 + 0.1
    assert done.end_s == 5.0 and done.table.start_s[0] == 2.0
    rest = 5.0 - 2.0 - on_air
    by_hand = [
        2.0 * 0.01 + on_air * sending + rest * 0.01,
        2.0 * 0.03 + on_air * 0.2 + rest * 0.01,
        5.0 * 0.01,
    ]
    np.testing.assert_allclose(done.energy_j, by_hand, rtol=1e-9)


def test_who_is_not_done_by_the_deadline_is_late_and_goes_on_training():
    channel = at_snr_db(25.0, 25.0, fading="none", deadline_s=0.02)
    wanted = Transfers.build([0, 1], [1, 2], 1000)
    first = channel.plan_round(0, wanted, ready_s=[0.0, 0.035, 0.0])
    assert first.late.tolist() == [False, True, False] and first.delivered.tolist() == [True, False]
    assert OUTCOMES[first.outcome[1]] == "late" and first.end_s == 0.02
    second = channel.plan_round(1, wanted)
    assert not second.late.any() and second.delivered.all()
    assert second.table[second.table.source == 1].start_s.min() >= 0.035 - 1e-12


# Order and fairness


def test_links_a_deadline_left_out_go_first_in_the_next_round():
    fields = {"scheduler": "tdma", "deadline_s": 0.05, "fading": "none", "shadowing": False}
    channel = Channel(RadioSettings(**fields), square(40, 120.0), seed=1)
    wanted, rounds = ring(40), []
    for number in range(8):
        done = channel.plan_round(number, wanted)
        rounds.append(done.delivered)
    count = np.sum(rounds, axis=0)
    assert 0 < rounds[0].sum() < 40
    assert done.starved_fraction == pytest.approx(np.mean(count == 0))
    assert count.max() - count.min() <= 2
    assert abs(np.corrcoef(np.arange(40), rounds[0])[0, 1]) < 0.5


@pytest.mark.parametrize(
    "scheduler", [name for name in SCHEDULERS if name not in ("aloha", "csma", "sidelink_mode2")]
)
def test_a_slow_link_gets_its_turn_before_a_deadline_that_fits_the_fast_ones(scheduler):
    """One link takes 7 or 22 times as long as each of 60 others, of which 45 fit before the deadline."""
    fields = {"scheduler": scheduler, "fading": "none", "deadline_s": 45 * 16_000 / (5e6 * MAX_EFFICIENCY)}
    channel = at_snr_db(*([30.0] * 60), 3.0, **fields)
    slow_bytes = 6000 if scheduler in ("greedy_sinr", "broadcast") else 2000
    wanted = Transfers.build([0] * 61, np.arange(1, 62), [2000] * 60 + [slow_bytes])
    got = np.sum([channel.plan_round(number, wanted).delivered for number in range(12)], axis=0)
    assert got.min() >= 1 and got.sum() > 12 * 30


def test_aloha_draws_anew_in_every_round():
    fields = {"scheduler": "aloha", "max_attempts": 3, "deadline_s": 0.5}
    channel = Channel(RadioSettings(**fields), square(12, 200.0), seed=1)
    source = np.repeat(np.arange(12), 2)
    wanted = Transfers.build(source, (source + np.tile([1, 5], 12)) % 12, 20_000)
    got, starts = np.zeros(24), []
    for number in range(25):
        done = channel.plan_round(number, wanted)
        got += done.delivered
        starts.append(tuple(done.table.transfer[done.table.slot == done.table.slot.min()]))
    assert len(set(starts)) > 12 and np.mean(got == 0) < 0.2
