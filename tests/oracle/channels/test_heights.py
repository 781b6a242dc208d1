"""Drawn heights of devices: their shares, and what links of two heights lose, against formulas written out here."""

import math
from collections import Counter

import numpy as np
import pytest

from channels.cells import cell_words
from channels.gains import dense_gains, pair_gains, strong_gains
from channels.heights import HEIGHTS_M, class_shares, height_classes, pair_shares
from channels.largescale import build_large_scale, gain_reached, weak_mean_gain
from channels.settings import RadioSettings
from channels.shadowing import build_sites
from channels.validity import idle_notes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def tall(path_loss="uma", **fields):
    """Shadowing off, devices in drawn buildings that are 30 m wide."""
    return RadioSettings(path_loss=path_loss, device_heights="drawn", shadowing=False, **fields)


def loss_by_hand(model, d_m, high_m, low_m, los, ghz=2.0):
    """Table 7.4.1-1 with h_BS the higher and h_UT the lower end, in scalars."""
    space, turn = math.hypot(d_m, high_m - low_m), 4 * (high_m - 1) * (low_m - 1) * ghz * 1e9 / 3e8
    near, slope, bend = {"umi": (32.4, 21.0, 9.5), "uma": (28.0, 22.0, 9.0)}[model]
    if d_m <= turn:
        sight = near + slope * math.log10(space) + 20 * math.log10(ghz)
    else:
        sight = near + 40 * math.log10(space) + 20 * math.log10(ghz)
        sight -= bend * math.log10(turn**2 + (high_m - low_m) ** 2)
    if los:
        return sight
    if model == "umi":
        hidden = 22.4 + 35.3 * math.log10(space) + 21.3 * math.log10(ghz) - 0.3 * (low_m - 1.5)
    else:
        hidden = 13.54 + 39.08 * math.log10(space) + 20 * math.log10(ghz) - 0.6 * (low_m - 1.5)
    return max(sight, hidden)


def sight_by_hand(d_m, low_m):
    """Table 7.4.2-1, UMa."""
    if d_m <= 18:
        return 1.0
    tall_part = 0.0 if low_m <= 13 else ((low_m - 13) / 10) ** 1.5
    street = 18 / d_m + math.exp(-d_m / 63) * (1 - 18 / d_m)
    return street * (1 + tall_part * 1.25 * (d_m / 100) ** 3 * math.exp(-d_m / 150))


def test_numbers_worked_by_hand():
    """16.5 and 4.5 m, 100 m apart at 2 GHz: 100.717 m in space, in sight 78.089 dB, not before d_BP = 1,446.7 m.

    Out of sight 13.54 + 39.08·2.0031 + 6.0206 - 1.8 = 96.042 dB. Two terminals on the street bend at 6.67 m: at 100 m
    28 + 80 + 6.0206 - 9·lg(44.44) = 99.190 dB in sight; P_LOS at 200 m from 22.5 m: 0.1280·(1 + 2.4408) = 0.4406.
    """
    assert loss_by_hand("uma", 100.0, 16.5, 4.5, True) == pytest.approx(78.089, abs=2e-3)
    assert loss_by_hand("uma", 100.0, 16.5, 4.5, False) == pytest.approx(96.042, abs=2e-3)
    assert loss_by_hand("uma", 100.0, 1.5, 1.5, True) == pytest.approx(99.190, abs=2e-3)
    assert sight_by_hand(200.0, 22.5) == pytest.approx(0.4406, abs=1e-4)


@pytest.mark.parametrize("model", ["umi", "uma"])
@pytest.mark.parametrize("state", ["always", "never"])
def test_links_lose_what_the_table_says_for_both_heights(model, state):
    settings = tall(model, line_of_sight=state)
    place = np.random.default_rng(3).random((150, 2)) * 900
    scale = build_large_scale(settings, seed=5)
    sites = build_sites(scale, place)
    gain, height = dense_gains(scale, sites).matrix(), HEIGHTS_M[sites.local[3]]
    np.testing.assert_array_equal(gain, gain.T)
    seen = set()
    for i, j in np.argwhere(np.triu(np.ones((150, 150)), 1))[::7]:
        d_m = float(np.hypot(*(place[i] - place[j])))
        if d_m > 10:
            high, low = max(height[i], height[j]), min(height[i], height[j])
            expected = loss_by_hand(model, d_m, high, low, state == "always")
            assert -10 * math.log10(gain[i, j]) == pytest.approx(expected, abs=4e-3)
            seen.add((high, low))
    assert len(seen) > 20


def test_heights_have_the_clauses_shares_and_percentiles():
    """Over buildings that stand apart; by hand: of 5 sizes from 4 to 8, floor k is in those with N >= k, 1/N each."""
    words = cell_words(3, *np.random.default_rng(1).random((2, 40_000)) * 1e7, 30.0)
    assert len(np.unique(words)) > 39_000
    floor = height_classes(0.8, words, seed=4)
    sizes = range(4, 9)
    by_hand = [0.8 * sum(1 / n for n in sizes if n > k) / 5 + 0.2 * (k == 0) for k in range(8)]
    found = np.bincount(floor, minlength=8) / floor.size
    assert np.allclose(by_hand, class_shares(0.8)) and sum(by_hand) == pytest.approx(1.0)
    assert np.all(np.abs(found - by_hand) < 4 * np.sqrt(np.array(by_hand) / floor.size))
    assert np.percentile(HEIGHTS_M[floor], [5, 30, 50, 90, 99]).tolist() == [1.5, 1.5, 7.5, 16.5, 22.5]
    steps = np.cumsum(by_hand)
    assert [int(np.searchsorted(steps, q)) for q in (0.05, 0.3, 0.5, 0.9, 0.99)] == [0, 0, 2, 5, 7]
    assert pair_shares(0.8).sum() == pytest.approx(1.0)
    assert not height_classes(0.0, words[:100], seed=4).any()


