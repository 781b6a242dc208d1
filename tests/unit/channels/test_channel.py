import math

import numpy as np
import pytest

from channels.channel import Channel
from channels.energy import DeviceClass, compute_cost, draw_classes
from channels.fading import power_cdf
from channels.link import noise_power_dbm
from channels.pathloss import ValidityWarning, path_loss_db
from channels.rounds import slot_fading
from channels.settings import RadioSettings
from channels.tables import SCHEDULERS
from channels.transfers import OUTCOMES, TABLE_COLUMNS, Transfers

pytestmark = pytest.mark.filterwarnings("ignore::channels.pathloss.ValidityWarning")


def drop(devices=12, side_m=250.0, seed=0):
    return np.random.default_rng(seed).random((devices, 2)) * side_m


def neighbours(positions_m, count=3, payload_bytes=20_000):
    apart = np.linalg.norm(positions_m[:, None] - positions_m, axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :count]
    source = np.repeat(np.arange(positions_m.shape[0]), count)
    return Transfers.build(source, nearest.reshape(-1), payload_bytes, message=source)


def fading_of(channel, round_index, slot):
    return slot_fading(channel.settings, channel.seed, channel._fading_table, round_index, slot)


def make(positions_m, *, seed=1, classes=None, **fields):
    return Channel(RadioSettings(**fields), positions_m, seed=seed, device_classes=classes)


def test_mean_snr_without_randomness_is_the_link_budget():
    positions = drop()
    channel = make(positions, shadowing=False, line_of_sight="always", antenna_gain_db=2.0)
    i, j = np.triu_indices(12, 1)
    apart = np.linalg.norm(positions[i] - positions[j], axis=1)
    budget = 23.0 + 2.0 - path_loss_db("d2d_outdoor", apart, 2e9) - noise_power_dbm(5e6, 9.0)
    np.testing.assert_allclose(channel.mean_snr_db(i, j), budget, atol=0.003)
    assert np.array_equal(channel.mean_snr_db(i, j), channel.mean_snr_db(j, i))
    assert channel.mean_snr_db(np.zeros((2, 1), int), [[1, 2, 3]]).shape == (2, 3)


def test_shadowing_and_los_have_their_distributions():
    rng = np.random.default_rng(3)
    # Pairs 60 m apart, far from one another.
    left = rng.random((4000, 2)) * 1e5
    positions = np.concatenate([left, left + np.array([60.0, 0.0])])
    channel = make(positions, shadowing_sigma_db=5.0)
    snr = channel.mean_snr_db(np.arange(4000), np.arange(4000) + 4000)
    los, nlos = (
        23 - path_loss_db("d2d_outdoor", 60.0, 2e9, los=state) - noise_power_dbm(5e6, 9.0)
        for state in (True, False)
    )
    p = 18 / 60 * (1 - math.exp(-60 / 36)) + math.exp(-60 / 36)
    mean = p * los + (1 - p) * nlos
    variance = 25 + p * (1 - p) * (los - nlos) ** 2
    assert snr.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 4000))
    assert snr.var() == pytest.approx(variance, rel=0.1)


def test_shadowing_decorrelates_with_distance_moved():
    rng = np.random.default_rng(3)
    left = rng.random((3000, 2)) * 1e5
    positions = np.concatenate([left, left + np.array([60.0, 0.0])])
    channel = make(positions, line_of_sight="always")
    pair = (np.arange(3000), np.arange(3000) + 3000)
    before = channel.mean_snr_db(*pair)
    channel.move(positions + np.array([3.0, 4.0]))
    after = channel.mean_snr_db(*pair)
    # Both ends moved 5 m; the decorrelation distance in LOS is 10 m.
    found = np.corrcoef(before, after)[0, 1]
    assert found == pytest.approx(math.exp(-1.0), abs=4 / math.sqrt(3000))
    assert after.std() == pytest.approx(7.0, rel=0.06)


