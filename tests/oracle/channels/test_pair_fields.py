"""Shadowing and lines of sight as fields over both ends, against their law and against listed lines."""

import math

import numpy as np
import pytest
from scipy import stats

from channels import kernels
from channels.cells import _COUNTS, DIRECTIONS, cell_words
from channels.channel import Channel
from channels.draws import mix, stream_key, words_to_uniform
from channels.largescale import build_large_scale
from channels.settings import RadioSettings
from channels.shadowing import TESSELLATIONS, build_sites

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LINKS, SEEDS = 3000, 8


def values(seed, one, other, state=1):
    """Shadowing of links in units of sigma; d_corr is 13 m out of sight (state 1) and 10 m in sight."""
    scale = build_large_scale(RadioSettings(), seed=seed)
    words = build_sites(scale, np.concatenate([one, other])).words
    begin = state * TESSELLATIONS
    return np.array([kernels.field_value(words, i, i + len(one), begin) for i in range(len(one))])


def step(random, count, length_m):
    angle = random.random(count) * 2 * np.pi
    return length_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize(
    ("one_m", "other_m", "length_m"),
    [(1.0, 0.0, 200.0), (0.0, 1.0, 200.0), (13.0, 0.0, 200.0), (5.0, 5.0, 200.0), (60.0, 0.0, 200.0), (2.0, 0.0, 3.0)],
)  # fmt: skip
@pytest.mark.parametrize("state", [0, 1])
def test_correlation_falls_with_the_shift_of_either_end(one_m, other_m, length_m, state):
    random, found = np.random.default_rng(1), []
    for seed in range(SEEDS):
        one = random.random((LINKS, 2)) * 20e3
        other = one + step(random, LINKS, length_m)
        before = values(seed, one, other, state)
        after = values(seed, one + step(random, LINKS, one_m), other + step(random, LINKS, other_m), state)
        found.append(np.mean(before * after))
    law = math.exp(-(one_m + other_m) / (10.0, 13.0)[state])
    assert np.mean(found) == pytest.approx(law, abs=4 / math.sqrt(LINKS * SEEDS))


def test_values_are_standard_normal_and_symmetric():
    random = np.random.default_rng(2)
    one, other = (random.random((20_000, 2)) * 100e3 for _ in range(2))
    found = values(3, one, other)
    assert stats.kstest(found, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(found, values(3, other, one))
    assert found.mean() == pytest.approx(0.0, abs=4 / math.sqrt(20_000))
    assert found.std() == pytest.approx(1.0, abs=4 / math.sqrt(40_000))


def test_a_cell_ends_exactly_where_a_line_is():
    """Lines listed one by one along every direction part the same places as the hashes do."""
    key, length_m = stream_key(5, "cells", 3), 13.0
    places = np.random.default_rng(3).uniform(-60, 60, (250, 2))
    words = cell_words(key, *np.ascontiguousarray(places.T), length_m)
    turn = float(words_to_uniform(np.asarray([key], np.uint64))[0])
    parted = np.zeros((250, 250), bool)
    for k in range(DIRECTIONS):
        angle = (k + turn) * math.pi / DIRECTIONS
        along = places @ [math.cos(angle), math.sin(angle)] * math.pi / (2 * DIRECTIONS * length_m)
        with np.errstate(over="ignore"):
            axis = mix(np.asarray([np.uint64(key) + np.uint64(k + 1)]))[0]
            lines = []
            for unit in range(math.floor(along.min()) - 1, math.floor(along.max()) + 1):
                word = mix(np.asarray([axis ^ np.int64(unit).astype(np.uint64)]))
                count = int(np.searchsorted(_COUNTS, words_to_uniform(word))[0])
                drawn = [float(words_to_uniform(mix(word + np.uint64(n + 1)))[0]) for n in range(count)]
                lines += [unit + one for one in drawn]
        below = np.searchsorted(np.sort(lines), along)
        parted |= below[:, None] != below
    np.testing.assert_array_equal(words[:, None] != words, parted)
    assert 0.5 < parted.mean() < 0.999


def test_two_devices_together_see_a_third_alike():
    """In decibels, through the channel: pairs 1 m apart, each with a third device 150 m away, out of sight."""
    random = np.random.default_rng(6)
    settings = RadioSettings(line_of_sight="never", path_loss="log_distance", shadowing_sigma_db=7.0,
                             shadowing_decorrelation_m=13.0, dense_devices=1)  # fmt: skip
    first = random.random((4000, 2)) * 50e3
    beside, third = first + step(random, 4000, 1.0), first + step(random, 4000, 150.0)
    channel = Channel(settings, np.concatenate([first, beside, third]), seed=4)
    number = np.arange(4000)
    one, other = (channel.mean_snr_db(number + k, number + 8000) for k in (0, 4000))
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(math.exp(-1 / 13), abs=0.012)


def test_a_device_that_walks_away_and_back_finds_what_it_left():
    place = np.random.default_rng(7).random((30, 2)) * 300
    channel = Channel(RadioSettings(), place, seed=2)
    pairs = np.triu_indices(30, 1)
    before = channel.mean_snr_db(*pairs)
    away = place.copy()
    away[:10] += 40.0
    channel.move(away)
    changed = channel.mean_snr_db(*pairs) != before
    np.testing.assert_array_equal(changed, (pairs[0] < 10) | (pairs[1] < 10))
    channel.move(place)
    np.testing.assert_array_equal(channel.mean_snr_db(*pairs), before)


def test_sight_is_kept_over_short_moves_and_lost_over_long_ones():
    random = np.random.default_rng(8)
    settings = RadioSettings(path_loss="log_distance", shadowing=False)
    assert settings.los_decorrelation_m == 50.0
    scale = build_large_scale(settings, seed=1)
    one = random.random((20_000, 2)) * 500e3
    other = one + step(random, 20_000, 40.0)

    def drawn(shift_m):
        words = build_sites(scale, np.concatenate([one + step(random, 20_000, shift_m), other])).words[:, -1]
        with np.errstate(over="ignore"):
            return words_to_uniform(mix(words[:20_000] + words[20_000:]))

    before = drawn(0.0)
    assert stats.kstest(before, "uniform").pvalue > 1e-3
    for shift_m in (5.0, 50.0):
        same = np.mean(drawn(shift_m) == before)
        assert same == pytest.approx(math.exp(-shift_m / 50.0), abs=0.015)
