"""Walls, blockers, antennas, Doppler shifts and delay spread against closed forms and figures worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, special, stats

from channels import fading_kernels
from channels.antennas import panel_db
from channels.blockage import blocker_db
from channels.cells import cell_words
from channels.channel import Channel
from channels.draws import keyed_uniform, stream_key
from channels.gains import dense_gains, pair_gains, strong_gains
from channels.interference import build_far_field
from channels.kernels import azimuth_turns
from channels.largescale import build_large_scale, gain_reached, weak_mean_gain
from channels.settings import RadioSettings
from channels.shadowing import build_sites
from channels.slot_fading import COHERENCE, SlotFading
from channels.transfers import Transfers
from channels.velocity import Velocity
from channels.walls import wall_db, wall_losses_db

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LIGHT_MPS = 299_792_458.0


def free(**fields):
    """Free space without shadowing, whose gains have a closed form, with what a test is about."""
    return RadioSettings(path_loss="free_space", shadowing=False, **fields)


def loss_db(settings, positions, seed=1):
    """(N, N) loss in dB beyond that of free space."""
    scale, plain = build_large_scale(settings, seed=seed), build_large_scale(free(), seed=seed)
    with_it, without = (dense_gains(s, build_sites(s, positions)).matrix() for s in (scale, plain))
    np.testing.assert_array_equal(with_it, with_it.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -10 * np.log10(with_it / without)


@pytest.mark.parametrize(
    ("kind", "carrier_hz", "expected_db"),
    # By hand: 2 GHz, glass 2.4, IRR glass 23.6, concrete 13 dB; 28 GHz, glass 7.6, IRR glass 31.4, concrete 117 dB.
    [("low_loss", 2e9, 5 - 10 * math.log10(0.3 * 10**-0.24 + 0.7 * 10**-1.3)),
     ("high_loss", 2e9, 5 - 10 * math.log10(0.7 * 10**-2.36 + 0.3 * 10**-1.3)),
     ("low_loss", 28e9, 17.829), ("high_loss", 28e9, 37.949), ("car", 2e9, 9.0), ("metallised_car", 2e9, 20.0)],
)  # fmt: skip
def test_walls_have_the_losses_of_their_materials(kind, carrier_hz, expected_db):
    assert wall_db(kind, carrier_hz) == pytest.approx(expected_db, abs=1e-3)


def test_losses_inside_have_the_clauses_mean_and_spread():
    words = cell_words(3, *np.random.default_rng(1).random((2, 40_000)) * 1e6, 30.0)
    loss, building = wall_losses_db("high_loss", 28e9, 0.8, words, seed=4)
    inside = building > 0
    # Half the smaller of two uniforms on [0, 25] m: mean 25/6 dB, variance 25²/72 dB².
    variance = 6.5**2 + 25.0**2 / 72
    assert inside.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 40_000))
    assert loss[inside].mean() == pytest.approx(37.949 + 25 / 6, abs=4 * math.sqrt(variance / 32_000))
    assert loss[inside].std() == pytest.approx(math.sqrt(variance), rel=0.015)
    assert not loss[~inside].any()


def test_devices_share_a_building_by_their_distance_and_no_wall_is_within_it():
    random = np.random.default_rng(2)
    one = random.random((3000, 2)) * 1e6
    positions = np.concatenate([one, one + np.array([12.0, 0.0])])
    settings = free(walls="low_loss", indoor_share=1.0, building_m=30.0)
    scale = build_large_scale(settings, seed=5)
    building, wall, _, _ = build_sites(scale, positions).local
    same = building[:3000] == building[3000:]
    assert same.mean() == pytest.approx(math.exp(-12 / 30), abs=4 * math.sqrt(0.25 / 3000))
    few = np.concatenate([positions[:60], positions[3000:3060]])
    lost = loss_db(settings, few, seed=5)
    building, wall, _, _ = build_sites(scale, few).local
    own_db = -10 / math.log(10) * wall
    expected = np.where(building[:, None] == building, 0.0, own_db[:, None] + own_db)
    pairs = np.triu_indices(120, 1)
    np.testing.assert_allclose(lost[pairs], expected[pairs], atol=1e-9)
    together = np.zeros((2, 2))
    assert loss_db(settings, together)[0, 1] == 0.0


def test_a_panel_has_the_pattern_of_the_table():
    off = np.array([0.0, 32.5, 65.0, 102.77, 150.0, 180.0, -32.5])
    np.testing.assert_allclose(panel_db(off), [0, -3, -12, -30, -30, -30, -3], atol=0.01)
    np.testing.assert_allclose(
        panel_db(np.array([120.0, 60.0, 152.5]), 3), [0, -12 * (60 / 65) ** 2, -3], atol=1e-9
    )
    # Through the channel: each end's pattern at the bearing of the other, and 8 dBi at both.
    positions = np.random.default_rng(3).random((40, 2)) * 1e3
    lost = loss_db(free(antenna="panel"), positions, seed=6)
    heading = build_heading(40, seed=6)
    apart = positions[None] - positions[:, None]
    bearing = np.degrees(np.arctan2(apart[..., 1], apart[..., 0]))
    pattern = panel_db(bearing - heading[:, None])
    pairs = np.triu_indices(40, 1)
    np.testing.assert_allclose(lost[pairs], (-16 - pattern - pattern.T)[pairs], atol=0.13)


def build_heading(devices, seed):
    return 360 * keyed_uniform(stream_key(seed, "headings"), np.arange(devices), 0, ordered=True)


def fresnel_like(angle_deg, distance_m, carrier_hz):
    lamda = 3e8 / carrier_hz
    bent = math.sqrt(math.pi / lamda * distance_m * (1 / math.cos(math.radians(angle_deg)) - 1))
    return math.atan(math.pi / 2 * bent) / math.pi


def test_azimuths_are_those_of_the_arc_tangent():
    turns = np.concatenate([np.linspace(0, 0.5, 4001), [0.125, 0.25, 0.375]])
    for turn in turns.tolist():
        dx, dy = 7.0 * math.cos(2 * math.pi * turn), 7.0 * abs(math.sin(2 * math.pi * turn))
        assert azimuth_turns(dx, dy) == pytest.approx(math.atan2(dy, dx) / (2 * math.pi), abs=2e-8)
    assert [azimuth_turns(*at) for at in ((3.0, 0.0), (0.0, 2.0), (-5.0, 0.0))] == [0.0, 0.25, 0.5]


def test_a_blocker_takes_what_the_clause_says():
    """Equations 7.6-22 and -23 written out once more for three directions, and the limits of a large blocker."""
    edges = lambda a: fresnel_like(a, 2.0, 28e9)  # noqa: E731
    high = 2 * edges(5.0)
    for off, sum_of_edges in (
        (0.0, 2 * edges(15.0)),
        (10.0, edges(-5.0) + edges(25.0)),
        (20.0, edges(35.0) - edges(5.0)),
    ):
        expected = -20 * math.log10(1 - sum_of_edges * high)
        found = blocker_db(np.array([off, -off]), np.array(30.0), np.array(10.0), 2.0, 28e9)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    beyond = blocker_db(np.array([30.0, -31.0, 180.0]), np.array(30.0), np.array(10.0), 2.0, 28e9)
    assert not beyond.any()
    # A half plane far larger than the Fresnel zone: half of the field, 6 dB, at its edge.
    assert blocker_db(np.array(20.0), np.array(40.0), np.array(60.0), 1e6, 28e9) == pytest.approx(
        6.02, abs=0.05
    )


def test_blockers_stay_with_a_place_and_are_redrawn_by_distance():
    settings = free(blockage="others", blockers=1)
    scale = build_large_scale(settings, seed=7)
    place = np.random.default_rng(4).random((4000, 2)) * 1e6
    first, moved, back = (
        build_sites(scale, place + np.array([shift, 0.0])).local[2] for shift in (0.0, 5.0, 0.0)
    )
    np.testing.assert_array_equal(first, back)
    kept = (first == moved).all(axis=1).mean()
    assert kept == pytest.approx(math.exp(-5 / 10), abs=4 * math.sqrt(0.25 / 4000))
    # In a share (mean width 10°, twice of it)/360° of the directions something is in the way.
    assert (first < 0).mean() == pytest.approx(20 / 360, rel=0.05)
    held = build_sites(build_large_scale(free(blockage="portrait", blockers=0), seed=7), place[:500]).local[2]
    assert (held < 0).mean() == pytest.approx(120 / 360, abs=0.004)
    assert held.min() == pytest.approx(-30 * math.log(10) / 10, rel=1e-6)


def test_the_statistics_of_gains_count_what_surrounds_devices():
    settings = RadioSettings(walls="low_loss", blockage="others", antenna="panel")
    scale = build_large_scale(settings, seed=8)
    place = np.random.default_rng(5).random((5000, 2)) * 1e6
    other = place + np.array([150.0, 0.0])
    sites = build_sites(scale, np.concatenate([place, other]))
    gain = pair_gains(scale, sites, np.arange(5000), np.arange(5000) + 5000)
    middle = float(np.median(gain))
    assert gain_reached(scale, np.array([150.0]), middle)[0] == pytest.approx(0.5, abs=0.03)
    weak = np.where(gain < middle, gain, 0.0)
    expected = weak_mean_gain(scale, np.array([150.0]), middle)[0]
    assert weak.mean() == pytest.approx(expected, rel=0.06)


def test_far_interference_is_that_of_all_pairs():
    settings = RadioSettings(walls="low_loss", antenna="panel")
    positions = np.random.default_rng(6).random((1500, 2)) * 3e3
    scale = build_large_scale(settings, seed=9)
    sites = build_sites(scale, positions)
    near = strong_gains(scale, sites, 40)
    active = np.arange(0, 1500, 10)
    sent = np.zeros(1500)
    sent[active] = 0.2
    exact = sent @ dense_gains(scale, sites).matrix()
    rows = np.repeat(np.arange(1500), np.diff(near.indptr))
    listed = np.bincount(rows, weights=sent[near.index] * near.in_gain, minlength=1500)
    far = build_far_field(scale, sites, near, "grid").at_devices(active, sent[active])
    silent = sent == 0
    error = np.abs(10 * np.log10((listed + far)[silent] / exact[silent]))
    alone = np.abs(10 * np.log10((listed + 1e-30)[silent] / exact[silent]))
    assert np.percentile(error, 90) < 0.5 * np.percentile(alone, 90)
    # Each device's own surroundings count: without them the same field is further off.
    plain = replace(build_far_field(scale, sites, near, "grid"), shares=np.zeros(0)).at_devices(
        active, sent[active]
    )
    rough = np.abs(10 * np.log10((listed + plain)[silent] / exact[silent]))
    assert np.percentile(error, 90) < np.percentile(rough, 90)


def factors(fading, first, second, time_s, samples=1, band=0):
    at = np.full(first.size, time_s)
    return fading_kernels.fading_factors(first, second, at, *fading.law(samples, band))


@pytest.mark.parametrize("around_mps", [0.0, 3.0])
@pytest.mark.parametrize("others_mps", [0.0, 5.0, 15.0])
def test_both_ends_velocities_make_the_doppler_of_a_link(around_mps, others_mps):
    """Over links, |h|² correlates by (J0(w1·tau)·J0(w2·tau)·J0(w3·tau))², whichever way the ends go."""
    count = 8000
    angle = np.random.default_rng(7).random(2 * count) * 2 * math.pi
    speed_mps = np.repeat([15.0, others_mps], count)
    moving = Velocity(2 * count, wanted=True)
    moving.moved(np.zeros((2 * count, 2)), 1e-9, (speed_mps * [np.cos(angle), np.sin(angle)]).T)
    per_mps = 2e9 / LIGHT_MPS
    fading = SlotFading(doppler_hz=around_mps * per_mps, kind=1, key=5, motion=moving.motion(2e9))
    first, second = np.arange(count), np.arange(count) + count
    before = factors(fading, first, second, 1.0)
    np.testing.assert_array_equal(before, factors(fading, second, first, 1.0))
    assert stats.kstest(before, "expon").pvalue > 1e-3
    for lag_s in (1e-3, 2.5e-3, 6e-3):
        turns = 2 * math.pi * per_mps * lag_s * np.array([15.0, others_mps, around_mps])
        found = np.corrcoef(before, factors(fading, first, second, 1.0 + lag_s))[0, 1]
        assert found == pytest.approx(np.prod(special.j0(turns)) ** 2, abs=4 / math.sqrt(count))


def test_a_change_of_velocity_does_not_break_the_phase():
    """At clock 1,000 s: equal just before and after it; 1 ms later as the way in between says; restored alike."""
    count, at_s = 2000, 1000.0
    moving = Velocity(2 * count, wanted=True)
    first, second = np.arange(count), np.arange(count) + count

    def power(velocity, time_s):
        fading = SlotFading(doppler_hz=0.0, kind=1, key=5, motion=velocity.motion(2e9))
        return factors(fading, first, second, time_s)

    moving.moved(np.zeros((2 * count, 2)), 0.5, np.full((2 * count, 2), [1.0, 0.0]))
    before = power(moving, at_s)
    moving.moved(np.zeros((2 * count, 2)), at_s, np.full((2 * count, 2), [1.001, 0.0]))
    np.testing.assert_allclose(power(moving, at_s), before, rtol=1e-5, atol=1e-9)
    later = power(moving, at_s + 1e-3)
    closed = special.j0(2 * math.pi * 1.001e-3 * 2e9 / LIGHT_MPS) ** 4
    assert np.corrcoef(before, later)[0, 1] == pytest.approx(closed, abs=4 / math.sqrt(count))
    again = Velocity(2 * count, wanted=True)
    again.restore(moving.snapshot())
    np.testing.assert_array_equal(power(again, at_s + 1e-3), later)
    # Who stands still, and whose surroundings do, does not fade.
    moving.moved(np.zeros((2 * count, 2)), 1001.0, np.zeros((2 * count, 2)))
    np.testing.assert_array_equal(power(moving, 1001.0), power(moving, 2000.0))


def test_the_channel_takes_velocities_from_its_moves():
    place = np.random.default_rng(8).random((6, 2)) * 100
    channel = Channel(RadioSettings(speed_mps=0.0, doppler="velocity"), place, seed=1)
    wanted = Transfers.build([0, 2, 4], [1, 3, 5], 40_000)
    while channel.clock_s <= 0:
        channel.plan_round(0, wanted)
    took = channel.clock_s
    moved = place + np.array([[3.0, 0.0]] * 5 + [[1e6, 0.0]]) * took
    channel.move(moved)
    velocity = channel.snapshot()["velocity_mps"]
    np.testing.assert_allclose(velocity, [[3.0, 0.0]] * 5 + [[0.0, 0.0]], atol=1e-9)
    again = Channel(channel.settings, place, seed=1)
    again.restore(channel.snapshot())
    assert again.plan_round(1, wanted).table.equals(channel.plan_round(1, wanted).table)


def test_velocities_that_are_given_hold_whatever_the_way_was():
    # A vehicle that comes in at the road's other end has driven on, however long that took.
    place = np.random.default_rng(8).random((6, 2)) * 100
    channel = Channel(RadioSettings(speed_mps=0.0, doppler="velocity"), place, seed=1)
    while channel.clock_s <= 0:
        channel.plan_round(0, Transfers.build([0, 2, 4], [1, 3, 5], 40_000))
    given = np.random.default_rng(9).normal(size=(6, 2)) * 30
    channel.move(place[::-1], given)
    np.testing.assert_array_equal(channel.snapshot()["velocity_mps"], given)


def test_gains_over_frequency_have_the_coherence_of_an_exponential_profile():
    """|h|² at two frequencies correlates by |1/(1 + j·2·pi·df·tau)|², in time and slot by slot."""
    count, spread_s = 12_000, 200e-9
    first, second = np.arange(count), np.arange(count) + count
    for doppler in (-1.0, 50.0):
        fading = SlotFading(
            doppler_hz=doppler, kind=1, key=3, delay_spread_s=spread_s, bandwidth_hz=1e6, subchannels=9
        )
        power = [factors(fading, first, second, 0.4, band=band) for band in (0, 1, 3, 8)]
        assert stats.kstest(power[0], "expon").pvalue > 1e-3
        for band, other in zip((1, 3, 8), power[1:], strict=True):
            closed = 1 / (1 + (2 * math.pi * band * 1e6 * spread_s) ** 2)
            assert np.corrcoef(power[0], other)[0, 1] == pytest.approx(closed, abs=4 / math.sqrt(count))
    half = 1 / math.hypot(1, 2 * math.pi * COHERENCE)
    assert half == pytest.approx(0.5)


def test_a_wide_band_averages_its_fading_and_a_narrow_one_does_not():
    """The variance of the mean power over a band B is 2/B²·∫(B - f)/(1 + (2·pi·f·tau)²) df."""
    count, spread_s = 6000, 500e-9
    first, second = np.arange(count), np.arange(count) + count
    for band_hz in (1e5, 5e6):
        fading = SlotFading(kind=1, key=4, delay_spread_s=spread_s, bandwidth_hz=band_hz)
        samples = fading.samples(first[:0], second[:0], np.zeros(0))
        found = factors(fading, first, second, 0.0, samples).var()
        law = integrate.quad(
            lambda f, b=band_hz: 2 / b**2 * (b - f) / (1 + (2 * math.pi * f * spread_s) ** 2), 0, band_hz
        )
        assert found == pytest.approx(law[0], rel=0.12)


def test_rounds_over_a_spread_channel_have_fewer_deep_fades():
    place = np.random.default_rng(9).random((150, 2)) * 20e3
    positions = np.concatenate([place, place + np.array([60.0, 0.0])])
    wanted = Transfers.build(np.arange(150), np.arange(150) + 150, 2_000)
    common = {"path_loss": "free_space", "shadowing": False, "scheduler": "tdma", "max_attempts": 1}

    def table(**fields):
        return Channel(RadioSettings(**common, **fields), positions, seed=1).plan_round(0, wanted).table

    flat, spread = table(), table(delay_spread_s=1e-6)
    assert spread.sinr_db.std() < 0.7 * flat.sinr_db.std()
    assert spread.decoded.mean() > flat.decoded.mean()
    narrow = table(delay_spread_s=1e-6, subchannels=4, speed_mps=2.0)
    assert narrow.equals(table(delay_spread_s=1e-6, subchannels=4, speed_mps=2.0))


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"walls": "glas"}, "walls"), ({"doppler": "velocity"}, "speed_mps"), ({"indoor_share": 1.2}, "indoor_share"),
     ({"antenna_panels": 0}, "antenna_panels"), ({"blockers": 1.5}, "blockers"),
     ({"delay_spread_s": -1e-9}, "delay_spread_s")],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(fields, named):
    with pytest.raises(ValueError, match=named):
        RadioSettings(**fields)