def test_table_has_the_named_columns_and_consistent_rows():
    channel = make(drop(), max_attempts=6)
    transfers = neighbours(drop())
    plan = channel.plan_round(0, transfers)
    table = plan.table
    assert tuple(table.columns) == TABLE_COLUMNS
    np.testing.assert_array_equal(table.source, transfers.source[table.transfer])
    np.testing.assert_array_equal(table.destination, transfers.destination[table.transfer])
    duration = table.end_s - table.start_s
    np.testing.assert_allclose(duration * table.rate_bps, table.payload_bytes * 8, rtol=1e-9)
    # The rate was chosen before: the attempt is decoded iff its SINR carries it (gap 3 dB, threshold 0 dB).
    needed = 10**0.3 * (2 ** (table.rate_bps / 5e6) - 1)
    np.testing.assert_array_equal(
        table.delivered, table.sinr_db >= 10 * np.log10(np.maximum(needed, 1)) - 1e-6
    )
    assert table.rate_bps.max() <= 7.4063 * 5e6
    for transfer, rows in table.groupby("transfer"):
        assert rows.attempts.tolist() == list(range(1, len(rows) + 1))
        assert rows.delivered.tolist() == [False] * (len(rows) - 1) + [plan.delivered[transfer]]
        assert plan.attempts[transfer] == len(rows)
    once = table.drop_duplicates("transmission")
    assert plan.airtime_s == pytest.approx((once.end_s - once.start_s).sum())
    assert plan.occupied_s == pytest.approx(table.end_s.max() - table.start_s.min())
    assert plan.energy_j.sum() == pytest.approx(table.energy_j.sum() + plan.idle_energy_j.sum())
    np.testing.assert_allclose(
        plan.finished_s[plan.delivered], table[table.delivered].sort_values("transfer").end_s
    )
    assert np.isnan(plan.finished_s[~plan.delivered]).all()


def test_sinr_of_every_row_recomputed_from_gains_and_fading():
    from channels import fading_kernels

    positions = drop(20)
    channel = make(positions)
    plan = channel.plan_round(4, neighbours(positions))
    noise_w = 10 ** ((float(noise_power_dbm(5e6, 9.0)) - 30) / 10)
    for slot, rows in plan.table.groupby("slot"):
        fading = fading_of(channel, 4, int(slot))
        senders = rows.source.unique()
        for row in rows.itertuples():
            snr = 10 ** (channel.mean_snr_db(senders, np.full(senders.size, row.destination)) / 10)
            ends = (senders, np.full(senders.size, row.destination))
            times = np.zeros(senders.size)
            h = fading_kernels.fading_factors(*ends, times, *fading.law(1))
            level = snr * h * noise_w
            own = level[senders == row.source][0]
            assert row.sinr_db == pytest.approx(
                10 * math.log10(own / (level.sum() - own + noise_w)), abs=1e-6
            )


@pytest.mark.parametrize(
    ("fading", "shape", "cdf"),
    [
        ("rayleigh", {}, {}),
        ("rician", {"rician_k_db": 7.0}, {"k_db": 7.0}),
        ("nakagami", {"nakagami_m": 0.8}, {"m": 0.8}),
    ],
)
@pytest.mark.parametrize("speed", [None, 1.0])
def test_drawn_fading_follows_its_law(fading, shape, cdf, speed):
    from scipy import stats

    from channels import fading_kernels

    channel = make(drop(), fading=fading, speed_mps=speed, **shape)
    drawn = fading_of(channel, 0, 0)
    i, j, times = np.arange(5000), np.arange(5000) + 5000, np.full(5000, 12.3)
    law = drawn.law(1)
    h = fading_kernels.fading_factors(i, j, times, *law)
    assert stats.kstest(h, lambda x: power_cdf(fading, x, **cdf)).pvalue > 1e-3


