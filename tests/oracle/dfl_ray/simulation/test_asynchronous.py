"""The event loop without a barrier against a plain simulation, one event at a time, that knows no windows."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.config.baselines import DloraConfig
from dfl_ray.config.schema import AsyncConfig
from dfl_ray.methods.dlora import Dlora
from dfl_ray.methods.staleness import staleness_factor
from dfl_ray.simulation.round_loop import WallTimes
from dfl_ray.wire.message import unpack
from tests.asynchrony import STEP, OneServerRadio, QuadraticBackend, loop_of, play
from tests.network import HELD, LINE, make_context, make_devices

CONSTANT = AsyncConfig(staleness="constant")


def quadratic(radio, *, section=CONSTANT, seed=0, **options):
    """Four devices on a path; returns the backend and the devices' first values."""
    config = DloraConfig(precision="float32", rank=2, **options)
    method = Dlora(replace(make_context(config, HELD), barrier=False))
    devices = make_devices(method, seed)
    rng = np.random.default_rng(seed + 1)
    targets = rng.normal(size=(4, method.layout.size)).astype(np.float32)
    start = np.concatenate([d.state.theta.numpy() for d in devices])
    return QuadraticBackend(method, devices, targets, radio, section), start.copy()


def values_of(backend):
    return np.concatenate([d.state.theta.numpy() for d in backend.devices.values()])


def plain_simulation(start, targets, seconds, airtime_s, until):
    """One event at a time: ends of local rounds in the order of time, messages in one queue. float64.

    Returns:
        Values after the first `until` local rounds, and these as (device, number, end).
    """
    x, free_radio_s = start.astype(np.float64), 0.0
    inbox = {d: [] for d in range(4)}
    queue = [(seconds(d, 1), d, 1) for d in range(4)]
    heapq.heapify(queue)
    done = []
    while len(done) < until:
        now_s, d, number = heapq.heappop(queue)
        x[d] += STEP * (targets[d] - x[d])
        free_radio_s = max(free_radio_s, now_s) + airtime_s
        for n in LINE[d]:
            inbox[n].append((free_radio_s, d, x[d].copy()))
        here = {}
        for letter in sorted((m for m in inbox[d] if m[0] <= now_s), key=lambda m: m[0]):
            here[letter[1]] = letter[2]
        inbox[d] = [m for m in inbox[d] if m[0] > now_s]
        x[d] += sum((LINE[d][n] * (v - x[d]) for n, v in here.items()), np.zeros_like(x[d]))
        done.append((d, number, now_s))
        heapq.heappush(queue, (max(now_s + seconds(d, number + 1), free_radio_s), d, number + 1))
    return x, done


@pytest.mark.parametrize("airtime_s", [0.003, 0.2, 1.7])
def test_windows_give_what_single_events_give(airtime_s):
    """A quick radio, one about as long as training, and one that all wait for."""
    draws = np.random.default_rng(5).uniform(0.6, 1.4, (4, 200))
    speed = np.array([1.0, 1.3, 0.2, 0.9])

    def seconds(device, number):
        return draws[device, number] / speed[device]

    backend, start = quadratic(OneServerRadio(4, airtime_s))
    ended = play(loop_of(backend, seconds), 20)
    expected, done = plain_simulation(start, backend.targets, seconds, airtime_s, len(ended))
    assert [(d, k) for d, k, _ in sorted(ended, key=lambda e: (e[2], e[0]))] == [(d, k) for d, k, _ in done]
    np.testing.assert_allclose(sorted(e for *_, e in ended), [e for *_, e in done], rtol=1e-12)
    np.testing.assert_allclose(values_of(backend), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("aggregation", ["gossip", "push_sum"])
def test_equal_speeds_and_a_radio_that_takes_no_time_are_synchronous_gossip(aggregation):
    """All end at once, send, and mix what the others have sent just then: x <- W (x + step)."""
    section = AsyncConfig(staleness="polynomial")
    backend, x = quadratic(OneServerRadio(4, 0.0), section=section, aggregation=aggregation)
    ended = play(loop_of(backend, lambda _d, _k: 1.0), 7)
    weights = np.array([[LINE[i].get(j, 0.0) for j in range(4)] for i in range(4)])
    weights += np.diag(1 - weights.sum(axis=1))
    for _ in range(7):
        x = weights @ (x + STEP * (backend.targets - x))
    assert ended == [(d, k, float(k)) for k in range(1, 8) for d in range(4)]
    np.testing.assert_allclose(values_of(backend), x, rtol=1e-5, atol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), spread=st.floats(0, 3), airtime_s=st.floats(1e-3, 3))
