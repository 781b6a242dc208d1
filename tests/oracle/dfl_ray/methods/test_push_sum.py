"""Push-sum keeps the exact average under losses, where gossip drifts; without losses both are the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from dfl_ray.config.methods import DloraConfig, RoloraConfig, SparseOrthogonalConfig
from dfl_ray.methods.entries import make_method
from tests.network import HELD, LINE, make_context, make_devices, plain_context, play

DIRECTED = {0: {1: 0.4}, 1: {2: 0.5}, 2: {3: 0.3, 0: 0.3}, 3: {0: 0.6}}


def network(aggregation, weights=LINE, config=DloraConfig, **changes):
    settings = {"rank": 2, "precision": "float32", "aggregation": aggregation, **changes}
    method = make_method(plain_context(config(**settings), weights, rounds=1000))
    return method, make_devices(method)


def rows(devices):
    return np.stack([d.state.theta[0].numpy().astype(float) for d in devices])


def losses(rng, weights, share):
    return {(i, j) for i, mine in weights.items() for j in mine if rng.random() < share}


def masses(method, devices):
    return np.array([method.parts.exchange.mass(d, method.parts.whole) for d in devices])


def run(method, devices, rounds, weights, share, seed=1):
    rng = np.random.default_rng(seed)
    for r in range(1, rounds + 1):
        refused, _ = play(method, devices, r, losses(rng, weights, share))
        assert not refused


def test_without_losses_it_is_gossip():
    (one, left), (two, right) = network("gossip"), network("push_sum")
    for r in range(1, 8):
        play(one, left, r)
        play(two, right, r)
    np.testing.assert_allclose(rows(left), rows(right), atol=1e-5)
    np.testing.assert_allclose(masses(two, right), 1.0, atol=1e-12)


def test_under_losses_it_finds_the_true_average_and_gossip_does_not():
    found = {}
    for aggregation in ("gossip", "push_sum"):
        method, devices = network(aggregation)
        target = rows(devices).mean(axis=0)
        run(method, devices, 200, LINE, 0.4)
        assert np.ptp(rows(devices), axis=0).max() < 1e-4
        found[aggregation] = np.abs(rows(devices) - target).max()
    assert found["push_sum"] < 1e-4
    assert found["gossip"] > 0.05


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_mass_and_weighted_sum_are_kept_every_round_also_by_rounded_values(precision):
    method, devices = network("push_sum", precision=precision)
    total = rows(devices).sum(axis=0)
    rng = np.random.default_rng(0)
    for r in range(1, 12):
        play(method, devices, r, losses(rng, LINE, 0.5))
        w = masses(method, devices)
        assert w.sum() == pytest.approx(4, abs=1e-12)
        np.testing.assert_allclose(w @ rows(devices), total, atol=1e-4)
    assert np.ptp(w) > 0.03


def test_directed_graph_reaches_the_average():
    """Node j hears i exactly when i has j as a neighbour; messages from others than neighbours are refused, so the
    listening side is given the weight 0 edge by the reverse entry."""
    both = {i: {**{j: 0.0 for j, mine in DIRECTED.items() if i in mine}, **DIRECTED[i]} for i in DIRECTED}
    method, devices = network("push_sum", both)
    target = rows(devices).mean(axis=0)
    run(method, devices, 150, both, 0.0)
    np.testing.assert_allclose(rows(devices), np.tile(target, (4, 1)), atol=1e-4)
    assert np.ptp(masses(method, devices)) > 0.1


def test_local_updates_count_the_same_whatever_the_mass():
    """The weighted sum moves by exactly the sum of the devices' updates (Assran et al., equation 3)."""
    method, devices = network("push_sum", exchange_every=2)
    rng = np.random.default_rng(4)
    expected = rows(devices).sum(axis=0)
    for r in range(1, 13):
        for d in devices:
            method.begin(d, r)
            step = rng.normal(size=d.state.theta.shape).astype(np.float32)
            d.state.theta += torch.from_numpy(step)
            expected = expected + step[0]
        play(method, devices, r, losses(rng, LINE, 0.5))
    w = masses(method, devices)
    assert np.ptp(w) > 0.05
    np.testing.assert_allclose(w @ rows(devices), expected, atol=1e-3)


