"""Sensing-based semi-persistent scheduling: by hand, against plain NumPy, and against the models of C-V2X mode 4."""

import numpy as np
import pytest

from benchmarks import sidelink_mode4
from channels.channel import Channel
from channels.scheduling import plan
from channels.scheduling.reservations import NEVER
from channels.scheduling.sidelink import Sensing
from channels.settings import RadioSettings
from channels.transfers import OUTCOMES, Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Worked by hand: 0.1 W, 1 MHz, slots of a millisecond. A link of 30 dB carries 1,000 bit/(1 MHz·s)·lb(1 + 1000) =
# 9.967 bit/s/Hz, of which the highest modulation leaves 7.4063: 7,406 bit or 925 bytes a slot.
POWER_W, NOISE_W, PART = 0.1, 1e-13, 925
NEVER_MOVES = {"losses": 0, "sensing_s": 0.0}


def gains(devices, *links, db=30.0):
    """Reciprocal gains of the links that exist, at an SNR; all others are 0."""
    out = np.zeros((devices, devices))
    for one, other in links:
        out[one, other] = out[other, one] = 10 ** (db / 10) * NOISE_W / POWER_W
    return out


def schedule(transfers, gain, *, slots=None, subchannels=1, slot_s=1e-3, **options):
    return plan("sidelink_mode2", transfers, gain, POWER_W, NOISE_W * subchannels, sinr_min_db=0.0, slot_s=slot_s,
                bandwidth_hz=1e6 * subchannels, subchannels=subchannels, max_slots=slots, max_attempts=10**6,
                **{key: options.pop(key) for key in ("seed", "harq") if key in options},
                scheduler_options={"period_s": 4e-3, "sense_dbm": -120.0} | options)  # fmt: skip


def test_a_message_is_a_train_of_parts_one_a_period_in_one_place():
    done = schedule([(0, 1, 10 * PART + 100)], gains(2, (0, 1)))
    table = done.table
    assert table.payload_bytes.tolist() == [PART] * 10 + [100]
    assert set(np.diff(table.slot)) == {4} and 1 <= table.slot[0] <= 4
    assert table.decoded.all() and table.delivered.tolist() == [False] * 10 + [True]
    np.testing.assert_allclose(table.start_s, table.slot * 1e-3, atol=1e-12)
    np.testing.assert_allclose(table.end_s - table.start_s, 8 * table.payload_bytes / table.rate_bps)
    assert done.attempts.tolist() == [1] and done.finished_s[0] == table.end_s.iloc[-1]
    assert done.airtime_s == pytest.approx(8 * (10 * PART + 100) / table.rate_bps[0])
    assert done.end_s == pytest.approx((table.slot.iloc[-1] + 1) * 1e-3)


def test_two_hidden_senders_of_one_resource_lose_everything_and_hearing_ones_cannot_part():
    """One slot a period and one sub-channel: each sends in every slot, whatever it hears."""
    for heard in ((), ((0, 1),)):
        gain = gains(4, (0, 2), (1, 2), (0, 3), (1, 3), *heard)
        table = schedule([(0, 2, 10**6), (1, 3, 10**6)], gain, slots=50, period_s=1e-3, **NEVER_MOVES).table
        assert np.bincount(table.slot)[1:].tolist() == [2] * 49 and not table.decoded.any()
        np.testing.assert_allclose(table.sinr_db, -10 * np.log10(1 + 1e-3), atol=1e-9)


def collided(keep, rounds, periods):
    """Share of the transmissions of two hidden senders that meet, per seed; two receivers hear both.

    Four slots a period of 100 ms, so that a choice lasts for 5 to 15 transmissions.
    """
    gain = gains(4, (0, 2), (1, 2), (0, 3), (1, 3))
    out = []
    for seed in range(rounds):
        wanted, slots = (
            [(0, 2, 10**8), (1, 3, 10**8)],
            {"slot_s": 0.025, "period_s": 0.1, "slots": 4 * periods},
        )
        table = schedule(wanted, gain, resource_keep=keep, seed=seed, **slots, **NEVER_MOVES).table
        met = table.groupby("slot").source.transform("count") == 2
        assert np.array_equal(met, ~table.decoded)
        out.append(met.mean())
    return np.array(out)


def test_with_keeping_for_sure_two_hidden_senders_collide_always_or_never():
    share = collided(1.0, 30, 30)
    assert set(share) == {0.0, 1.0}
    # They choose among four places: a quarter of the pairs meets.
    assert abs(share.mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 30)


