"""Energy of devices that hear several senders in one slot, against unions of the intervals of the table."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.channel import Channel
from channels.energy import DeviceClass, draw_classes
from channels.power_states import STATES
from channels.scheduling import plan
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SEND_W, RECEIVE_W, REST_W = 10**-0.7 + 0.05, 0.4, 0.03
ON_AIR = {
    "tx_power_dbm": 23.0,
    "amplifier_efficiency": 1.0,
    "circuit_power_w": 0.05,
    "receive_power_w": RECEIVE_W,
}
AWAKE = {"listen_power_w": REST_W, "idle_power_w": REST_W}
DEAF = {"window": 1, "doublings": 0, "sense_dbm": 300.0}
BESIDE = {"scheduler": "csma", "scheduler_options": DEAF, "shadowing": False, "fading": "none",
          "line_of_sight": "always", "max_attempts": 1}  # fmt: skip
BETWEEN = [[0.0, 0.0], [100.0, 0.0], [50.0, 0.0]]


def union_s(intervals):
    """Length of a union of intervals in s, by the points between which nothing changes."""
    points = sorted({point for interval in intervals for point in interval})
    return sum(b - a for a, b in pairwise(points) if any(s <= a and b <= e for s, e in intervals))


def by_hand(table, devices, feedback_s, slot_s=0.0):
    """(N,) seconds of sending and of receiving, answers included, and the end of the last slot, each as plain loops."""
    sends_s, hears_s, last_s = np.zeros(devices), np.zeros(devices), 0.0
    for _, slot in table.groupby("slot"):
        senders, begin_s, end_s = set(slot.source), slot.start_s.min(), slot.end_s.max()
        last_s = max(end_s + feedback_s, begin_s + slot_s)
        answer = (end_s, end_s + feedback_s)
        for device in senders | set(slot.destination):
            mine = slot[(slot.source if device in senders else slot.destination) == device]
            on_air = union_s(list(zip(mine.start_s, mine.end_s, strict=True)))
            one, other = (sends_s, hears_s) if device in senders else (hears_s, sends_s)
            one[device] += on_air
            other[device] += union_s([answer])
    return sends_s, hears_s, last_s


def receivers_share(row, feedback_s):
    """Energy of a row beyond what its sender, which nobody else hears, takes for sending and for hearing the answer."""
    return row.energy_j - SEND_W * (row.end_s - row.start_s) - RECEIVE_W * feedback_s


def two_senders(sizes, classes=None, **fields):
    """One slot in which two senders that do not hear each other send to the device between them."""
    channel = Channel(
        RadioSettings(**(BESIDE | ON_AIR | AWAKE | fields)), BETWEEN, seed=1, device_classes=classes
    )
    done = channel.plan_round(0, Transfers.build([0, 1], [2, 2], sizes))
    assert len(done.table) == 2 and done.table.slot.nunique() == 1
    return channel, done


def test_over_given_gains_a_receiver_is_charged_for_the_longest_of_what_it_hears():
    gains = np.zeros((3, 3))
    gains[:2, 2] = gains[2, :2] = 1e-8
    table = plan(
        "csma", [(0, 2, 1000), (1, 2, 100_000)], gains, 0.2, 1e-13, scheduler_options=DEAF, sinr_min_db=-20,
        receive_power_w=0.5, circuit_power_w=0.0, amplifier_efficiency=1.0,
    ).table  # fmt: skip
    length = (table.end_s - table.start_s).to_numpy()
    heard = (table.energy_j - 0.2 * length).to_numpy()
    assert heard.sum() == pytest.approx(0.5 * length.max(), rel=1e-12) == pytest.approx(0.054, rel=1e-3)
    # Each bears it by its length.
    assert heard == pytest.approx(heard.sum() * length / length.sum(), rel=1e-9)


@pytest.mark.parametrize("sizes", [(1000, 100_000), (100_000, 1000), (70_000, 70_000)])
@pytest.mark.parametrize("feedback_s", [0.0, 0.02])
@pytest.mark.parametrize("energy", ["components", "states"])
def test_the_device_between_two_senders_in_either_order(sizes, feedback_s, energy):
    watts = {"energy": "states", "energy_options": {"receive_w": RECEIVE_W, "idle_w": REST_W, "micro_sleep_w": REST_W,
             "light_sleep_w": REST_W, "deep_sleep_w": REST_W, "light_transition_j": 0.0, "deep_transition_j": 0.0,
             "transmit_0dbm_w": 0.051, "transmit_23dbm_w": SEND_W}} if energy == "states" else {}  # fmt: skip
    _, done = two_senders(sizes, feedback_s=feedback_s, **watts)
    longest = (done.table.end_s - done.table.start_s).max()
    on_air = RECEIVE_W * longest + SEND_W * feedback_s
    assert done.radio_energy_j[2] - done.idle_energy_j[2] == pytest.approx(on_air, rel=1e-9)
    assert sum(receivers_share(row, feedback_s) for row in done.table.itertuples()) == pytest.approx(
        on_air, rel=1e-9
    )
    # It receives or answers in all of the round, and neither listens nor idles.
    assert done.end_s == pytest.approx(longest + feedback_s)
    assert done.idle_energy_j[2] == pytest.approx(0.0, abs=1e-12)
    if energy == "states":
        parts = dict(zip(STATES, done.state_energy_j[:, 2], strict=True))
        assert parts["receive"] == pytest.approx(RECEIVE_W * longest, rel=1e-9)
        assert parts["transmit"] == pytest.approx(SEND_W * feedback_s, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("part", [0.3, 1.2, 1.5])
def test_rows_never_take_more_than_a_battery_holds(part):
    """A battery for a part of what is heard, or for all of it and a part of the answer."""
    _, free = two_senders((40_000, 100_000), feedback_s=0.02)
    longest = (free.table.end_s - free.table.start_s).max()
    holds_j = part * RECEIVE_W * longest
    assert holds_j < RECEIVE_W * longest + SEND_W * 0.02
    classes = draw_classes([DeviceClass()], 3, seed=0)
    classes.battery_j[2] = holds_j
    channel, done = two_senders((40_000, 100_000), classes, feedback_s=0.02)
    assert done.radio_energy_j[2] == pytest.approx(holds_j, rel=1e-12) and channel.battery_j[2] == 0
    shares = [receivers_share(row, 0.02) for row in done.table.itertuples()]
    assert min(shares) > 0 and sum(shares) == pytest.approx(holds_j, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["csma", "sidelink_mode2"]),
    st.integers(3, 9),
    st.sampled_from([0.0, 1.5e-3]),
    st.sampled_from([1, 3]),
)
def test_every_device_pays_for_the_unions_of_its_intervals(seed, scheduler, devices, feedback_s, bands):
    random = np.random.default_rng(seed)
    place, wanted = random.random((devices, 2)) * 400, crowded(random, devices)
    slot_s = 5e-3 if scheduler == "sidelink_mode2" else 0.0
    fields = {"sidelink_mode2": {"slot_s": 5e-3, "subchannels": bands}, "csma": {"scheduler_options": DEAF}}[
        scheduler
    ]
    radio = RadioSettings(
        **ON_AIR,
        **AWAKE,
        **fields,
        scheduler=scheduler,
        feedback_s=feedback_s,
        max_attempts=3,
        bandwidth_hz=20e6,
    )
    done = Channel(radio, place, seed=seed % 1000).plan_round(0, wanted)
    sends_s, hears_s, last_s = by_hand(done.table, devices, feedback_s, slot_s)
    on_air = SEND_W * sends_s + RECEIVE_W * hears_s
    np.testing.assert_allclose(done.radio_energy_j - done.idle_energy_j, on_air, rtol=1e-9, atol=1e-12)
    assert (
        done.table.energy_j.sum() == pytest.approx(on_air.sum(), rel=1e-9)
        and (done.table.energy_j >= 0).all()
    )
    rest_s = max(last_s, done.end_s) - sends_s - hears_s
    np.testing.assert_allclose(done.idle_energy_j, REST_W * rest_s, rtol=1e-9, atol=1e-9)
    charge(radio, place, wanted, seed, random.uniform(0.1, 0.9, devices) * on_air)


def crowded(random, devices):
    """Transfers of which most go to a few devices, as two of a slot must to meet at one."""
    source = random.integers(0, devices, 3 * devices)
    to = np.where(random.random(source.size) < 0.7, random.integers(0, 2, source.size), source)
    to = np.where(to == source, (source + random.integers(1, devices, source.size)) % devices, to)
    return Transfers.build(source, to, random.integers(50, 20_000, source.size), message=source)


def charge(radio, place, wanted, seed, battery_j):
    """Plan the round with batteries that most devices empty: rows, devices and batteries tell one story."""
    classes = draw_classes([DeviceClass()], len(place), seed=0)
    classes.battery_j[:] = np.where(battery_j > 0, battery_j, np.inf)
    channel = Channel(radio, place, seed=seed % 1000, device_classes=classes)
    done = channel.plan_round(0, wanted)
    spent = done.radio_energy_j
    assert (spent <= classes.battery_j * (1 + 1e-12)).all()
    finite = np.isfinite(classes.battery_j)
    np.testing.assert_allclose((spent + channel.battery_j)[finite], classes.battery_j[finite], rtol=1e-12)
    assert done.table.energy_j.sum() == pytest.approx((spent - done.idle_energy_j).sum(), rel=1e-9, abs=1e-12)