def test_a_device_that_reaches_nobody_keeps_its_all():
    method, devices = network("push_sum")
    before = rows(devices)
    play(method, devices, 1, {(0, 1), (1, 0)})
    np.testing.assert_allclose(rows(devices)[0], before[0], atol=1e-7)


def test_alternating_factors_have_masses_of_their_own():
    method, devices = network("push_sum", config=RoloraConfig)
    total = rows(devices).sum(axis=0)
    rng = np.random.default_rng(2)
    for r in range(1, 9):
        play(method, devices, r, losses(rng, LINE, 0.4))
    for factor in ("a", "b"):
        part = method.parts.factor(factor)
        w = np.array([method.parts.exchange.mass(d, part) for d in devices])
        np.testing.assert_allclose((w @ rows(devices))[part.keep], total[part.keep], atol=1e-4)


def test_sparse_experts_average_per_task_under_losses():
    config = SparseOrthogonalConfig(
        exchange_every=1, rank=4, precision="float32", density=1.0, sketch_layers=1, aggregation="push_sum"
    )
    method = make_method(make_context(config, HELD, rounds=500))
    devices = make_devices(method)
    mine = {t: [(d, d.adapter_tasks.index(t)) for d in devices if t in d.adapter_tasks] for t in (0, 1)}
    target = {t: np.mean([d.state.theta[s].numpy() for d, s in ds], axis=0) for t, ds in mine.items()}
    rng = np.random.default_rng(0)
    for r in range(1, 121):
        play(method, devices, r, losses(rng, LINE, 0.3))
    for task, ds in mine.items():
        for d, s in ds:
            np.testing.assert_allclose(d.state.theta[s].numpy(), target[task], atol=1e-4)


def test_a_mass_that_cannot_be_is_refused():
    from dataclasses import replace

    from dfl_ray.wire.message import pack, unpack

    method, devices = network("push_sum")
    for d in devices:
        method.begin(d, 1)
    message = unpack(method.outgoing(devices[0], 1)[0].payload)
    whole = np.float64(-1).tobytes() + message.body[8:]
    for body, reason in ((whole, "not_finite"), (b"12345", "corrupted"), (message.body[:-4], "corrupted")):
        bad = pack(replace(message, body=body))
        assert method.incoming(devices[1], 1, [bad], []) == {reason: 1}


def test_mass_is_kept_where_a_message_comes_and_is_refused():
    # Who missed a mask refuses what is sent under it, though the sender has been told that it came.
    config = SparseOrthogonalConfig(rank=4, precision="float32", density=0.25, sketch_layers=1, exchange_every=1,
                                    prune_end=0.6, prune_steps=5, aggregation="push_sum")  # fmt: skip
    method = make_method(make_context(config, HELD))
    devices = make_devices(method)
    refused = Counter()
    for r in range(1, 21):
        found, _ = play(method, devices, r, {(0, 1)} if 4 <= r <= 9 else set())
        refused += found
        held = Counter()
        for device in devices:
            held.update({name: part.mass for name, part in device.memory.parts.items()})
        for task, mass in held.items():
            assert mass == pytest.approx(sum(int(task) in tasks for tasks in HELD.values()), abs=1e-9), r
    assert refused["unknown_mask"] > 0


def test_values_that_are_refused_count_as_the_receivers_own():
    method, devices = network("push_sum")
    devices[1].state.theta[0][:] = torch.nan
    before = rows(devices)
    refused, _ = play(method, devices, 1, set())
    assert refused["not_finite"] > 0
    assert masses(method, devices).sum() == pytest.approx(4, abs=1e-12)
    most = before[[0, 2, 3]].max(axis=0)
    for index in (0, 2, 3):  # a mean of finite neighbours and itself
        assert (rows(devices)[index] <= most + 1e-6).all()
