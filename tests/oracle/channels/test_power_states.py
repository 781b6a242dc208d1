"""Energy by state: the report's numbers, silences in closed form, and whole rounds taken apart from their table."""

import numpy as np
import pytest

from channels.channel import Channel
from channels.energy import DeviceClass, draw_classes
from channels.power_states import STATES, state_powers
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::channels.validity.OutOfReachWarning")
NOTHING = Transfers.build([], [], [])
UNIT_W = 1e-3
PLACE = np.random.default_rng(8).random((12, 2)) * 300
SOURCE = np.repeat(np.arange(12), 3)
WANTED = Transfers.build(SOURCE, (SOURCE + np.tile([1, 4, 7], 12)) % 12, 15_000, message=SOURCE)


def radio(**fields):
    return RadioSettings(**{"energy": "states", **fields})


def slept_by_hand(silence_s):
    """Energy of a silence in J, by state, from the numbers of TR 38.840 in units times milliseconds."""
    ms = 1e3 * silence_s
    return {
        "micro_sleep": 45 * min(ms, 6) * 1e-6,
        "light_sleep": 20 * min(max(ms - 6, 0), 14) * 1e-6,
        "deep_sleep": 1 * max(ms - 20, 0) * 1e-6,
        "transition": (450 if ms > 20 else 100 if ms > 6 else 0) * 1e-6,
    }


def parts(plan):
    return dict(zip(STATES, plan.state_energy_j, strict=True))


def test_sending_follows_the_reports_two_points_and_the_line_between_them():
    draw = state_powers(unit_w=1.0, transmit_0dbm_w=None)
    for dbm in (0.0, 10.0, 23.0):
        watt = 10 ** (dbm / 10 - 3)
        drawn = watt / draw.amplifier_efficiency + draw.circuit_power_w
        # 450/(10^2.3 - 1) = 2.267 units for each further mW, as the thesis has it.
        assert drawn == pytest.approx(250 + 450 / (10**2.3 - 1) * (1e3 * watt - 1), rel=1e-12)
    assert (draw.receive_power_w, draw.listen_power_w) == (300, 100)
    assert draw.sleeps is not None and draw.sleeps.power_w.tolist() == [45, 20, 1]


