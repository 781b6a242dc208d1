"""Near lists and far field against the dense answer."""

import numpy as np
import pytest

from channels.channel import Channel
from channels.gains import dense_gains, strong_gains
from channels.interference import build_far_field
from channels.largescale import build_large_scale, gain_reached, weak_mean_gain
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::channels.pathloss.ValidityWarning")


def experiment(devices, density_m2=2e-4, seed=0):
    return np.random.default_rng(seed).random((devices, 2)) * np.sqrt(devices / density_m2)


@pytest.mark.parametrize("moved", [False, True])
def test_near_list_holds_exactly_the_pairs_above_its_bound(moved):
    positions = experiment(700)
    scale = build_large_scale(RadioSettings(), seed=2)
    travelled = np.full(700, 3.0) if moved else np.zeros(700)
    near = strong_gains(scale, positions, travelled, 120)
    dense = dense_gains(scale, positions, travelled).matrix()
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
    scale, nothing = build_large_scale(RadioSettings(), seed=3), np.zeros(5000)
    near = strong_gains(scale, positions, nothing, RadioSettings().near_neighbours)
    active = np.random.default_rng(1).choice(5000, 250, replace=False)
    sent = np.zeros(5000)
    sent[active] = 0.2
    exact = sent @ dense_gains(scale, positions, nothing).matrix()
    rows = np.repeat(np.arange(5000), np.diff(near.indptr))
    listed = np.bincount(rows, weights=sent[near.index] * near.in_gain, minlength=5000)
    far = build_far_field(scale, positions, near, "grid")
    total = listed + far.at_devices(active, np.full(250, 0.2))
    receivers = np.setdiff1d(np.arange(5000), active)
    error_db = np.abs(10 * np.log10(total / exact))[receivers]
    assert np.percentile(error_db, 99) <= 0.1
    # Without the far field it is far worse: the test would notice its absence.
    assert np.percentile(np.abs(10 * np.log10(listed / exact))[receivers], 99) > 0.15


def test_uniform_tail_has_its_closed_form():
    settings = RadioSettings(path_loss="log_distance", path_loss_exponent=3.0, shadowing=False)
    scale = build_large_scale(settings, seed=0)
    positions = experiment(2000)
    near = strong_gains(scale, positions, np.zeros(2000), 100)
    far = build_far_field(scale, positions, near, "mean")
    gain_1m = np.exp(scale.curves[0, 0])
    edge = (gain_1m / near.min_gain) ** (1 / 3.0)
    closed = 2 * np.pi * gain_1m * (edge**-1 - 200e3**-1)
    assert far.tail_m2 == pytest.approx(closed, rel=2e-3)


def test_sparse_and_dense_rounds_agree():
    positions = experiment(1500)
    apart = np.linalg.norm(positions[:, None] - positions, axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :2]
    transfers = Transfers.build(np.repeat(np.arange(1500), 2), nearest.reshape(-1), 20_000)
    dense, sparse = (
        Channel(RadioSettings(dense_devices=limit), positions, seed=1).plan_round(0, transfers)
        for limit in (5000, 100)
    )
    assert sparse.delivered.mean() == pytest.approx(dense.delivered.mean(), abs=0.01)
    assert sparse.airtime_s == pytest.approx(dense.airtime_s, rel=0.05)
    assert sparse.table.slot.nunique() == pytest.approx(dense.table.slot.nunique(), rel=0.25)
