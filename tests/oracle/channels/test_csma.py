"""Carrier sense against Bianchi's fixed point, hidden terminals and capture."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from channels.channel import Channel
from channels.gains import matrix_gains
from channels.scheduling import csma
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WINDOW, DOUBLINGS = 32, 5
# 802.11a: slot 9 us, SIFS 16 us, DIFS 34 us, an acknowledgement of 28 us: what follows a frame.
SLOT_S, AFTER_S, PAYLOAD_BYTES = 9e-6, 78e-6, 1500
FLAT = {"path_loss": "log_distance", "path_loss_exponent": 4.0, "shadowing": False, "fading": "none",
        "bandwidth_hz": 20e6, "scheduler": "csma", "slot_s": SLOT_S, "feedback_s": AFTER_S,
        "max_attempts": 100, "tx_power_dbm": 20.0}  # fmt: skip


def fixed_point(senders):
    """Bianchi's tau and p: tau = 2/(1 + W + pW·sum of (2p)^i over i < m), p = 1 - (1 - tau)^(n - 1)."""

    def tau(p):
        return 2 / (1 + WINDOW + p * WINDOW * sum((2 * p) ** i for i in range(DOUBLINGS)))

    p = optimize.brentq(lambda p: p - 1 + (1 - tau(p)) ** (senders - 1), 1e-6, 0.9)
    return tau(p), p


def throughput(senders, frame_s):
    """Share of time in which payloads that nobody else disturbs are on air (Bianchi, eq. 13), with T_s = T_c."""
    tau, _ = fixed_point(senders)
    some = 1 - (1 - tau) ** senders
    one = senders * tau * (1 - tau) ** (senders - 1)
    return one * frame_s / ((1 - some) * SLOT_S + some * (frame_s + AFTER_S))


def saturated(senders, attempts, **fields):
    """Senders in one spot and their receivers in another, 40 m away: all hear each other, and who collides is lost."""
    turn = np.linspace(0, 2 * np.pi, senders, endpoint=False)
    ring = 0.5 * np.stack([np.cos(turn), np.sin(turn)], 1)
    options = {"window": WINDOW, "doublings": DOUBLINGS}
    settings = RadioSettings(**(FLAT | fields), scheduler_options=options, deadline_s=attempts * 3e-4)
    channel = Channel(settings, np.concatenate([ring, ring + np.array([40.0, 0.0])]), seed=1)
    each = attempts // senders + 60
    source = np.repeat(np.arange(senders), each)
    done = channel.plan_round(0, Transfers.build(source, source + senders, PAYLOAD_BYTES))
    table = done.table
    # Who never sent nothing waits at the end: no sender ran out.
    assert np.bincount(source[~done.delivered], minlength=senders).min() > 0
    frame_s = float(8 * PAYLOAD_BYTES / table.rate_bps.iloc[0])
    return table, frame_s, float(table.end_s.max() + AFTER_S)


def test_the_fixed_point_has_its_published_values():
    assert [round(fixed_point(n)[1], 3) for n in (5, 10, 20)] == [0.178, 0.290, 0.399]


def check(senders, attempts, share):
    table, frame_s, length_s = saturated(senders, attempts)
    whole = table[table.end_s - table.start_s > 0.999 * frame_s]
    _, p = fixed_point(senders)
    lost = float((~whole.decoded).mean())
    assert abs(lost - p) < 4 * np.sqrt(p * (1 - p) / len(whole)) + 0.005
    # Lost are those that started together.
    together = whole.groupby("slot").transfer.transform("count") > 1
    assert np.array_equal(together, ~whole.decoded)
    got = float(whole.decoded.sum()) * frame_s / length_s
    assert got == pytest.approx(throughput(senders, frame_s), rel=share)


def test_collisions_and_throughput_of_five_senders():
    check(5, 600, 0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("senders", "attempts"), [(5, 8000), (10, 8000), (20, 2500), (50, 12000)])
def test_collisions_and_throughput_to_fifty_senders(senders, attempts):
    check(senders, attempts, 0.02)


def test_who_hears_another_waits_and_who_does_not_collides():
    """Two senders on either side of two receivers: deaf ones disturb each other, hearing ones at equal counts alone."""
    place = [[0.0, 0.0], [100.0, 0.0], [45.0, 0.0], [55.0, 0.0]]
    wanted = Transfers.build([0, 1] * 60, [2, 3] * 60, PAYLOAD_BYTES)
    lost = {}
    for sense_dbm in (-110.0, 0.0):
        settings = RadioSettings(**FLAT, scheduler_options={"sense_dbm": sense_dbm, "window": 64})
        table = Channel(settings, place, seed=1).plan_round(0, wanted).table
        assert len(set(np.round(table.rate_bps))) == 1
        lost[sense_dbm] = float((~table.decoded).mean())
    assert lost[-110.0] < 0.1 and lost[0.0] > max(0.15, 2.5 * lost[-110.0])


