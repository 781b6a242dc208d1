"""Near lists and far field against the dense answer."""

import numpy as np
import pytest

from channels.channel import Channel
from channels.gains import dense_gains, pair_gains, strong_gains
from channels.interference import build_far_field
from channels.largescale import build_large_scale, gain_reached, weak_mean_gain
from channels.rounds import settings_law
from channels.settings import RadioSettings
from channels.shadowing import build_sites
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::channels.pathloss.ValidityWarning")


def experiment(devices, density_m2=2e-4, seed=0):
    return np.random.default_rng(seed).random((devices, 2)) * np.sqrt(devices / density_m2)


@pytest.mark.parametrize("sight", ["draw", "never"])
def test_near_list_holds_exactly_the_pairs_above_its_bound(sight):
    positions = experiment(700)
    scale = build_large_scale(RadioSettings(line_of_sight=sight), seed=2)
    sites = build_sites(scale, positions)
    near = strong_gains(scale, sites, 120)
    dense = dense_gains(scale, sites).matrix()
    listed = np.zeros((700, 700))
    rows = np.repeat(np.arange(700), np.diff(near.indptr))
    listed[rows, near.index] = near.out_gain
    apart = np.linalg.norm(positions[:, None] - positions, axis=2)
    wanted = np.where((dense >= near.min_gain) & (apart < near.radius_m), dense, 0.0)
    assert np.array_equal(listed, wanted)
    assert 100 < near.index.size / 700 < 140


def test_weak_mean_by_monte_carlo():
    scale = build_large_scale(RadioSettings(), seed=2)
    random = np.random.default_rng(4)
    distance = np.array([150.0])
    bound = 1e-11
    los = random.random(400_000) < scale.model.los_probability(distance)[0]
    from channels.pathloss import path_loss_db

    loss = np.where(los, *(path_loss_db("d2d_outdoor", 150.0, 2e9, los=state) for state in (True, False)))
    gain = 10 ** (-(loss + 7 * random.normal(size=los.size)) / 10)
    weak = np.where(gain < bound, gain, 0.0)
    slack = 4 * weak.std() / np.sqrt(weak.size)
    assert weak_mean_gain(scale, distance, bound)[0] == pytest.approx(weak.mean(), abs=slack)
    reached = np.mean(gain >= bound)
    assert gain_reached(scale, distance, bound)[0] == pytest.approx(reached, abs=4 / np.sqrt(weak.size))


def test_interference_at_5000_devices_within_a_tenth_of_a_decibel():
    positions = experiment(5000)
    scale = build_large_scale(RadioSettings(), seed=3)
    sites = build_sites(scale, positions)
    near = strong_gains(scale, sites, RadioSettings().near_neighbours)
    active = np.random.default_rng(1).choice(5000, 250, replace=False)
    sent = np.zeros(5000)
    sent[active] = 0.2
    receivers = np.setdiff1d(np.arange(5000), active)
    gain = pair_gains(scale, sites, np.repeat(active, receivers.size), np.tile(receivers, 250))
    exact = 0.2 * gain.reshape(250, -1).sum(axis=0)
    rows = np.repeat(np.arange(5000), np.diff(near.indptr))
    listed = np.bincount(rows, weights=sent[near.index] * near.in_gain, minlength=5000)
    far = build_far_field(scale, sites, near, "grid")
    total = listed + far.at_devices(active, np.full(250, 0.2))
    error_db = np.abs(10 * np.log10(total[receivers] / exact))
    assert np.percentile(error_db, 99) <= 0.1
    # Without the far field it is far worse: the test would notice its absence.
    assert np.percentile(np.abs(10 * np.log10(listed[receivers] / exact)), 99) > 0.15


def test_uniform_tail_has_its_closed_form():
    settings = RadioSettings(path_loss="log_distance", path_loss_exponent=3.0, shadowing=False)
    scale = build_large_scale(settings, seed=0)
    positions = experiment(2000)
    sites = build_sites(scale, positions)
    near = strong_gains(scale, sites, 100)
    far = build_far_field(scale, sites, near, "mean")
    gain_1m = np.exp(scale.curves[0, 0])
    edge = (gain_1m / near.min_gain) ** (1 / 3.0)
    closed = 2 * np.pi * gain_1m * (edge**-1 - 200e3**-1)
    assert far.tail_m2 == pytest.approx(closed, rel=2e-3)


def test_sparse_and_dense_rounds_agree():
    """A round planned from near lists is much like one planned from all pairs' gains, whatever the lists' length.

    Pairs that no list holds count by their mean, so that slots are about as full. Their members' rates are those that
    all pairs' gains give the same slots.
    """
    devices = 800
    positions = experiment(devices)
    apart = np.linalg.norm(positions[:, None] - positions, axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :2]
    transfers = Transfers.build(np.repeat(np.arange(devices), 2), nearest.reshape(-1), 20_000)
    channel = Channel(RadioSettings(), positions, seed=1)
    dense = channel.plan_round(0, transfers)
    most, some, few = (
        Channel(RadioSettings(dense_devices=100, near_neighbours=entries), positions, seed=1).plan_round(
            0, transfers
        )
        for entries in (740, 320, 120)
    )
    gains = 10 ** (channel.mean_snr_db(np.arange(devices)[:, None], np.arange(devices)) / 10)
    np.fill_diagonal(gains, 0.0)
    table, sinr = some.table, np.empty(len(some.table))
    for _, rows in table.groupby("slot"):
        level = gains[rows.source].sum(axis=0)
        own = gains[rows.source, rows.destination]
        sinr[rows.index] = own / (level[rows.destination] - own + 1.0)
    error = np.abs(table.rate_bps / settings_law(RadioSettings()).chosen_rate(sinr) - 1)
    assert np.percentile(error, 99) <= 0.005
    for sparse, rel in ((most, 0.03), (some, 0.05), (few, 0.1)):
        assert sparse.delivered.mean() == pytest.approx(dense.delivered.mean(), abs=0.01)
        assert sparse.occupied_s == pytest.approx(dense.occupied_s, rel=0.12)
        assert sparse.airtime_s == pytest.approx(dense.airtime_s, rel=rel)
