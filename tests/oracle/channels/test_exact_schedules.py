"""Schedulers against exact answers by HiGHS and by enumeration."""

import itertools

import numpy as np
import pytest

from channels.power import foschini_miljanic
from channels.scheduling import plan
from channels.scheduling.exact import best_sum_rate, fractional_slots, largest_feasible_set

POWER_W, NOISE_W, BETA = 0.1, 1e-12, 10**0.5


def links_in_a_square(links, seed):
    """Gains between 2·links devices: link i goes from device i to device i + links."""
    random = np.random.default_rng(seed)
    sender = random.random((links, 2)) * 500
    length, angle = random.uniform(2, 65, links), random.uniform(0, 2 * np.pi, links)
    place = np.concatenate([sender, sender + np.stack([length * np.cos(angle), length * np.sin(angle)], 1)])
    apart = np.linalg.norm(place[:, None] - place, axis=2)
    np.fill_diagonal(apart, 1.0)
    return apart**-3.5


def affectances(gains):
    links = gains.shape[0] // 2
    cross = POWER_W * gains[:links, links:]
    own = np.diagonal(cross)
    ratio = BETA * cross / (own - BETA * NOISE_W)
    np.fill_diagonal(ratio, 0.0)
    return ratio


def schedule(name, links, gains, **options):
    wanted = [(i, i + links, 1000) for i in range(links)]
    return plan(name, wanted, gains, POWER_W, NOISE_W, sinr_min_db=5.0, **options)


def test_the_mixed_integer_program_against_enumeration():
    for seed in range(4):
        ratio = affectances(links_in_a_square(12, 50 + seed) * 1.0)
        ratio = ratio * 30  # a crowded instance, so that the answer is not "all"
        best = max(
            (members for size in range(13) for members in itertools.combinations(range(12), size)
             if all(ratio[list(members), one].sum() <= 1 for one in members)),
            key=len,
        )  # fmt: skip
        found = largest_feasible_set(ratio)
        assert found.optimal and found.value == len(best)
        assert np.all(ratio[np.ix_(found.members, found.members)].sum(axis=0) <= 1 + 1e-6)


def test_the_fractional_bound_on_instances_worked_out_by_hand():
    five_ring = np.zeros((5, 5))
    for k in range(5):
        five_ring[k, (k + 1) % 5] = five_ring[(k + 1) % 5, k] = 2.0
    assert fractional_slots(five_ring) == pytest.approx(2.5)
    assert fractional_slots(np.full((4, 4), 2.0) - 2 * np.eye(4)) == pytest.approx(4.0)


def test_fplinq_against_all_states():
    shares = []
    for seed in range(8):
        gains = links_in_a_square(14, 2000 + seed)
        table = schedule("fplinq", 14, gains, bandwidth_hz=1.0).table
        unlimited = plan(
            "fplinq", [(i, i + 14, 1000) for i in range(14)], gains, POWER_W, NOISE_W, bandwidth_hz=1.0
        )
        best = best_sum_rate(POWER_W * gains[:14, 14:], np.full(14, NOISE_W))
        first = unlimited.table[unlimited.table.slot == 0]
        # The activation is chosen for the Shannon sum rate; the rates themselves stop at the highest modulation.
        shares.append(np.log2(1 + 10 ** (first.sinr_db / 10)).sum() / best)
        assert (table.sinr_db >= 5.0 - 1e-9).all()
    assert np.mean(shares) >= 0.95 and max(shares) <= 1 + 1e-9


@pytest.mark.parametrize(("devices", "reach_m"), [(10, 120), (20, 80), (30, 120), (40, 60), (20, 200)])
def test_broadcast_uses_no_more_airtime_than_links(devices, reach_m):
    for seed in range(4):
        place = np.random.default_rng(seed).random((devices, 2)) * 500
        apart = np.linalg.norm(place[:, None] - place, axis=2)
        np.fill_diagonal(apart, np.inf)
        wanted = [(i, np.flatnonzero(apart[i] < reach_m), 1000) for i in range(devices)]
        wanted = [entry for entry in wanted if entry[1].size]
        np.fill_diagonal(apart, 1.0)
        gains = np.maximum(apart, 1.0) ** -3.5
        once = plan("broadcast", wanted, gains, POWER_W, NOISE_W)
        assert once.delivered.all()
        for name in ("greedy_sinr", "coloring", "tdma"):
            if all(entry[1].size == 1 for entry in wanted):
                continue
            links = plan(name, wanted, gains, POWER_W, NOISE_W, multicast=False)
            assert once.airtime_s <= links.airtime_s * (1 + 1e-9)


def test_foschini_miljanic_finds_the_least_powers():
    gains = links_in_a_square(40, 3)
    members = np.flatnonzero(largest_feasible_set(affectances(gains)).members)[:10]
    cross = gains[:40, 40:][np.ix_(members, members)]
    power = foschini_miljanic(cross, NOISE_W, BETA, POWER_W)
    # The least fixed point solves (I - beta·F)·p = beta·N/G exactly.
    own = np.diagonal(cross)
    matrix = np.eye(members.size) - BETA * (cross / own).T * (1 - np.eye(members.size))
    np.testing.assert_allclose(power, np.linalg.solve(matrix, BETA * NOISE_W / own), rtol=1e-8)
    sinr = power * own / (power @ cross - power * own + NOISE_W)
    np.testing.assert_allclose(sinr, BETA, rtol=1e-8)
