"""Control by hand: its bytes, times and joules along a line of devices, and old and coarse gains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from channels.channel import Channel
from channels.control import LOWEST_DBM, RANGE_DB, reported_gains
from channels.energy import DeviceClass, draw_classes
from channels.estimate import nearest_transfers
from channels.gains import matrix_gains
from channels.presence import Presence
from channels.settings import RadioSettings
from channels.transfers import Transfers

PLAIN = RadioSettings(
    path_loss="log_distance",
    path_loss_exponent=4.0,
    shadowing=False,
    fading="none",
    snr_gap_db=0.0,
    control="charged",
    listen_power_w=0.0,
    idle_power_w=0.0,
)
# Neighbours hear each other at 10 dB, devices two steps apart do not (-2 dB).
LINE = np.stack([np.arange(4) * 65.0, np.zeros(4)], axis=1)
WANTED = Transfers.build([0], [1], 5000)


def snr(settings, distance_m):
    loss_db = 20 * math.log10(4 * math.pi * settings.carrier_hz / 299_792_458) + 40 * math.log10(distance_m)
    noise_dbm = -174 + 10 * math.log10(settings.bandwidth_hz) + settings.noise_figure_db
    received_dbm = settings.tx_power_dbm - loss_db
    step = RANGE_DB / (2**settings.control_gain_bits - 1)
    told_dbm = LOWEST_DBM + round((received_dbm - LOWEST_DBM) / step) * step
    return 10 ** ((told_dbm - noise_dbm) / 10)


def seconds(settings, size_bytes):
    """On a link of 65 m without fading and gap."""
    return 8 * size_bytes / (settings.bandwidth_hz * math.log2(1 + snr(settings, 65.0)))


@pytest.mark.parametrize(
    ("scheduler", "reports", "grants"),
    [
        # A name takes 2 bits, a gain 7, a size 32; a message has 16 bytes of header, and parts are sums of bits:
        # middle device 1 or 2 is the coordinator (1: as near, and first); the tree is 3 > 2 > 1 and 0 > 1.
        # 0: 2 + 34 + 9 bits; 3: 2 + 9; 2: (2 + 18) + 11. Grants: 2·2 + 16 + 5 + 1 bits for both ends, 0 and 1.
        ("greedy_sinr", (16 + 6, 16 + 2, 16 + 4), (16 + 4,)),
        ("tdma", (16 + 5, 16 + 1, 16 + 1), (16 + 4,)),
    ],
)
def test_the_bytes_and_times_along_a_line_are_those_by_hand(scheduler, reports, grants):
    settings = replace(PLAIN, scheduler=scheduler)
    plan = Channel(settings, LINE, seed=0).plan_round(0, WANTED)
    beacon_s = 8 * 16 / (settings.bandwidth_hz * math.log2(2))
    found = plan.control
    assert [part.sent_bytes for part in found.parts] == [64, sum(reports), sum(grants)]
    assert found.discovery.span_s == pytest.approx(4 * beacon_s)
    assert found.reports.span_s == pytest.approx(seconds(settings, sum(reports)), rel=1e-3)
    assert found.grants.span_s == pytest.approx(seconds(settings, sum(grants)), rel=1e-3)
    sent_s = np.array([seconds(settings, reports[0]), seconds(settings, grants[0]), seconds(settings, reports[2]),
                       seconds(settings, reports[1])]) + beacon_s  # fmt: skip
    heard_s = np.array(
        [
            seconds(settings, grants[0]),
            seconds(settings, reports[0] + reports[2]),
            seconds(settings, reports[1]),
            0.0,
        ]
    ) + beacon_s * np.array([1, 2, 2, 1])
    drawn_w = (
        10 ** (settings.tx_power_dbm / 10 - 3) / settings.amplifier_efficiency + settings.circuit_power_w
    )
    expected = sent_s * drawn_w + heard_s * settings.receive_power_w
    np.testing.assert_allclose(found.energy_j, expected, rtol=1e-3)


@pytest.mark.parametrize("scheduler", ["tdma", "aloha"])
def test_a_round_is_the_free_one_later_by_the_control_and_dearer_by_its_energy(scheduler):
    place = np.random.default_rng(2).random((12, 2)) * 200
    wanted = Transfers.build(np.arange(12), (np.arange(12) + 1) % 12, 4000)
    charged = replace(PLAIN, scheduler=scheduler, fading="rayleigh")
    free = Channel(replace(charged, control="free"), place, seed=1).plan_round(0, wanted)
    plan = Channel(charged, place, seed=1).plan_round(0, wanted)
    assert free.control is None and plan.control.span_s > 0
    assert plan.end_s == pytest.approx(free.end_s + plan.control.span_s)
    assert plan.airtime_s == pytest.approx(free.airtime_s) and np.array_equal(plan.attempts, free.attempts)
    np.testing.assert_allclose(plan.radio_energy_j, free.radio_energy_j + plan.control.energy_j)


def test_fine_reports_of_all_pairs_give_the_schedule_that_is_known_for_nothing():
    place = np.random.default_rng(3).random((16, 2)) * 60
    wanted = Transfers.build(np.arange(16), (np.arange(16) + 1) % 16, 4000)
    settings = replace(PLAIN, control_gain_bits=16)
    tables = [
        Channel(one, place, seed=1).plan_round(0, wanted).table
        for one in (settings, replace(settings, control="free"))
    ]
    assert np.array_equal(*(t[["slot", "transfer"]].to_numpy() for t in tables))
    np.testing.assert_allclose(tables[0]["rate_bps"], tables[1]["rate_bps"])


def test_reported_gains_are_half_a_step_from_the_truth_and_silence_is_none():
    radio = Channel(PLAIN, LINE, seed=0)._radio(0)
    rng = np.random.default_rng(0)
    gains = 10 ** rng.uniform(-14.0, -6.0, (4, 4))
    near = matrix_gains(gains)
    for bits in (3, 7, 16):
        told = reported_gains(radio, near, bits)
        heard = near.in_gain * radio.power_w[0] >= radio.noise_w[0]
        off_db = np.abs(10 * np.log10(told.in_gain[heard] / near.in_gain[heard]))
        assert heard.sum() > 3 and off_db.max() <= RANGE_DB / (2**bits - 1) / 2 * (1 + 1e-9)
        assert np.all(told.in_gain[~heard] == 0)
        np.testing.assert_allclose(told.matrix()[:3, 3], told.in_gain[12:15])


def test_schedulers_go_by_the_last_report_until_the_next_one_and_a_restored_channel_too():
    """Two links far apart share a slot; they meet, and still do until the gains are told anew."""
    apart = np.array([[0.0, 0.0], [20.0, 0.0], [900.0, 0.0], [920.0, 0.0]])
    met = np.array([[0.0, 0.0], [20.0, 0.0], [40.0, 0.0], [22.0, 0.0]])
    wanted = Transfers.build([0, 2], [1, 3], 5000)
    channel = Channel(replace(PLAIN, control_every_rounds=2), apart, seed=0)
    first = channel.plan_round(0, wanted)
    channel.move(met)
    saved = channel.snapshot()
    old, new = channel.plan_round(1, wanted), channel.plan_round(2, wanted)
    assert old.control.discovery.sent_bytes == 0 < new.control.discovery.sent_bytes
    assert [plan.table["slot"].iloc[:2].nunique() for plan in (first, old, new)] == [1, 1, 2]
    again = Channel(replace(PLAIN, control_every_rounds=2), apart, seed=0)
    again.restore(saved)
    assert again.plan_round(1, wanted).table.equals(old.table)


def test_batteries_pay_for_control_and_dead_devices_send_no_beacon():
    from channels.energy import DeviceClass, draw_classes

    classes = draw_classes((DeviceClass("small", 1.0, battery_j=2e-4),), 4, seed=0)
    channel = Channel(PLAIN, LINE, seed=0, device_classes=classes)
    first = channel.plan_round(0, WANTED)
    assert not first.alive.all() and np.all(first.radio_energy_j <= 2e-4 * (1 + 1e-12))
    second = channel.plan_round(1, WANTED)
    assert second.control.discovery.sent_bytes == 16 * int(first.alive.sum())


def test_energy_by_state_holds_control_and_still_adds_up():
    settings = replace(PLAIN, energy="states", listen_power_w=0.033, idle_power_w=0.0067)
    free = Channel(replace(settings, control="free"), LINE, seed=0).plan_round(0, WANTED)
    plan = Channel(settings, LINE, seed=0).plan_round(0, WANTED)
    more = plan.state_energy_j[:2] - free.state_energy_j[:2]
    np.testing.assert_allclose(more, [plan.control.transmit_j, plan.control.receive_j], atol=1e-15)
    assert np.array_equal(plan.state_energy_j.sum(axis=0), plan.radio_energy_j)


@pytest.mark.parametrize("scheduler", ["csma", "aloha", "sidelink_mode2"])
def test_random_access_hears_for_itself_and_differs_by_the_beacons_time_alone(scheduler):
    """Carrier sense goes by the powers on air, however coarse reports are, and not by what a beacon told rounds ago."""
    place = np.random.default_rng(5).random((40, 2)) * 600
    source = np.arange(40)
    wanted = Transfers.build(source, (source + 1) % 40, 3000)
    options = {"csma": {"sense_dbm": -95.0}, "sidelink_mode2": {"period_s": 0.05}}.get(scheduler, {})
    slot_s = 5e-3 if scheduler == "sidelink_mode2" else 5e-5
    free = RadioSettings(scheduler=scheduler, scheduler_options=options, slot_s=slot_s)
    coarse = replace(free, control="charged", control_gain_bits=2, control_every_rounds=3)
    one, other = Channel(free, place, seed=2), Channel(coarse, place, seed=2)
    for number, shift in enumerate((0.0, 150.0)):
        for channel in (one, other):
            channel.move(place + np.array([[shift, 0.0]]) * (source[:, None] % 2))
        plain, charged = (channel.plan_round(number, wanted) for channel in (one, other))
        later = charged.start_s + charged.control.span_s - plain.start_s
        for name in ("slot", "source", "destination", "sinr_db", "rate_bps", "delivered"):
            np.testing.assert_array_equal(plain.table[name], charged.table[name])
        np.testing.assert_allclose(charged.table.start_s - plain.table.start_s, later, atol=1e-9)


@pytest.mark.parametrize("more", [{}, {"external_per_km2": 200.0}, {"scheduler": "tdma"}])
def test_control_between_reports_goes_on_as_it_would_have_after_a_restore(more):
    # The tree of a report stays, though devices move on: with coordinators, noise and gains of where they stood then.
    settings = RadioSettings(control="charged", control_every_rounds=5, **more)
    start = np.random.default_rng(0).random((10, 2)) * 200
    wanted = nearest_transfers(start, 3, 2000)
    way = np.random.default_rng(1).normal(size=(10, 2)) * 60

    def play(channel, rounds, cut):
        plans = []
        for r in rounds:
            if r == cut:
                again = Channel(settings, start, seed=3)
                again.restore(channel.snapshot())
                channel = again
            channel.move(np.mod(start + way * r, 200))
            plans.append(channel.plan_round(r, wanted))
        return plans

    straight = play(Channel(settings, start, seed=3), range(1, 5), cut=None)
    for cut in (2, 3, 4):
        resumed = play(Channel(settings, start, seed=3), range(1, 5), cut=cut)
        for a, b in zip(straight, resumed, strict=True):
            assert [p.sent_bytes for p in a.control.parts] == [p.sent_bytes for p in b.control.parts]
            np.testing.assert_array_equal(a.control.energy_j, b.control.energy_j)
            assert a.end_s == b.end_s


def test_a_device_that_is_off_pays_for_no_control_and_relays_none():
    away = Presence.build(
        4, [1], [0.0], [0], [1.0]
    )  # 1, through which all of 0's reports go, is off for good
    for scheduler in ("greedy_sinr", "local_greedy", "csma"):
        settings = replace(PLAIN, scheduler=scheduler)
        found = Channel(settings, LINE, seed=0, presence=away).plan_round(0, WANTED).control
        assert found.energy_j[1] == 0 and found.sent_bytes > 0
        assert all(part.transmit_s[1] == part.receive_s[1] == 0 for part in found.parts)
        assert all(part.transmit_s[0] == 0 for part in found.parts[1:]) or scheduler == "local_greedy"


def test_devices_without_energy_announce_no_slots():
    batteries = draw_classes((DeviceClass(battery_j=1.0),), 4, seed=0)
    batteries = replace(batteries, battery_j=np.array([1.0, 0.0, 1.0, 1.0]))
    settings = replace(PLAIN, scheduler="local_greedy")
    found = Channel(settings, LINE, seed=0, device_classes=batteries).plan_round(0, WANTED).control
    assert all(part.transmit_s[1] == 0 for part in found.parts)
    assert (
        found.grants.sent_bytes
        == Channel(settings, LINE, seed=0).plan_round(0, WANTED).control.grants.sent_bytes / 2
    )


def test_control_is_cut_at_the_deadline_and_begun_anew():
    every = replace(PLAIN, control_every_rounds=3)
    whole = Channel(every, LINE, seed=0).plan_round(0, WANTED).control
    middle_s = whole.discovery.span_s + whole.reports.span_s / 2
    channel = Channel(replace(every, deadline_s=middle_s), LINE, seed=0)
    first, second = (channel.plan_round(r, WANTED) for r in (0, 1))
    found = first.control
    assert (
        found.cut and not whole.cut and not first.delivered.any() and first.end_s == pytest.approx(middle_s)
    )
    assert (
        found.span_s == pytest.approx(middle_s) and found.discovery.sent_bytes == whole.discovery.sent_bytes
    )
    np.testing.assert_allclose(found.reports.transmit_s, whole.reports.transmit_s / 2)
    assert found.grants.sent_bytes == 0 and not found.grants.transmit_s.any()
    assert second.control.discovery.sent_bytes == whole.discovery.sent_bytes, (
        "what was not told is told again"
    )
    longer = Channel(replace(every, deadline_s=1.01 * whole.span_s), LINE, seed=0)
    assert not longer.plan_round(0, WANTED).control.cut