def test_devices_in_one_building_have_its_floors_and_walls_have_the_same_inside():
    words = np.repeat(np.arange(1, 401, dtype=np.uint64), 60)
    floor = height_classes(1.0, words, seed=9).reshape(400, 60)
    most = Counter((floor.max(axis=1) + 1).tolist())
    # Of 60 devices somebody is on the top floor with chance 1 - (1 - 1/N)^60 > 0.999.
    assert set(most) == {4, 5, 6, 7, 8}
    assert all(abs(count - 80) < 4 * math.sqrt(80 * 0.8) for count in most.values())
    place = np.random.default_rng(2).random((2000, 2)) * 3000
    scale = build_large_scale(tall(walls="low_loss"), seed=1)
    building, _, _, floor = build_sites(scale, place).local
    assert not floor[building == 0].any() and (floor[building != 0] > 0).mean() > 0.7
    alone = build_sites(build_large_scale(tall(), seed=1), place).local
    np.testing.assert_array_equal(alone[3], floor)
    assert not alone[0].size and not alone[1].size


def test_tall_terminals_are_in_sight_as_often_as_the_clause_says():
    """Pairs 200 m apart, by the height of the lower end; a link in sight is told by its loss."""
    random = np.random.default_rng(6)
    one = random.random((30_000, 2)) * 1e6
    angle = random.random(30_000) * 2 * np.pi
    place = np.concatenate([one, one + 200 * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    scale = build_large_scale(tall(indoor_share=1.0), seed=2)
    sites = build_sites(scale, place)
    height = HEIGHTS_M[sites.local[3]].reshape(2, -1)
    gain = pair_gains(scale, sites, np.arange(30_000), np.arange(30_000, 60_000))
    expected_db = [
        loss_by_hand("uma", 200.0, a, b, True) for a, b in zip(height.max(0), height.min(0), strict=True)
    ]
    los = np.abs(-10 * np.log10(gain) - expected_db) < 0.01
    # Two terminals on the street lose as much in sight as out of it there, so that their state does not tell.
    for low in (4.5, 10.5, 13.5, 16.5, 19.5):
        those, chance = height.min(axis=0) == low, sight_by_hand(200.0, low)
        assert los[those].mean() == pytest.approx(chance, abs=4 * math.sqrt(chance / those.sum()))
    assert sight_by_hand(200.0, 19.5) > 1.8 * sight_by_hand(200.0, 10.5)


def test_near_lists_and_means_hold_with_heights():
    """No pair above the bound is missed, and laws of gains over distance are those of drawn pairs."""
    settings = RadioSettings(path_loss="uma", device_heights="drawn")
    place = np.random.default_rng(8).random((700, 2)) * 2000
    scale = build_large_scale(settings, seed=3)
    sites = build_sites(scale, place)
    dense, near = dense_gains(scale, sites).matrix(), strong_gains(scale, sites, 60)
    listed = set(
        zip(np.repeat(np.arange(700), np.diff(near.indptr)).tolist(), near.index.tolist(), strict=True)
    )
    within = np.hypot(*(place[:, None] - place).transpose(2, 0, 1)) < near.radius_m
    strong = set(map(tuple, np.argwhere((dense >= near.min_gain) & within).tolist()))
    assert listed == strong and len(listed) > 20_000
    one = np.random.default_rng(9).random((20_000, 2)) * 1e6
    pairs = np.concatenate([one, one + np.array([150.0, 0.0])])
    far = build_sites(scale, pairs)
    gain = pair_gains(scale, far, np.arange(20_000), np.arange(20_000, 40_000))
    bound = float(np.median(gain))
    distance = np.array([150.0])
    # Ends 150 m apart share a building with chance exp(-5), which the law leaves out.
    assert gain_reached(scale, distance, bound)[0] == pytest.approx(0.5, abs=0.02)
    weak = np.where(gain < bound, gain, 0.0)
    expected = weak_mean_gain(scale, distance, bound)[0]
    assert expected == pytest.approx(weak.mean(), rel=0.05)


def test_where_heights_cannot_be_drawn_or_have_no_effect():
    for fields in ({"path_loss": "d2d_outdoor"}, {"path_loss": "umi", "walls": "car"}):
        with pytest.raises(ValueError, match="device_heights"):
            RadioSettings(device_heights="drawn", **fields)
    settings = tall("umi", tx_height_m=12.0, indoor_share=0.5)
    told = " ".join(idle_notes(settings, build_large_scale(settings, seed=1).model, 10))
    assert "tx_height_m" in told and "indoor_share" not in told