def test_fading_in_time_has_clarkes_correlation_at_every_lag():
    from scipy.special import j0

    from channels import fading_kernels

    i, j = np.arange(20000), np.arange(20000) + 20000
    for slot_s in (1e-3, 20e-3):
        channel = make(drop(), speed_mps=15.0, slot_s=slot_s)
        drawn = fading_of(channel, 0, 0)
        law = drawn.law(1)
        before = fading_kernels.fading_factors(i, j, np.full(20000, 0.5), *law)
        for lag_s in (1e-3, 3e-3, 7e-3, 20e-3, 1.0):
            after = fading_kernels.fading_factors(i, j, np.full(20000, 0.5 + lag_s), *law)
            # The power's correlation is the square of the amplitude's: J0(2·pi·f_D·lag)².
            closed = j0(2 * np.pi * 15.0 * 2e9 / 299792458.0 * lag_s) ** 2
            assert np.corrcoef(before, after)[0, 1] == pytest.approx(closed, abs=0.03)


def test_snapshot_restores_bit_for_bit():
    positions = drop()
    classes = draw_classes([DeviceClass(battery_j=50.0)], 12, seed=0)
    one, other = (make(positions, classes=classes) for _ in range(2))
    one.plan_round(0, neighbours(positions))
    one.move(positions + 1.5)
    saved = one.snapshot()
    expected = one.plan_round(1, neighbours(positions), compute_energy_j=np.ones(12))
    other.restore(saved)
    found = other.plan_round(1, neighbours(positions), compute_energy_j=np.ones(12))
    assert expected.table.equals(found.table)
    assert np.array_equal(expected.energy_j, found.energy_j)
    assert one.clock_s == other.clock_s and np.array_equal(one.battery_j, other.battery_j)
    for value in saved.values():
        assert isinstance(value, np.ndarray | float | int | str)
    with pytest.raises(ValueError, match="seed"):
        make(positions, seed=9).restore(saved)


def test_ready_times_deadline_and_clock():
    positions = drop()
    channel = make(positions, deadline_s=5.0)
    ready = np.zeros(12)
    ready[3], ready[4] = 2.0, 50.0
    transfers = neighbours(positions)
    first = channel.plan_round(0, transfers, ready_s=ready)
    starts = first.table.groupby("source").start_s.min()
    assert starts[3] >= 2.0 and 4 not in starts.index
    late = transfers.source == 4
    assert not first.delivered[late].any()
    assert {OUTCOMES[code] for code in first.outcome[late]} == {"late"}
    assert first.end_s == 5.0 and channel.clock_s == 5.0
    assert (first.table.end_s <= 5.0).all()
    second = channel.plan_round(1, transfers)
    assert second.start_s == 5.0 and (second.table.start_s >= 5.0).all()


def test_transmission_on_air_at_the_deadline_is_cut_and_lost():
    channel = make([[0.0, 0.0], [50.0, 0.0]], deadline_s=0.1, fading="none")
    plan = channel.plan_round(0, Transfers.build([0], [1], [50_000_000]))
    assert plan.table.end_s.tolist() == [0.1] and not plan.delivered[0]
    assert OUTCOMES[plan.outcome[0]] == "late"


def test_batteries_drain_and_dead_devices_leave():
    positions = drop()
    classes = draw_classes([DeviceClass(battery_j=2.0)], 12, seed=0)
    channel = make(positions, classes=classes)
    compute = np.zeros(12)
    compute[5] = 3.0
    transfers = neighbours(positions)
    plan = channel.plan_round(0, transfers, compute_energy_j=compute)
    touched = (transfers.source == 5) | (transfers.destination == 5)
    assert not plan.alive[5] and plan.alive.sum() == 11
    assert {OUTCOMES[code] for code in plan.outcome[touched]} == {"dead"}
    assert 5 not in set(plan.table.source) | set(plan.table.destination)
    np.testing.assert_allclose(channel.battery_j, np.maximum(2.0 - plan.energy_j, 0.0))
    later = channel.plan_round(1, transfers, compute_energy_j=compute)
    assert later.energy_j[5] == 0.0


def test_lost_after_max_attempts():
    channel = make([[0.0, 0.0], [3000.0, 0.0]], line_of_sight="never", shadowing=False, max_attempts=3)
    plan = channel.plan_round(0, Transfers.build([0], [1], [1000]))
    assert plan.attempts.tolist() == [3] and len(plan.table) == 3
    assert OUTCOMES[plan.outcome[0]] == "failed"