def test_without_keeping_a_collision_ends_with_a_reservation():
    share = collided(0.0, 6, 150)
    # 15 choices of each sender, at other times, so that some 30 pairs of places meet with chance 1/4 each.
    assert share.min() > 0 and share.max() < 0.75
    assert abs(share.mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / (6 * 15))


def test_who_hears_a_reservation_keeps_clear_of_it():
    """Each sender begins after the others have sent: no two ever meet, though all hear all and all places are taken."""
    settings = RadioSettings(
        scheduler="sidelink_mode2", path_loss="log_distance", shadowing=False, fading="none", sinr_min_db=-20.0,
        scheduler_options={"period_s": 8e-3, "resource_keep": 1.0, **NEVER_MOVES},
    )  # fmt: skip
    turn = np.linspace(0, 2 * np.pi, 7, endpoint=False)
    channel = Channel(settings, 20 * np.stack([np.cos(turn), np.sin(turn)], 1), seed=1)
    ready_s = np.arange(7) * 0.02
    table = channel.plan_round(
        0, Transfers.build(np.arange(7), (np.arange(7) + 1) % 7, 300_000), ready_s=ready_s
    ).table
    assert table.decoded.all() and table.slot.is_unique and table.groupby("source").slot.nunique().min() > 50
    assert all(set(np.diff(rows.slot)) == {8} for _, rows in table.groupby("source"))


def test_of_two_that_address_each_other_in_one_slot_neither_hears():
    """On two sub-channels of one slot they do not disturb each other, and yet nothing arrives; feedback is not sent."""
    gain = gains(2, (0, 1))
    both = [(0, 1, 10**6), (1, 0, 10**6)]
    table = schedule(
        both, gain, slots=300, period_s=1e-3, subchannels=2, resource_keep=0.0, sensing_s=0.0
    ).table
    apart = table[table.groupby("slot").subchannel.transform("nunique") == 2]
    assert len(apart) and not apart.decoded.any() and np.isneginf(apart.sinr_db).all()
    table = schedule(both, gain, slots=400, period_s=2e-3, resource_keep=1.0, seed=3, **NEVER_MOVES).table
    alone = table.groupby("slot").source.transform("count") == 1
    assert np.array_equal(alone, table.decoded) and alone.nunique() == 1


def test_who_cannot_hear_draws_no_receivers_power():
    for seed, decoded in ((0, None), (1, None), (2, None), (3, None)):
        done = schedule(
            [(0, 1, PART), (1, 0, PART)], gains(2, (0, 1)), slots=5, period_s=4e-3, seed=seed, losses=0
        )
        decoded = done.table.decoded
        sent_s = 8 * PART / done.table.rate_bps
        by_hand = sent_s * (POWER_W / 0.35 + 0.1) + np.where(decoded, sent_s * 0.1, 0.0)
        np.testing.assert_allclose(done.table.energy_j, by_hand, rtol=1e-9)


def test_a_lost_part_is_repeated_as_it_was_to_those_that_lack_it():
    """Three receivers of one message; in one of the two places a hidden sender reaches the second of them alone."""
    gain = gains(6, (0, 1), (0, 2), (0, 3), (4, 2), (4, 5))
    wanted = [(0, {1, 2, 3}, 20 * PART), (4, 5, 60 * PART)]
    every = (schedule(wanted, gain, seed=seed, losses=2, period_s=2e-3) for seed in range(40))
    done = next(one for one in every if not one.table.decoded.all())
    table = done.table[done.table.source == 0]
    assert done.delivered.all() and set(table.payload_bytes) == {PART}
    # Of each receiver as many parts are decoded as the message has; one part is lost twice, by the second.
    assert table[table.decoded].groupby("destination").size().tolist() == [20, 20, 20]
    assert done.attempts.tolist() == [1, 3, 1, 1] and (table[~table.decoded].destination == 2).all()
    receivers = table.groupby("slot").destination.apply(sorted)
    first, second = table[~table.decoded].slot
    again = receivers.loc[second:].iloc[:3]
    assert receivers[first] == [1, 2, 3] and again.tolist() == [[2], [2], [1, 2, 3]]
    # It stays in its place after the first loss and moves after the second.
    assert second - first == 2 and (again.index[1] - second) % 2 == 1


