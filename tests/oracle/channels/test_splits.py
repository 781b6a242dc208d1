"""What the search for a split says of it against the same figures worked out in numpy, and against one by one."""

import numpy as np
import pytest

from channels.rounds import settings_law
from channels.scheduling.spans import shortest_split
from channels.settings import RadioSettings


def _problem(random, units, clashes, bound):
    receivers = random.integers(1, 4, units)
    first_row = np.concatenate(([0], np.cumsum(receivers)))
    rows, unit = int(first_row[-1]), np.repeat(np.arange(units), receivers)
    cross = 10 ** random.uniform(-14, -9, (units, rows))
    cross[unit, np.arange(rows)] = 0.0
    signal, noise = 10 ** random.uniform(-11, -8, rows), random.uniform(4e-14, 8e-14, rows)
    conflict = np.triu(random.random((units, units)) < clashes, 1)
    conflict = conflict | conflict.T | np.eye(units, dtype=bool)
    bits = random.uniform(1e3, 1e6, units)
    least = np.minimum(bound, np.minimum.reduceat(signal / noise, first_row[:-1]) * (1 - 1e-9))
    return cross, signal, noise, first_row, conflict, bits, least


def _attempts(sinr, bits, earn):
    """Time of an attempt and the chance that it fails, at the SINR of each unit's weakest receiver."""
    grid = earn[2, 0] + np.arange(earn.shape[1]) / earn[2, 1]
    goodput, rate = (np.interp(np.log(sinr), grid, table) for table in earn[:2])
    return bits / rate, 1 - np.minimum(goodput / rate, 1)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(("units", "clashes", "bound"), [(1, 0, 0), (7, 0.3, 0), (30, 0.1, 2), (70, 0.02, 0)])
def test_times_of_a_split_are_those_of_its_slots(units, clashes, bound, bands):
    for seed in range(5):
        random = np.random.default_rng(seed)
        problem = cross, signal, noise, first_row, conflict, bits, least = _problem(
            random, units, clashes, bound
        )
        earn = settings_law(RadioSettings(fading=("none", "rayleigh")[seed % 2])).earn
        lone_s, lone_fails = _attempts(np.minimum.reduceat(signal / noise, first_row[:-1]), bits, earn)
        alone = lone_s / (1 - lone_fails)
        orders = np.stack([random.permutation(units) for _ in range(3)])
        slot, band, time_s, left_s = shortest_split(
            *problem, alone, earn, orders, bands, 20, np.uint64(units)
        )
        shares = (slot[:, None] == slot) & (band[:, None] == band)
        heard = (np.repeat(shares, np.diff(first_row), axis=1) * cross).sum(axis=0) + noise
        sinr = np.minimum.reduceat(signal / heard, first_row[:-1])
        assert (sinr >= least * (1 - 1e-8)).all()
        assert not (conflict & (slot[:, None] == slot) & ~np.eye(units, dtype=bool)).any()
        expected_s, fails = _attempts(sinr, bits, earn)
        np.testing.assert_allclose(time_s, expected_s, rtol=1e-9)
        np.testing.assert_allclose(left_s, fails * alone, rtol=1e-6, atol=1e-12)
        numbers = np.unique(slot)
        total = sum(time_s[slot == s].max() + left_s[slot == s].sum() for s in numbers)
        assert total <= (lone_s + lone_fails * alone).sum() * (1 + 2e-3)
        assert units < 30 or len(numbers) < units
