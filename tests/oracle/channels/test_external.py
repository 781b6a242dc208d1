"""Interference from outside against closed forms of Poisson networks, and whole rounds under it."""

import math

import numpy as np
import pytest

from channels.channel import Channel
from channels.external import external_field
from channels.largescale import build_large_scale
from channels.rounds import fading_table, slot_fading
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LINK_M, DENSITY_KM2, LOSS_DB = 40.0, 60.0, 30.0


def settings_for(exponent, duty=0.7, density=DENSITY_KM2, external_dbm=20.0, **fields):
    return RadioSettings(
        path_loss="log_distance", path_loss_exponent=exponent, shadowing=False, external_per_km2=density,
        path_loss_options={"reference_loss_db": LOSS_DB}, external_duty=duty, external_power_dbm=external_dbm,
        tx_power_dbm=20.0, **fields,
    )  # fmt: skip


def coverage(exponent, threshold, noise_w, *, duty=0.7, power_ratio=1.0):
    """P(SINR > T): Laplace transforms of Poisson interference and of noise at T·r^alpha/(P·G)."""
    d = 2 / exponent
    lost = DENSITY_KM2 * 1e-6 * duty * math.pi * LINK_M**2 * (threshold * power_ratio) ** d
    signal_w = 0.1 * 10 ** (-LOSS_DB / 10) * LINK_M**-exponent
    return math.exp(-lost * math.pi * d / math.sin(math.pi * d) - threshold * noise_w / signal_w)


@pytest.mark.parametrize("exponent", [3.0, 3.5, 4.0])
@pytest.mark.parametrize("noisy", [False, True])
def test_coverage_is_that_of_a_poisson_network(exponent, noisy):
    settings = settings_for(exponent)
    receivers = 6_000
    positions = np.random.default_rng(5).random((receivers, 2)) * 60e3
    signal_w = 0.1 * 10 ** (-LOSS_DB / 10) * LINK_M**-exponent
    noise_w = 0.15 * signal_w if noisy else 0.0
    field = external_field(settings, build_large_scale(settings, seed=2), positions, noise_w)
    assert field is not None
    fading = slot_fading(settings, 2, fading_table(settings), 1, 0)
    floor_w = field.floor_w(np.arange(receivers), fading, 0.0)
    sinr = signal_w * np.random.default_rng(6).exponential(size=receivers) / floor_w
    for threshold_db in (-10.0, 0.0, 10.0):
        threshold = 10 ** (threshold_db / 10)
        expected = coverage(exponent, threshold, noise_w)
        error = math.sqrt(expected * (1 - expected) / receivers)
        assert abs(np.mean(sinr > threshold) - expected) < 3 * error


def test_rounds_of_the_channel_have_that_coverage_with_the_receivers_own_noise():
    """Links far apart, one at a time: what disturbs them is outside alone."""
    links, exponent = 700, 4.0
    settings = settings_for(exponent, external_dbm=23.0, scheduler="tdma", max_attempts=1)
    place = np.random.default_rng(1).random((links, 2)) * 40e3
    positions = np.concatenate([place, place + np.array([LINK_M, 0.0])])
    channel = Channel(settings, positions, seed=4)
    wanted = Transfers.build(np.arange(links), np.arange(links) + links, 1000)
    sinr_db = channel.plan_round(0, wanted).table.sinr_db
    noise_w = 10 ** ((-174 + 10 * math.log10(5e6) + 9) / 10 - 3)
    for threshold_db in (-5.0, 5.0):
        ratio = 10**0.3
        expected = coverage(exponent, 10 ** (threshold_db / 10), noise_w, power_ratio=ratio)
        error = math.sqrt(expected * (1 - expected) / links)
        assert abs(np.mean(sinr_db > threshold_db) - expected) < 3 * error


def test_the_field_depends_on_the_seed_alone_and_its_mean_is_its_mean():
    settings = settings_for(3.5)
    scale = build_large_scale(settings, seed=2)
    positions = np.random.default_rng(5).random((300, 2)) * 3e3
    field = external_field(settings, scale, positions, 1e-13)
    some = external_field(settings, scale, positions[40:90][::-1], 1e-13)
    assert field is not None and some is not None
    np.testing.assert_allclose(field.mean_w[40:90][::-1], some.mean_w, rtol=1e-12)
    assert len(np.unique(field.number)) > 300 and field.number.min() >= 300
    table = fading_table(settings)
    slots = [field.floor_w(np.arange(300), slot_fading(settings, 2, table, 1, k), 0.0) for k in range(300)]
    near = np.median(np.mean(slots, axis=0) / (field.mean_w + field.noise_w))
    assert near == pytest.approx(1.0, abs=0.03)


def test_it_costs_bytes_that_arrive_and_nothing_where_there_is_none():
    positions = np.random.default_rng(3).random((20, 2)) * 250
    source = np.repeat(np.arange(20), 2)
    wanted = Transfers.build(source, (source + np.tile([1, 3], 20)) % 20, 10_000)

    def plan(**fields):
        return Channel(RadioSettings(**fields), positions, seed=1).plan_round(0, wanted)

    quiet, without = plan(), plan(external_duty=0.5, external_power_dbm=30.0)
    assert quiet.table.equals(without.table)
    few, many = plan(external_per_km2=20.0), plan(external_per_km2=200.0)
    assert quiet.airtime_s < few.airtime_s < many.airtime_s
    assert quiet.delivered.mean() > many.delivered.mean()
    moved = Channel(RadioSettings(external_per_km2=20.0), positions + 7.0, seed=1)
    moved.move(positions)
    assert moved.plan_round(0, wanted).table.equals(few.table)
