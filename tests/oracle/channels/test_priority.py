"""Orders of transfers: by age and by what still fits before a deadline; and that numbering changes no physics."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.channel import Channel
from channels.estimate import jain_index
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SEEDS = st.integers(0, 2**32 - 1)
STEADY = {"fading": "none", "scheduler": "tdma", "rate": "cqi", "max_attempts": 1}


def drawn(seed, links=9):
    random = np.random.default_rng(seed)
    source = np.arange(links)
    wanted = Transfers.build(source, source + links, random.integers(500, 30_000, links))
    return random.random((2 * links, 2)) * 120, wanted


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.floats(0.1, 0.9))
def test_the_shortest_first_serve_as_many_as_any_choice(seed, share):
    """By hand: of all sets of transfers whose times fit before the deadline, the largest."""
    place, wanted = drawn(seed)
    free = Channel(RadioSettings(**STEADY), place, seed=1).plan_round(0, wanted)
    length = np.zeros(len(wanted))
    length[free.table.transfer] = free.table.end_s - free.table.start_s
    length[~free.delivered] = np.inf
    deadline_s = share * float(length[free.delivered].sum())
    best = max(
        size
        for size in range(len(wanted) + 1)
        for chosen in combinations(range(len(wanted)), size)
        if length[list(chosen)].sum() <= deadline_s
    )
    found = {
        priority: Channel(
            RadioSettings(**STEADY, deadline_s=deadline_s * (1 + 1e-9), priority=priority), place, seed=1
        ).plan_round(0, wanted)
        for priority in ("waiting", "deadline")
    }
    hopeless = int((~free.delivered).sum())
    assert found["waiting"].delivered.sum() <= best
    assert found["deadline"].delivered.sum() == best or hopeless


def test_what_others_wait_for_goes_by_the_whole_way():
    """A chain of two hops takes longer than the one hop that comes first, however short its own first hop is."""
    place = [[0.0, 0.0], [20.0, 0.0], [40.0, 0.0], [0.0, 30.0], [20.0, 30.0]]
    wanted = Transfers.build([0, 1, 3], [1, 2, 4], [4000, 4000, 6000], [0, 0, 1], [-1, 0, -1])
    channel = Channel(RadioSettings(**STEADY, shadowing=False, priority="deadline"), place, seed=1)
    table = channel.plan_round(0, wanted).table
    assert table.transfer.tolist() == [2, 0, 1]


def test_the_receiver_with_the_oldest_copy_is_served_first():
    """Two links and time for one a round: by age they alternate; one that failed has aged, and one that waited too."""
    place = [[0.0, 0.0], [20.0, 0.0], [0.0, 30.0], [20.0, 30.0]]
    fields = {**STEADY, "shadowing": False}
    both = Transfers.build([0, 2], [1, 3], [4000, 4000])
    frame_s = float(Channel(RadioSettings(**fields), place, seed=1).plan_round(0, both).table.end_s.iloc[0])
    channel = Channel(RadioSettings(**fields, priority="age", deadline_s=1.5 * frame_s), place, seed=1)
    first = channel.plan_round(0, both).delivered.tolist()
    later = [channel.plan_round(k, both).delivered.tolist() for k in range(1, 5)]
    assert sorted(first) == [False, True]
    assert later == [first[::-1], first, first[::-1], first]
    service = channel._service
    assert service.neglect(both, "age").tolist() == [int(not one) for one in later[-1]]
    channel.plan_round(5, Transfers.build([], [], []))
    assert service.neglect(both, "age").tolist() == [1 + int(not one) for one in later[-1]]
    assert service.neglect(both, "waiting").tolist() == [int(not one) for one in later[-1]]


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from(["waiting", "age", "deadline"]))
def test_how_devices_are_numbered_changes_no_physics(seed, priority):
    """Without fading a round one at a time costs the same, and reaches the same, under any numbering."""
    place, wanted = drawn(seed, links=6)
    number = np.random.default_rng(seed + 1).permutation(12)
    moved = np.empty_like(place)
    moved[number] = place
    renamed = Transfers.build(
        number[wanted.source], number[wanted.destination], wanted.payload_bytes, wanted.message
    )
    fields = RadioSettings(**STEADY, priority=priority, external_per_km2=30.0, energy="states")
    one, other = Channel(fields, place, seed=7), Channel(fields, moved, seed=7)
    a, b = np.triu_indices(12, 1)
    np.testing.assert_allclose(
        one.mean_snr_db(a, b), other.mean_snr_db(number[a], number[b]), rtol=0, atol=1e-9
    )
    first, second = one.plan_round(0, wanted), other.plan_round(0, renamed)
    assert first.airtime_s == pytest.approx(second.airtime_s, rel=1e-12)
    rates = [plan.table.sort_values("transfer").rate_bps for plan in (first, second)]
    np.testing.assert_allclose(*rates, rtol=1e-12)
    busy = [plan.state_energy_j[:2].sum(axis=0) for plan in (first, second)]
    np.testing.assert_allclose(busy[0], busy[1][number], rtol=1e-9)


def test_fairness_is_jains():
    assert jain_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain_index([0.0, 0.0, 5.0, 0.0]) == pytest.approx(0.25)
    assert jain_index([1.0, 2.0, 3.0]) == pytest.approx(36 / (3 * 14))
    assert np.isnan(jain_index([])) and np.isnan(jain_index([0.0]))