@pytest.mark.parametrize("silence_s", [0.004, 0.006, 0.013, 0.02, 7.5])
@pytest.mark.parametrize("rounds", [1, 5])
def test_a_silence_costs_the_same_however_many_rounds_it_spans(silence_s, rounds):
    channel = Channel(radio(), PLACE, seed=0)
    spent = np.zeros((7, 12))
    for k in range(rounds):
        spent += channel.plan_round(k, NOTHING, ready_s=np.full(12, silence_s / rounds)).state_energy_j
    by_hand = {"transmit": 0.0, "receive": 0.0, "listen": 0.0, **slept_by_hand(silence_s)}
    np.testing.assert_allclose(spent.T, np.tile([by_hand[s] for s in STATES], (12, 1)), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("feedback_s", [0.0, 2e-3])
def test_rounds_taken_apart_from_their_table(feedback_s):
    """Plain reckoning from who sent and heard when; devices awake until their last reception was settled."""
    channel = Channel(
        radio(scheduler="tdma", multicast=False, feedback_s=feedback_s, max_attempts=2), PLACE, seed=3
    )
    silent = np.zeros(12)
    for k in range(2):
        ready = np.random.default_rng(k).random(12) * 0.03
        plan = channel.plan_round(k, WANTED, ready_s=ready)
        table, start = plan.table, plan.start_s
        sent, heard, listens = np.zeros(12), np.zeros(12), np.zeros(12)
        rest = np.zeros((4, 12))
        for device in range(12):
            busy = [
                (row.start_s, row.end_s, row.source == device)
                for row in table.itertuples()
                if device in (row.source, row.destination)
            ]
            power = 0.25 + 0.45 / (10**2.3 - 1) * (10**2.3 - 1)
            sent[device] += power * sum(b - a for a, b, sends in busy if sends)
            heard[device] += 0.3 * sum(b - a for a, b, sends in busy if not sends)
            sent[device] += power * feedback_s * sum(not sends for _, _, sends in busy)
            heard[device] += 0.3 * feedback_s * sum(sends for _, _, sends in busy)
            awake_until = max(
                (row.end_s + feedback_s for row in table.itertuples() if row.destination == device),
                default=start,
            )
            now = start
            for a, b, _ in [*busy, (plan.end_s, plan.end_s, False)]:
                b = b + feedback_s if a != plan.end_s else b
                awake = min(max(awake_until - now, 0.0), a - now)
                listens[device] += 0.1 * awake
                if awake > 1e-12:
                    silent[device] = 0.0
                before, after = silent[device], silent[device] + a - now - awake
                for state, name in enumerate(STATES[3:]):
                    rest[state, device] += slept_by_hand(after)[name] - slept_by_hand(before)[name]
                silent[device] = after if a == plan.end_s else 0.0
                now = b
        expected = np.vstack([sent, heard, listens, rest])
        np.testing.assert_allclose(plan.state_energy_j, expected, rtol=1e-9, atol=1e-12)
        assert (rest[3] > 0).any() and (expected[2] > 0).all()


@pytest.mark.parametrize("fields", [
    {}, {"scheduler": "csma"}, {"subchannels": 3, "feedback_s": 1e-3},
    {"scheduler": "sidelink_mode2", "subchannels": 3, "slot_s": 5e-3, "feedback_s": 1e-3},
])  # fmt: skip
def test_parts_are_the_total_to_the_last_bit_and_the_table_has_those_of_the_air(fields):
    channel = Channel(radio(**fields), PLACE, seed=1)
    for k in range(2):
        work = np.linspace(1e-3, 5e-3, 12)
        plan = channel.plan_round(k, WANTED, ready_s=np.full(12, 0.01), compute_energy_j=work)
        assert plan.state_energy_j is not None and (plan.state_energy_j >= 0).all()
        assert np.array_equal(plan.state_energy_j.sum(axis=0), plan.radio_energy_j)
        assert np.array_equal(plan.state_energy_j[2:].sum(axis=0), plan.idle_energy_j)
        assert np.array_equal(plan.energy_j, plan.radio_energy_j + plan.compute_energy_j)
        assert plan.state_energy_j[:2].sum() == pytest.approx(plan.table.energy_j.sum(), rel=1e-12)


def test_batteries_give_no_more_than_they_hold():
    classes = draw_classes([DeviceClass(battery_j=0.02)], 12, seed=0)
    channel = Channel(radio(), PLACE, seed=1, device_classes=classes)
    spent = sum(channel.plan_round(k, WANTED, ready_s=np.full(12, 0.05)).energy_j for k in range(20))
    assert 0 < channel.alive.sum() < 12
    np.testing.assert_allclose(spent[~channel.alive], 0.02, rtol=1e-12)
    np.testing.assert_allclose(spent + channel.battery_j, 0.02, rtol=1e-12)


def test_a_snapshot_takes_a_silence_along():
    one, other = (Channel(radio(), PLACE, seed=1) for _ in range(2))
    one.plan_round(0, NOTHING, ready_s=np.full(12, 0.01))
    other.restore(one.snapshot())
    first, second = (c.plan_round(1, NOTHING, ready_s=np.full(12, 0.02)) for c in (one, other))
    assert np.array_equal(first.state_energy_j, second.state_energy_j)
    assert first.state_energy_j[STATES.index("micro_sleep")].max() == 0


def test_without_states_a_round_has_no_parts():
    plain = Channel(RadioSettings(), PLACE, seed=1).plan_round(0, WANTED)
    assert plain.state_energy_j is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"energy": "components", "energy_options": {"unit_w": 1e-3}}, "no options of its own"),
        ({"energy_options": {"unit_W": 1e-3}}, "Did you mean 'unit_w'"),
        ({"energy_options": {"unit_w": 1e-4}}, "at least what is radiated"),
        ({"energy_options": {"deep_after_s": 1e-3}}, "at least light_after_s"),
        ({"energy_options": {"deep_transition_j": 1e-6}}, "at least light_transition_j"),
        ({"energy_options": {"receive_w": -1.0}}, "receive_w is -1.0"),
        ({"energy_options": {"unit_w": "x"}}, "energy 'states': unit_w is 'x'; expected a finite number > 0"),
        (
            {"energy_options": {"idle_w": "x"}},
            "idle_w is 'x'; expected a finite number >= 0 and <= 1e.06 or none",
        ),
    ],
)
def test_powers_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        radio(**fields)