def test_a_message_costs_no_more_than_its_attempts_however_it_is_cut():
    """A link that never decodes is given up once three messages' bytes are lost, as with other schedulers."""
    gain = gains(3, (0, 1), db=-10.0)
    rate = 1e6 * np.log2(1 + 1.0)
    part = int(rate * 1e-3 // 8)
    options = {"sinr_min_db": 0.0, "slot_s": 1e-3, "bandwidth_hz": 1e6, "max_attempts": 3}
    done = plan("sidelink_mode2", [(0, 1, 10 * part)], gain, POWER_W, NOISE_W, **options)
    whole = plan("csma", [(0, 1, 10 * part)], gain, POWER_W, NOISE_W, **options)
    assert len(done.table) == 30 and set(done.table.payload_bytes) == {part} and done.attempts[0] == 30
    assert OUTCOMES[done.outcome[0]] == OUTCOMES[whole.outcome[0]] == "failed"
    assert done.airtime_s == pytest.approx(whole.airtime_s)


@pytest.mark.parametrize("harq", ["none", "chase", "incremental"])
def test_combining_is_that_of_one_part(harq):
    """Two hidden senders in every slot: the SINR is half of what the rate needs, so that two copies decode a part."""
    gain = gains(4, (0, 2), (1, 3), db=20.0) + gains(4, (0, 3), (1, 2), db=-0.1)
    done = schedule([(0, 2, 4000), (1, 3, 4000)], gain, slots=200, period_s=1e-3, harq=harq, **NEVER_MOVES)
    if harq == "none":
        assert not done.table.decoded.any()
        return
    table = done.table[done.table.source == 0]
    assert done.delivered.all() and len(table) == 10
    assert table.decoded.tolist() == [False, True] * 5 and table.payload_bytes.nunique() == 2
    assert done.attempts.tolist() == [6, 6]


def test_how_long_a_reservation_lasts():
    """TS 38.321: 5 to 15 transmissions from 100 ms on, else times 100 ms over the period, and that at least 20 ms."""
    draws = (np.arange(4096) + 0.5) / 4096
    for period_s, factor in ((1.0, 1), (0.1, 1), (0.05, 2), (0.03, 4), (0.02, 5), (0.01, 5), (1e-3, 5)):
        uses = Sensing(period_s, 1.0, 0.2, 0.0, 1.1, 0).draw_uses(draws)
        count = np.bincount(uses)[5 * factor :]
        assert uses.min() == 5 * factor and uses.max() == 15 * factor
        assert count.size == 10 * factor + 1 and np.ptp(count) <= 1


def test_runs_of_one_place_are_as_long_as_the_counter_says():
    table = schedule([(0, 1, 10**7)], gains(2, (0, 1)), slots=20_000, period_s=0.1).table
    place = (table.slot % 100).to_numpy()
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[-1], place]))))
    assert runs.min() >= 5 and runs.max() <= 15 and abs(runs.mean() - 10) < 3 * np.sqrt(10 / len(runs))
    # One part a period, from one choice to the next.
    assert np.array_equal((table.slot - 1) // 100, np.arange(len(table)))


def resources_by_hand(
    k, now, memory, share, threshold_w, power_w, gain, told_slot, told_band, sent_slot, bands
):
    """Resources left to a device, step by step as in TS 38.214, clause 8.1.4: [(slot, band)] and the threshold."""
    period = sent_slot.shape[1]
    every = [(now + ahead, band) for ahead in range(1, period + 1) for band in range(bands)]
    heard = [(s, b) for s, b in every if now - sent_slot[k, s % period] > memory]
    if len(heard) < share * len(every):
        heard = every
    while True:
        left = []
        for slot, band in heard:
            others = [
                j for j in range(len(power_w))
                if j != k and (told_slot[j], told_band[j]) == (slot, band)
                and sent_slot[k, slot % period] != slot - period
            ]  # fmt: skip
            if all(power_w[j] * gain[j, k] <= threshold_w for j in others):
                left.append((slot, band))
        if len(left) >= share * len(every):
            return left, threshold_w
        threshold_w *= 10**0.3


def test_choices_are_those_of_the_standards_steps():
    from channels.gains import matrix_gains
    from channels.scheduling.sidelink_kernels import choose_resources

    random, raised = np.random.default_rng(0), 0
    for _case in range(150):
        devices, period, bands = (int(random.integers(low, high)) for low, high in ((2, 30), (1, 9), (1, 4)))
        gain = 10 ** random.uniform(-12, -6, (devices, devices))
        np.fill_diagonal(gain, 0.0)
        power_w = random.uniform(0.05, 0.2, devices)
        now = int(random.integers(50, 60))
        told_slot = np.where(
            random.random(devices) < 0.8, now + random.integers(-2, period + 1, devices), NEVER
        )
        told_band = random.integers(0, bands, devices)
        sent_slot = np.full((devices, period), NEVER, dtype=np.int32)
        for device in range(devices):
            for slot in random.integers(now - 20, now + 1, int(random.integers(0, 4))):
                sent_slot[device, slot % period] = max(sent_slot[device, slot % period], slot)
        memory, share = int(random.integers(0, 25)), float(random.choice([0.2, 0.35, 0.5, 1.0]))
        near, draw = matrix_gains(gain), random.random(devices)
        slot, band, limit, left = choose_resources(
            np.arange(devices), draw, now, memory, share, 1e-10, power_w, near.indptr, near.index, near.in_gain,
            told_slot, told_band, sent_slot, bands,
        )  # fmt: skip
        for k in range(devices):
            expected, threshold_w = resources_by_hand(
                k, now, memory, share, 1e-10, power_w, gain, told_slot, told_band, sent_slot, bands
            )
            assert (slot[k], band[k]) == expected[int(draw[k] * len(expected))] and left[k] == len(expected)
            assert limit[k] == pytest.approx(threshold_w)
            raised += threshold_w > 1e-10
    assert raised > 100


@pytest.mark.exhaustive
@pytest.mark.parametrize("road", sidelink_mode4.ROADS)
def test_half_duplex_and_collisions_are_those_of_the_models_of_mode_4(road):
    """A short one of them is a row of `benchmarks.radio_against` and held by test_checked_against.py."""
    threshold_dbm, _, busy = sidelink_mode4.choice(road)
    raised = threshold_dbm > sidelink_mode4.SENSED_DBM
    off = np.abs(sidelink_mode4.scheduled(road) - sidelink_mode4.modelled(road))
    assert off[:, 0].max() < 0.01
    # The models know one threshold; where it must rise each vehicle has its own, and a few points more are lost.
    assert off[:, 3].mean() < (0.06 if raised else 0.03)
    assert off[:, 3].max() < (0.035 if busy < 0.7 else 0.09)


OPTIONS = {
    "period_s": 0.2,
    "sense_dbm": -20.0,
    "least_share": 1.0,
    "resource_keep": 0.9,
    "sensing_s": 0.0,
    "losses": 1,
}
"""Another value of each."""


def test_every_option_acts():
    turn = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    place = 30 * np.stack([np.cos(turn), np.sin(turn)], 1)
    wanted = Transfers.build(np.arange(6), (np.arange(6) + 1) % 6, 80_000)

    def table(**options):
        settings = RadioSettings(
            scheduler="sidelink_mode2",
            slot_s=0.01,
            bandwidth_hz=1e6,
            scheduler_options={"period_s": 0.1} | options,
        )
        return Channel(settings, place, seed=1).plan_round(0, wanted).table

    usual = table()
    assert [name for name, value in OPTIONS.items() if table(**{name: value}).equals(usual)] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"slot_s": 3e-3}, "period_s 0.02 and slot_s 0.003"),
        ({"slot_s": 1e-7}, "no byte fits"),
        ({"feedback_s": 1e-3}, "no byte fits"),
        ({"scheduler_options": {"period_s": 0.0}}, "period_s is 0.0; expected a finite number > 0"),
        ({"scheduler_options": {"period_s": "long"}}, "period_s is 'long'; expected a finite number"),
        ({"scheduler_options": {"sense_dbm": float("nan")}}, "sense_dbm is nan; expected a finite number"),
        ({"scheduler_options": {"least_share": 0.0}}, "least_share is 0.0; expected .* > 0 and <= 1"),
        ({"scheduler_options": {"resource_keep": 1.2}}, "resource_keep is 1.2; expected .* >= 0 and <= 1"),
        ({"scheduler_options": {"resource_keep": True}}, "resource_keep is True"),
        (
            {"scheduler_options": {"losses": 10**22}},
            "losses is 1(0){22}; expected a whole number >= 0 and <= 1e.06",
        ),
        ({"scheduler_options": {"losses": 1.5}}, "losses is 1.5; expected a whole number >= 0"),
        ({"scheduler_options": {"keep": 0.5}}, "resource_keep"),
    ],
)
def test_wrong_values_are_told(fields, words):
    with pytest.raises(ValueError, match=words):
        RadioSettings(scheduler="sidelink_mode2", **fields)


def test_nobody_is_known_before_a_round_and_every_seed_and_round_draws_its_own():
    place = np.random.default_rng(1).random((12, 2)) * 100
    wanted = Transfers.build(np.arange(12), (np.arange(12) + 1) % 12, 20_000)
    found = []
    for seed in (1, 2):
        channel = Channel(RadioSettings(scheduler="sidelink_mode2"), place, seed=seed)
        found += [tuple(channel.plan_round(number, wanted).table.slot[:12]) for number in range(2)]
    assert len(set(found)) == 4