def test_nothing_to_send():
    channel = make(drop())
    plan = channel.plan_round(0, Transfers.build([], [], []), ready_s=np.full(12, 4.0))
    assert len(plan.table) == 0 and tuple(plan.table.columns) == TABLE_COLUMNS
    assert plan.end_s == 4.0 and plan.airtime_s == 0.0


def test_broadcast_counts_one_transmission_once():
    positions = drop(8, 120.0)
    channel = make(positions, scheduler="broadcast", errors="none", fading="none")
    plan = channel.plan_round(0, neighbours(positions))
    assert plan.delivered.all()
    once = plan.table.drop_duplicates("transmission")
    assert plan.airtime_s == pytest.approx((once.end_s - once.start_s).sum())
    assert len(once) < len(plan.table)
    assert plan.energy_j.sum() == pytest.approx(plan.table.energy_j.sum() + plan.idle_energy_j.sum())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("subchannels", [1, 3])
def test_every_scheduler_delivers_and_keeps_half_duplex(scheduler, subchannels):
    if scheduler == "csma" and subchannels > 1:
        pytest.skip("csma senses one channel")
    positions = drop(10, 100.0)
    fields = {"aloha_probability": 0.3, "max_attempts": 200} if scheduler == "aloha" else {"max_attempts": 20}
    channel = make(positions, scheduler=scheduler, subchannels=subchannels, **fields)
    plan = channel.plan_round(0, neighbours(positions))
    assert plan.delivered.all()
    for _, rows in plan.table.groupby("slot"):
        senders = rows.drop_duplicates("transmission").source.tolist()
        # Where nobody is told, two may address one receiver at once; a reservation does not spare senders either.
        heard = rows.destination.unique() if scheduler in ("csma", "sidelink_mode2") else rows.destination
        if scheduler == "sidelink_mode2":
            heard = np.setdiff1d(heard, rows[~rows.decoded].destination[rows.destination.isin(senders)])
        roles = senders + heard.tolist()
        assert len(set(roles)) == len(roles)
        assert rows.subchannel.between(0, subchannels - 1).all()
    if subchannels > 1 and scheduler != "aloha":
        assert plan.table.subchannel.nunique() > 1


def test_power_control_saves_energy_per_second_on_air():
    positions = drop(10, 200.0)
    fixed, controlled = (
        make(positions, power_control=name, fading="none").plan_round(0, neighbours(positions))
        for name in ("fixed", "foschini_miljanic")
    )
    assert controlled.delivered.sum() >= fixed.delivered.sum() - 1
    assert controlled.table.power_w.max() <= 10 ** (23 / 10 - 3) * (1 + 1e-12)
    assert controlled.table.power_w.mean() < 0.5 * fixed.table.power_w.mean()


@pytest.mark.parametrize("errors", ["chen", "none"])
def test_error_models(errors):
    positions = drop(10, 150.0)
    plan = make(positions, errors=errors, fading="none", shadowing=False).plan_round(0, neighbours(positions))
    if errors == "none":
        assert plan.delivered.all() and (plan.attempts == 1).all()
    else:
        # exp(-m/SINR) at the links' high SINR: few packets are lost.
        assert plan.delivered.mean() > 0.9


def test_airtime_cost_falls_with_snr_and_matches_no_fading():
    channel = make(drop(), fading="none", shadowing=False, line_of_sight="always")
    i, j = np.triu_indices(12, 1)
    snr = channel.mean_snr_db(i, j)
    cost = channel.airtime_s_per_mb(i, j)
    order = np.argsort(snr)
    assert np.all(np.diff(cost[order]) <= 1e-12)
    strong = snr > 1.0
    # No modulation carries more than 7.4063 bit/s/Hz.
    expected = 8e6 / (5e6 * np.minimum(np.log2(1 + 10 ** (snr / 10) / 10**0.3), 7.4063))
    np.testing.assert_allclose(cost[strong], expected[strong], rtol=2e-3)
    far = make([[0.0, 0.0], [4900.0, 0.0]], line_of_sight="never", shadowing=False)
    assert np.isinf(far.airtime_s_per_mb([0], [1]))[0]