def test_no_message_is_late_for_a_local_round_that_has_been_played(seed, spread, airtime_s):
    """Causality: every message is mixed at the first end of its receiver's local rounds at or after its delivery."""
    draws = np.exp(np.random.default_rng(seed).normal(0, spread, 4))
    backend, _ = quadratic(OneServerRadio(4, airtime_s))
    loop = loop_of(backend, lambda d, k: float(draws[d]) * (1 + k % 3))
    delivered = {d: [] for d in range(4)}
    ends = {d: [] for d in range(4)}
    for window in range(1, 16):
        planned_at_s = loop.clock_s
        found = loop.play(window, WallTimes())
        for i in range(len(found.requests)):
            delivered[int(found.requests.destination[i])].append(float(found.plan.finished_s[i]))
            assert found.plan.finished_s[i] >= planned_at_s
        for d, turn in found.ended:
            assert turn.end_s > max(ends[d], default=-1.0)
            ends[d].append(turn.end_s)
            mixed = sum(n for _, index, n, _ in backend.taken if index == d)
            # Looked at again at the end: nothing that is planned later may belong before this end.
            assert mixed == sum(t <= turn.end_s for t in delivered[d])
    for d in range(4):
        mixed = [n for _, index, n, _ in backend.taken if index == d]
        assert np.cumsum(mixed).tolist() == [sum(t <= end for t in delivered[d]) for end in ends[d]]


@pytest.mark.parametrize("slow", [5.0, 500.0])
def test_nobody_waits_for_the_slowest(slow):
    """Ends of the others' local rounds are whole multiples of their own time, however slow device 2 is."""
    backend, _ = quadratic(OneServerRadio(4, 0.0))
    ended = play(loop_of(backend, lambda d, _k: slow if d == 2 else 1.0), 12)
    for d in (0, 1, 3):
        assert [e for device, _, e in ended if device == d][:10] == [float(k) for k in range(1, 11)]


def test_a_message_is_as_old_as_the_rounds_its_receiver_made_without_it():
    """Device 2 trains nine times as long: its messages are 8 rounds old, or 9 where they come after it."""
    ages = {}
    for airtime_s in (0.0, 0.01):
        backend, _ = quadratic(OneServerRadio(4, airtime_s))
        play(loop_of(backend, lambda d, _k: 9.0 if d == 2 else 1.0), 30)
        old = [max(found) for _, index, _, found in backend.taken if index == 3 and found]
        ages[airtime_s] = old
    assert ages[0.0] and set(ages[0.0]) == {8}
    assert ages[0.01] and set(ages[0.01]) <= {8, 9}


def test_an_old_message_weighs_less_and_the_rest_stays_at_home():
    section = AsyncConfig(staleness="hinge", grace_rounds=2, exponent=1.0)
    assert [staleness_factor(section, a) for a in (0, 2, 3, 5)] == [1, 1, 1 / 2, 1 / 4]
    assert staleness_factor(AsyncConfig(staleness="polynomial", exponent=0.5), 3) == 1 / 2
    assert staleness_factor(CONSTANT, 50) == 1
    backend, _ = quadratic(OneServerRadio(4, 0.0))
    method, device = backend.method, backend.devices[0]
    own, other = device.state.theta.numpy().copy(), backend.devices[1].state.theta.numpy().copy()
    (out,) = method.outgoing(backend.devices[1], 1)
    device.trust = {1: 0.25}
    method.incoming(device, 1, [out.payload], [])
    np.testing.assert_allclose(device.state.theta.numpy(), own + 0.25 / 3 * (other - own), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("lossy", [False, True])
def test_push_sum_keeps_the_average_whatever_comes_late_or_never(seed, lossy):
    """sum w x and sum w over devices, messages under way, and shares that are to come back, are those of the start."""
    rng = np.random.default_rng(seed)
    lost = {(m, d): bool(rng.random() < 0.3) for m in range(400) for d in range(4)} if lossy else {}
    radio = OneServerRadio(4, 0.4, lambda message, to: lost.get((message, to), False))
    backend, start = quadratic(radio, aggregation="push_sum", seed=seed)
    duration = rng.uniform(0.5, 3.0, 4)
    loop = loop_of(backend, lambda d, _k: float(duration[d]))
    for window in range(1, 61):
        backend.targets = values_of(backend)  # each goes towards what it has: nobody learns
        loop.play(window, WallTimes())
        if window % 7 == 0:
            mass, total = _everything(backend)
            assert mass == pytest.approx(4.0, rel=1e-9)
            np.testing.assert_allclose(total, start.sum(axis=0), rtol=1e-4, atol=1e-4)
    mean = start.mean(axis=0)
    assert np.abs(values_of(backend) - mean).max() < 0.2 * np.abs(start - mean).max()


def _everything(backend):
    """Mass and mass times values, wherever they are."""
    mass, total = 0.0, np.zeros(backend.targets.shape[1])
    for device in backend.devices.values():
        kept = device.memory.part("shared")
        mass += kept.mass
        total += kept.mass * device.state.theta.numpy()[0]
        if kept.under_way is None:
            continue
        newest = {n for _, f in device.waiting.fates.items() for n in f.reached.tolist()}
        for n, share in kept.shares.items():
            # Lost ones come back to the sender; those that have arrived but lie unread are counted below.
            if n not in newest:
                mass += share * kept.given
                total += share * kept.under_way
    for index, device in backend.devices.items():
        for letter in device.waiting.letters.values():
            arrival = _read(backend, letter)
            share = LINE[letter.sender][index]
            mass += share * arrival.mass
            total += share * arrival.mass * arrival.values
    return mass, total


def _read(backend, letter):
    return backend.method.parts.exchange.read(unpack(letter.content.tobytes()), None)