def test_the_stronger_of_two_survives():
    """The near sender's receiver decodes through the far one's signal, and not the other way round."""
    place = [[0.0, 0.0], [0.0, 5.0], [200.0, 0.0], [120.0, 0.0]]
    options = {"window": 2, "doublings": 0}
    settings = RadioSettings(**(FLAT | {"max_attempts": 3}), rate="cqi", scheduler_options=options)
    channel = Channel(settings, place, seed=2)
    table = channel.plan_round(0, Transfers.build([0, 2] * 40, [1, 3] * 40, PAYLOAD_BYTES)).table
    both = table[table.groupby("slot").transfer.transform("count") == 2]
    near, far = (both[both.source == source].decoded for source in (0, 2))
    assert len(near) > 10 and near.all() and not far.any()


def test_one_channel_and_sound_options():
    for fields, words in (
        ({"subchannels": 2}, "subchannels"),
        ({"scheduler_options": {"window": 0}}, "window"),
        ({"scheduler_options": {"wndow": 8}}, "window"),
    ):
        with pytest.raises(ValueError, match=words):
            RadioSettings(scheduler="csma", **fields)


def crowd(devices, **fields):
    """A round in which everybody of a crowd sends to a near one, the farther ones out of each other's hearing."""
    place = np.random.default_rng(3).random((devices, 2)) * 60.0 * np.sqrt(devices)
    apart = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1)) + np.diag(np.full(devices, np.inf))
    channel = Channel(RadioSettings(scheduler="csma", **fields), place, seed=4)
    return channel.plan_round(0, Transfers.build(np.arange(devices), apart.argmin(axis=1), 4000)).table


@pytest.mark.parametrize("fields", [{}, {"dense_devices": 50, "near_neighbours": 30}])
def test_who_hears_whom_is_as_by_the_sum_over_all_devices(fields, monkeypatch):
    """Powers are added as senders start; the oracle adds those of all devices anew at every look."""
    fast = crowd(120, **fields)
    assert fast.slot.nunique() > 20 and (fast.groupby("slot").transfer.nunique() > 1).any()

    def by_all(task, device, sending, heard_w, sense_w):
        near = task.radio.near
        row = slice(int(near.indptr[device]), int(near.indptr[device + 1]))
        power_w = task.radio.power_w * sending
        return math.fsum((power_w[near.index[row]] * near.in_gain[row]).tolist()) >= sense_w

    monkeypatch.setattr(csma, "_hears", by_all)
    pd.testing.assert_frame_equal(fast, crowd(120, **fields), check_exact=True)


def test_powers_at_the_threshold_are_summed_without_rounding():
    """Ten senders of a tenth each reach 1 by the exact sum, and miss it or not by the order of one by one."""
    gain = np.zeros((11, 11))
    gain[:10, 10] = gain[10, :10] = 0.1
    radio = SimpleNamespace(near=matrix_gains(gain), power_w=np.ones(11))
    task, heard_w = SimpleNamespace(radio=radio), np.zeros(11)
    for source in range(10):
        csma._add_heard(task, source, heard_w)
    assert heard_w[10] < 1.0
    assert csma._hears(task, 10, np.arange(11) < 10, heard_w, 1.0)
    assert not csma._hears(task, 10, np.arange(11) < 9, heard_w * 0.9, 1.0)


def test_a_look_at_the_channel_costs_no_sum_over_all_devices(monkeypatch):
    """Some thousand looks of 300 devices in a round took so many sums of 300 powers."""
    summed = []
    monkeypatch.setattr(csma.math, "fsum", lambda terms: summed.append(len(terms)) or sum(terms))
    crowd(300)
    assert sum(summed) < 300


@pytest.mark.parametrize("window", [2**16, 2**16 + 1])
def test_back_offs_that_no_round_ends_with_are_refused(window):
    if window <= 2**16:
        assert RadioSettings(scheduler="csma", scheduler_options={"window": window}).scheduler_options
        return
    with pytest.raises(ValueError, match="window is 65537; expected a whole number >= 1 and <= 65536"):
        RadioSettings(scheduler="csma", scheduler_options={"window": window})
