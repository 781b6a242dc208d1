"""`priority: information`: of messages that do not all fit before a deadline, those that carry most change arrive."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.channel import Channel
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEADY = {"fading": "none", "shadowing": False, "rate": "cqi", "max_attempts": 1}
WEIGHING = ["tdma", "greedy_sinr", "local_greedy", "max_weight", "proportional_fair", "fplinq"]


def star(change, links=6, payload_bytes=4000):
    """Senders around one receiver at one distance: one at a time, all equally long."""
    angle = 2 * np.pi * np.arange(links) / links
    place = np.vstack([[0.0, 0.0], 40 * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    source = np.arange(1, links + 1)
    return place, Transfers.build(source, np.zeros(links), payload_bytes, change=change)


def delivered(place, wanted, **fields):
    plan = Channel(RadioSettings(**STEADY, **fields), place, seed=1).plan_round(0, wanted)
    return plan.delivered


def frame_s(place, wanted):
    """Length of one message with the air for itself."""
    table = Channel(RadioSettings(**STEADY, scheduler="tdma"), place, seed=1).plan_round(0, wanted).table
    length = (table.end_s - table.start_s).to_numpy()
    assert np.allclose(length, length[0], rtol=1e-9)
    return float(length[0])


@pytest.mark.parametrize("scheduler", WEIGHING)
@pytest.mark.parametrize("admitted", [1, 3, 5])
def test_before_a_deadline_the_largest_changes_arrive(scheduler, admitted):
    """By hand: six messages of one length, time for k of them; those with the k largest of six distinct changes."""
    change = np.array([0.5, 0.125, 1.0, 0.25, 0.75, 0.0625])
    place, wanted = star(change)
    deadline_s = (admitted + 0.5) * frame_s(place, wanted)
    found = delivered(place, wanted, scheduler=scheduler, priority="information", deadline_s=deadline_s)
    assert set(np.flatnonzero(found)) == set(np.argsort(-change)[:admitted])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["tdma", "greedy_sinr"]))
def test_no_other_choice_of_as_many_carries_more(seed, scheduler):
    """Against all subsets that fit, and in any order of the input."""
    random = np.random.default_rng(seed)
    change = random.integers(1, 2048, 6) / 1024
    place, wanted = star(change)
    admitted = int(random.integers(1, 6))
    words = {
        "scheduler": scheduler, "priority": "information", "deadline_s": (admitted + 0.5) * frame_s(place, wanted),
    }  # fmt: skip
    found = delivered(place, wanted, **words)
    best = max(change[list(chosen)].sum() for chosen in combinations(range(6), admitted))
    assert change[found].sum() == best
    order = random.permutation(6)
    assert np.array_equal(delivered(place, wanted.permuted(order), **words), found[order])


@pytest.mark.parametrize("scheduler", [*WEIGHING, "broadcast", "coloring", "csma", "aloha", "sidelink_mode2"])
@pytest.mark.parametrize("change", [None, np.full(9, 0.3), np.zeros(9)])
def test_alike_changes_give_the_schedule_of_no_priority(scheduler, change):
    """Bit for bit, round after round with what waited in between, whatever the size is, known or not."""
    random = np.random.default_rng(4)
    place = random.random((18, 2)) * 150
    source = np.arange(9)
    sizes = random.integers(500, 9000, 9)
    tables = []
    for priority in ("waiting", "information"):
        fields = RadioSettings(scheduler=scheduler, priority=priority, deadline_s=0.02)
        channel = Channel(fields, place, seed=2)
        wanted = Transfers.build(source, source + 9, sizes, change=None if priority == "waiting" else change)
        tables.append([channel.plan_round(k, wanted).table for k in range(3)])
    for one, other in zip(*tables, strict=True):
        assert len(one) and one.equals(other)


def test_a_broadcast_counts_by_its_largest_change_and_an_unknown_one_as_all_new():
    """Device 0 tells 1 and 2, device 3 tells 4: 0.5 for device 2 goes before 0.4; without a value a message is new."""
    place = [[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [10.0, 10.0], [20.0, 20.0]]
    for change, first in (([0.1, 0.5, 0.4], 0), ([0.1, 0.3, 0.4], 3), ([0.1, 0.9, np.nan], 3)):
        wanted = Transfers.build([0, 0, 3], [1, 2, 4], 4000, [0, 0, 0], change=change)
        fields = RadioSettings(**STEADY, scheduler="tdma", priority="information")
        table = Channel(fields, place, seed=1).plan_round(0, wanted).table
        assert int(table.source.iloc[0]) == first


@pytest.mark.parametrize("change", [[0.1, 0.9, 0.5], [0.9, 0.1, 0.5]])
def test_a_sender_without_a_scheduler_goes_by_the_change_of_its_own_messages(change):
    place = [[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [15.0, 15.0]]
    wanted = Transfers.build([0, 0, 0], [1, 2, 3], 4000, [0, 1, 2], change=change)
    fields = RadioSettings(**STEADY, scheduler="sidelink_mode2", priority="information")
    table = Channel(fields, place, seed=1).plan_round(0, wanted).table
    ends = table.groupby("destination").end_s.max().loc[[1, 2, 3]].to_numpy()
    assert np.argsort(ends).tolist() == np.argsort(-np.array(change)).tolist()


@pytest.mark.parametrize("change", [[0.5, -0.1], [0.5, np.inf], [0.5]])
def test_changes_that_are_none_are_refused(change):
    with pytest.raises(ValueError, match="change"):
        Transfers.build([0, 1], [1, 2], 100, change=change)


def test_where_control_is_charged_sizes_of_change_are_told():
    """One hop to the coordinator: 16 bits more for each of two wanted transfers, in reports alone."""
    place = [[0.0, 0.0], [20.0, 0.0], [10.0, 5.0]]
    wanted = Transfers.build([0, 1], [2, 2], 4000, change=[0.5, 1.0])
    parts = []
    for priority in ("waiting", "information"):
        fields = RadioSettings(**STEADY, scheduler="greedy_sinr", priority=priority, control="charged")
        parts.append(Channel(fields, place, seed=1).plan_round(0, wanted).control)
    was, now = parts
    assert now.reports.sent_bytes - was.reports.sent_bytes == 2 * 2
    assert (now.discovery.sent_bytes, now.grants.sent_bytes) == (
        was.discovery.sent_bytes,
        was.grants.sent_bytes,
    )
