"""Traces of availability and speed against plain loops over their rows."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.presence import Presence

DEVICES = 4
times = st.integers(0, 12).map(float)
rows = st.dictionaries(
    st.tuples(st.integers(0, DEVICES - 2), times), st.tuples(st.booleans(), st.sampled_from([0.25, 0.5, 1.0, 2.0])),
    min_size=1, max_size=12,
)  # fmt: skip


def built(trace):
    who, when = zip(*trace, strict=True)
    on, speed = zip(*trace.values(), strict=True)
    return Presence.build(DEVICES, who, when, on, speed)


def state(trace, device, time_s):
    mine = [(t, s) for (d, t), s in sorted(trace.items()) if d == device and t <= time_s]
    return mine[-1][1] if mine else (True, 1.0)


@given(rows, st.floats(0, 14), st.floats(0, 14))
def test_state_and_next_change_are_those_of_the_rows(trace, time_s, more_s):
    presence = built(trace)
    after = sorted({t for _, t in trace if t > time_s})
    for device in range(DEVICES):
        on, _ = state(trace, device, time_s)
        assert presence.on_at(time_s)[device] == on
        for wanted, found in ((True, presence.on_after(time_s)), (False, presence.off_after(time_s))):
            later = [t for t in after if state(trace, device, t)[0] == wanted]
            assert found[device] == (time_s if on == wanted else min(later, default=math.inf))
        points = [time_s, *(t for t in after if t < time_s + more_s), time_s + more_s]
        off = sum(b - a for a, b in pairwise(points) if not state(trace, device, a)[0])
        assert presence.off_s(time_s, time_s + more_s)[device] == pytest.approx(off, abs=1e-9)
        back = [t for t in sorted({t for _, t in trace if t <= time_s}, reverse=True) if not on]
        since = time_s
        for t in back:
            if state(trace, device, t)[0]:
                break
            since = t if (device, t) in trace else since
        assert presence.off_for(time_s)[device] == pytest.approx(time_s - since if not on else 0.0)
    flips = [
        t for t in after if any(state(trace, d, t)[0] != state(trace, d, t - 0.5)[0] for d in range(DEVICES))
    ]
    assert presence.next_change_s(time_s) == min(flips, default=math.inf)


@given(rows, st.floats(0, 14), st.floats(1e-3, 20))
def test_work_is_done_when_the_integral_of_the_speed_is_the_work(trace, start_s, work_s):
    done = built(trace).done_s(start_s, work_s)
    for device in range(DEVICES):
        points = [start_s, *sorted({t for _, t in trace if t > start_s}), math.inf]
        left, expected = work_s, math.inf
        for a, b in pairwise(points):
            on, speed = state(trace, device, a)
            rate = speed if on else 0.0
            if rate and left <= rate * (b - a):
                expected = a + left / rate
                break
            left -= rate * (b - a) if rate else 0.0
        assert done[device] == pytest.approx(expected, rel=1e-9)


def test_nothing_to_do_is_done_at_once_even_while_off():
    presence = Presence.build(2, [0], [0.0], [0], [1.0])
    np.testing.assert_array_equal(presence.done_s([1.0, 2.0], [0.0, 3.0]), [1.0, 5.0])


@pytest.mark.parametrize(
    ("row", "words"),
    [((9, 0, 1, 1), "device 9"), ((0, -1, 1, 1), "t_s"), ((0, 0, 2, 1), "on of"), ((0, 0, 1, 0), "speed"),
     ((0.5, 0, 1, 1), "device 0.5")],
)  # fmt: skip
def test_a_row_out_of_range_is_refused(row, words):
    with pytest.raises(ValueError, match=words):
        Presence.build(3, *[[value] for value in row])


def test_two_rows_at_one_time_are_refused():
    with pytest.raises(ValueError, match="two rows"):
        Presence.build(3, [0, 0], [1, 1], [1, 0], [1, 1])