def test_candidate_links_are_all_pairs_above_the_bound():
    positions = drop(60, 600.0)
    channel = make(positions)
    pairs, snr = channel.candidate_links(10.0)
    i, j = np.triu_indices(60, 1)
    all_snr = channel.mean_snr_db(i, j)
    expected = np.stack([i, j], axis=1)[all_snr >= 10.0]
    assert np.array_equal(pairs, expected)
    np.testing.assert_allclose(snr, all_snr[all_snr >= 10.0])
    sparse = make(positions, dense_devices=10)
    found = {tuple(pair) for pair in sparse.candidate_links(10.0)[0]}
    assert found <= {tuple(pair) for pair in expected} and len(found) >= 0.97 * len(expected)


@pytest.mark.parametrize("model", ["free_space", "log_distance"])
def test_path_loss_grows_beyond_200_km(model):
    away_m = np.array([5e4, 1.99e5, 2e5, 5e5, 2e6, 1e7, 1.4e7])
    channel = make([[0.0, 0.0], *([d, 0.0] for d in away_m)], path_loss=model, shadowing=False)
    exponent = {"exponent": channel.settings.path_loss_exponent} if model == "log_distance" else {}
    expected = 23.0 - path_loss_db(model, away_m, 2e9, **exponent) - noise_power_dbm(5e6, 9.0)
    np.testing.assert_allclose(channel.mean_snr_db(0, np.arange(1, 8)), expected, atol=2e-3)


def test_range_warning_names_the_standard():
    channel = make([[0.0, 0.0], [1.5, 0.0]])
    with pytest.warns(ValidityWarning, match=r"36\.843"):
        channel.plan_round(0, Transfers.build([0], [1], [1000]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make(np.zeros((3, 3))), "positions_m has shape"),
        (lambda: make([[0.0, np.nan]]), "finite"),
        (lambda: make(drop()).move(drop(5)), "expected"),
        (lambda: make(drop()).plan_round(0, Transfers.build([0], [77], [1])), "0 to 11"),
        (lambda: make(drop()).plan_round(0, neighbours(drop()), ready_s=[1.0]), "ready_s"),
        (
            lambda: make(drop()).plan_round(0, neighbours(drop()), compute_energy_j=-np.ones(12)),
            "compute_energy_j",
        ),
        (lambda: make(drop(), classes=draw_classes((), 3, seed=0)), "3 devices"),
        (lambda: Transfers.build([1], [1], [5]), "to itself"),
        (lambda: RadioSettings(scheduler="greedy"), "Did you mean 'greedy_sinr'"),
        (lambda: RadioSettings(bandwidth_hz=0.0), "bandwidth_hz"),
        (lambda: RadioSettings(subchannels=0), "subchannels"),
        (lambda: RadioSettings(aloha_probability=1.5), "aloha_probability"),
        (lambda: RadioSettings(rate="lte"), "rate"),
        (lambda: RadioSettings(deadline_s=-1.0), "deadline_s"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_compute_cost_by_hand():
    classes = draw_classes(
        [DeviceClass(frequency_hz=1e9, cycles_per_flop=0.25, capacitance=2e-28)], 2, seed=0
    )
    cost = compute_cost(classes, [4e9, 0.0])
    np.testing.assert_allclose(cost.seconds, [1.0, 0.0])
    np.testing.assert_allclose(cost.energy_j, [2e-28 * 0.25 * 1e18 * 4e9, 0.0])


def test_device_classes_are_drawn_by_share_and_stable_in_number():
    kinds = [
        DeviceClass("slow", share=1.0, frequency_hz=1e9),
        DeviceClass("fast", share=3.0, tx_power_dbm=20.0),
    ]
    many, few = draw_classes(kinds, 8000, seed=4), draw_classes(kinds, 100, seed=4)
    assert np.mean(many.index == 1) == pytest.approx(0.75, abs=0.02)
    assert np.array_equal(many.index[:100], few.index)
    power = few.tx_power_w(23.0)
    np.testing.assert_allclose(power[few.index == 1], 0.1)
    np.testing.assert_allclose(power[few.index == 0], 10**-0.7)
