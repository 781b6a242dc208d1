"""The methods of the literature against plain numpy on tiny problems, their limit cases and their bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.config import literature
from dfl_ray.config.methods import ChocoConfig, DloraConfig, FlexloraConfig, FloraConfig, HetloraConfig
from dfl_ray.lora.layout import LayerShape
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.flora_na import nearest_weights
from dfl_ray.network.traffic import LawfulNetwork
from dfl_ray.wire.codec import encoded_size
from dfl_ray.wire.message import HEADER_BYTES
from tests.network import LINE, complete, largest, plain_context, play, put, row
from tests.network import network as plain_network

ONE = (LayerShape("x", 3, 4),)
PAIR = {0: {1: 0.3}, 1: {0: 0.3}}
SET = {"rank": 2, "alpha": 4.0, "precision": "float32"}
SCALE = 2.0


def network(config, weights=PAIR, layers=ONE, **named):
    return plain_network(config, weights, layers, **named)


def factors(device):
    flat = device.state.theta[0].numpy().astype(float).copy()
    return flat[8:14].reshape(3, 2), flat[:8].reshape(2, 4)


def doubly_stochastic(weights):
    w = np.array([[weights[i].get(j, 0.0) for j in sorted(weights)] for i in sorted(weights)])
    return w + np.diag(1 - w.sum(axis=1))


def test_dec_lora_is_dlora_bit_for_bit():
    ours, left = network(literature.DecLoraConfig(**SET), LINE)
    theirs, right = network(DloraConfig(**SET), LINE)
    for r in (1, 2, 3):
        assert play(ours, left, r)[1] == play(theirs, right, r)[1]
    for one, two in zip(left, right, strict=True):
        assert torch.equal(one.state.theta, two.state.theta)


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (literature.AdfLoraConfig(**SET), "bababa"),
        (literature.AdfLoraConfig(**SET, exchange_every=2), "bbaabb"),
        (literature.TadLoraConfig(**SET, switch_every=3), "bbbaaa"),
        (literature.TadLoraConfig(**SET, switch_every=1), "bababa"),
    ],
)
def test_adf_and_tad_train_one_factor_and_mix_both(config, trained):
    method, devices = network(config, LINE)
    for r, factor in enumerate(trained, start=1):
        keep = method.keep(devices[0], r)[0].tolist()
        assert keep == [factor == "a"] * 8 + [factor == "b"] * 6
    before = np.stack([row(d) for d in devices])
    play(method, devices, config.exchange_every)
    np.testing.assert_allclose([row(d) for d in devices], doubly_stochastic(LINE) @ before, atol=1e-6)
    bytes_of = [play(*network(c, LINE), 2)[1] for c in (config, DloraConfig(**SET))]
    assert bytes_of[0] == bytes_of[1]


def test_fedex_makes_the_mean_product_exact():
    method, devices = network(literature.FedexConfig(**SET))
    (b0, a0), (b1, a1) = map(factors, devices)
    merged = np.zeros((3, 4))
    for r in (1, 2):
        mean_b, mean_a = 0.7 * b0 + 0.3 * b1, 0.7 * a0 + 0.3 * a1
        merged += SCALE * (0.7 * b0 @ a0 + 0.3 * b1 @ a1 - mean_b @ mean_a)
        other = 0.3 * b0 + 0.7 * b1, 0.3 * a0 + 0.7 * a1
        play(method, devices, r)
        b, a = factors(devices[0])
        np.testing.assert_allclose(b, mean_b, atol=1e-6)
        np.testing.assert_allclose(a, mean_a, atol=1e-6)
        np.testing.assert_allclose(devices[0].memory.merged.reshape(3, 4), merged, atol=1e-5)
        if r == 1:
            exact = SCALE * (0.7 * b0 @ a0 + 0.3 * b1 @ a1)
            np.testing.assert_allclose(SCALE * b @ a + merged, exact, atol=1e-5)
        (b0, a0), (b1, a1) = (mean_b, mean_a), other
    ((fa, fb),) = method.expert(devices[0], 0).frozen()
    np.testing.assert_allclose(SCALE * (fb @ fa).numpy(), merged, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["fedex", "flora_na", "lora_fair", "decaf", "gradient_tracking", "exact_diffusion"]
)
def test_devices_that_agree_stay_where_they_are(name):
    section = {
        "fedex": literature.FedexConfig, "flora_na": literature.FloraNaConfig, "decaf": literature.DecafConfig,
        "lora_fair": literature.LoraFairConfig,
        "gradient_tracking": literature.GradientTrackingConfig, "exact_diffusion": literature.ExactDiffusionConfig,
    }[name]  # fmt: skip
    method, devices = network(section(**SET), LINE)
    for d in devices:
        put(d, row(devices[0]))
        method.begin(d, 1)
    product = np.matmul(*factors(devices[0]))
    play(method, devices, 1)
    for d in devices:
        np.testing.assert_allclose(np.matmul(*factors(d)), product, atol=1e-5)
        merged = getattr(d.memory, "merged", None)
        assert merged is None or np.abs(merged).max() < 1e-5


def test_decaf_takes_balanced_factors_of_the_best_product():
    method, devices = network(literature.DecafConfig(**SET))
    before = [factors(d) for d in devices]
    mean = 0.7 * before[0][0] @ before[0][1] + 0.3 * before[1][0] @ before[1][1]
    u, s, vt = np.linalg.svd(mean)
    devices[0].state.exp_avg.fill_(1.0)
    play(method, devices, 1)
    b, a = factors(devices[0])
    np.testing.assert_allclose(b @ a, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5)
    np.testing.assert_allclose(b.T @ b, np.diag(s[:2]), atol=1e-5)
    np.testing.assert_allclose(a @ a.T, np.diag(s[:2]), atol=1e-5)
    assert not devices[0].state.exp_avg.any()
    flexlora, others = network(FlexloraConfig(**SET))
    play(flexlora, others, 1)
    np.testing.assert_allclose(np.matmul(*factors(others[0])), b @ a, atol=1e-5)


def test_decaf_of_adapters_that_are_zero_is_zero():
    method, devices = network(literature.DecafConfig(**SET))
    for d in devices:
        put(d, np.r_[row(d)[:8], np.zeros(6)])
    play(method, devices, 1)
    assert not any(np.matmul(*factors(d)).any() for d in devices)


def error_of(p, q, b, a, w):
    ideal = sum(x * y @ z for x, y, z in zip(w, b, a, strict=True))
    return np.linalg.norm(ideal - np.einsum("j,jmr->mr", p, b) @ np.einsum("j,jrd->rd", q, a))


def test_flora_na_is_nearest_to_the_mean_product():
    rng = np.random.default_rng(4)
    b, a, w = rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 2, 5)), np.array([0.5, 0.3, 0.2])
    p, q = nearest_weights(b, a, w)
    found, averaged = error_of(p, q, b, a, w), error_of(w, w, b, a, w)
    assert found < averaged
    for _ in range(200):  # no step in any direction is better: a local minimum of both weights together
        step = rng.normal(size=(2, 3)) * 1e-3
        assert error_of(p + step[0], q + step[1], b, a, w) > found - 1e-6
    equal = np.broadcast_to(a[0], a.shape)
    assert error_of(*nearest_weights(b, equal, w), b, equal, w) < 1e-9
    method, devices = network(literature.FloraNaConfig(**SET))
    (b0, a0), (b1, a1) = map(factors, devices)
    p, q = nearest_weights(np.stack([b0, b1]), np.stack([a0, a1]), np.array([0.7, 0.3]))
    play(method, devices, 1)
    mixed_b, mixed_a = factors(devices[0])
    np.testing.assert_allclose(mixed_b, p[0] * b0 + p[1] * b1, atol=1e-5)
    np.testing.assert_allclose(mixed_a, q[0] * a0 + q[1] * a1, atol=1e-5)


def test_flora_na_of_adapters_that_are_zero_keeps_a_finite():
    b, a, w = np.zeros((2, 3, 2)), np.random.default_rng(1).normal(size=(2, 2, 4)), np.array([0.6, 0.4])
    p, q = nearest_weights(b, a, w)
    np.testing.assert_allclose((p, q), (w, w))


@pytest.mark.parametrize("ridge", [0.0, 0.05, 1e9])
def test_lora_fair_corrects_b_by_least_squares(ridge):
    """argmin_X |P - (B + X) A|^2 + mu |X|^2 as one stacked system for numpy's solver."""
    method, devices = network(literature.LoraFairConfig(**SET, residual_ridge=ridge))
    (b0, a0), (b1, a1) = map(factors, devices)
    b, a, p = 0.7 * b0 + 0.3 * b1, 0.7 * a0 + 0.3 * a1, 0.7 * b0 @ a0 + 0.3 * b1 @ a1
    mu = ridge * np.trace(a @ a.T) / 2
    system, right = np.vstack([a.T, np.sqrt(mu) * np.eye(2)]), np.vstack([(p - b @ a).T, np.zeros((2, 3))])
    correction = np.linalg.lstsq(system, right, rcond=None)[0].T
    assert play(method, devices, 1)[1] == 2 * (HEADER_BYTES + encoded_size(14, "float32"))
    mine_b, mine_a = factors(devices[0])
    np.testing.assert_allclose(mine_a, a, atol=1e-6)
    np.testing.assert_allclose(mine_b, b + correction, atol=1e-5)
    errors = [np.linalg.norm(p - x @ a) for x in (mine_b, b)]
    assert errors[0] == pytest.approx(errors[1]) if ridge > 1 else errors[0] < errors[1]


def test_gradient_tracking_is_diging_in_plain_numpy_and_finds_the_mean_optimum():
    """f_i = |x - c_i|^2 k_i / 2 with two gradient steps a round: its fixed point is where the mean change is 0."""
    method, devices = network(literature.GradientTrackingConfig(**SET), LINE, rounds=400)
    rng = np.random.default_rng(0)
    centre, steep = rng.normal(size=(4, 14)), rng.uniform(0.5, 2.0, size=(4, 1))
    mixing, rate = doubly_stochastic(LINE), 0.1
    x = np.stack([row(devices[0])] * 4)
    for d in devices:
        put(d, x[0])
    tracked = last = np.zeros_like(x)

    def train(start):
        out = start.copy()
        for _ in range(2):
            out -= rate * steep * (out - centre)
        return out

    for r in range(1, 301):
        change = train(x) - x
        tracked = mixing @ tracked if r > 1 else tracked
        tracked = tracked + change - last
        last, x = change, mixing @ (x + tracked)
        for d in devices:
            method.begin(d, r)
        for d, trained in zip(devices, train(np.stack([row(d) for d in devices])), strict=True):
            put(d, trained)
        play(method, devices, r)
        if r <= 5:
            np.testing.assert_allclose([row(d) for d in devices], x, atol=1e-5)
    gain = 1 - (1 - rate * steep) ** 2
    best = (gain * centre).sum(axis=0) / gain.sum()
    for d in devices:
        np.testing.assert_allclose(row(d), best, atol=1e-4)


def test_exact_diffusion_is_adapt_correct_combine_in_plain_numpy_and_finds_the_mean_optimum():
    method, devices = network(literature.ExactDiffusionConfig(**SET), LINE, rounds=1000)
    rng = np.random.default_rng(0)
    centre, steep = rng.normal(size=(4, 14)), rng.uniform(0.5, 2.0, size=(4, 1))
    lazy = (np.eye(4) + doubly_stochastic(LINE)) / 2
    gain = 1 - (1 - 0.1 * steep) ** 2  # of two gradient steps of f_i = |x - c_i|^2 k_i / 2
    x = np.stack([row(devices[0])] * 4)
    ended = None
    for d in devices:
        put(d, x[0])
    for r in range(1, 401):
        adapted = x + gain * (centre - x)
        corrected = adapted if ended is None else adapted + x - ended
        ended, x = adapted, lazy @ corrected
        for d in devices:
            method.begin(d, r)
            put(d, row(d) + gain[d.index] * (centre[d.index] - row(d)))
        play(method, devices, r)
        if r <= 5:
            np.testing.assert_allclose([row(d) for d in devices], x, atol=1e-5)
    best = (gain * centre).sum(axis=0) / gain.sum()
    for d in devices:
        np.testing.assert_allclose(row(d), best, atol=1e-4)
    gossip, others = network(DloraConfig(**SET), LINE, rounds=1000)
    for r in range(1, 201):
        for d in others:
            put(d, row(d) + gain[d.index] * (centre[d.index] - row(d)))
        play(gossip, others, r)
    assert max(np.abs(row(d) - best).max() for d in others) > 0.05, (
        "plain gossip stays off the mean's optimum"
    )


def test_gradient_tracking_keeps_the_trackers_mean_and_begins_as_dlora():
    method, devices = network(literature.GradientTrackingConfig(**SET), LINE)
    for d in devices:
        method.begin(d, 1)
    rng = np.random.default_rng(1)
    for r in (1, 2, 3):
        starts = np.stack([row(d) for d in devices])
        for d in devices:
            method.begin(d, r)
            put(d, row(d) + rng.normal(size=14))
        trained = np.stack([row(d) for d in devices])
        play(method, devices, r)
        changes = (trained - starts).mean(axis=0)
        np.testing.assert_allclose(np.mean([d.memory.tracked for d in devices], axis=0), changes, atol=1e-5)
        if r == 1:
            np.testing.assert_allclose(
                [row(d) for d in devices], doubly_stochastic(LINE) @ trained, atol=1e-5
            )


def test_gradient_tracking_sends_twice_the_adapter():
    method, devices = network(literature.GradientTrackingConfig(**SET))
    for d in devices:
        method.begin(d, 1)
    assert play(method, devices, 1)[1] == 2 * (HEADER_BYTES + encoded_size(28, "float32"))


def test_the_walk_is_at_every_device_equally_often_and_only_its_device_trains():
    config = literature.RandomWalkConfig(**SET)
    method, _ = network(config, LINE, rounds=10**6)
    net, visits, sent = LawfulNetwork(method.law, range(4)), np.zeros(4), 0
    for r in range(1, 4001):
        at = [d for d in range(4) if net.trains(d, r)]
        assert len(at) == 1
        visits[at[0]] += 1
        found = net.requests(r)
        sent += len(found)
        net.deliver_all(found)
    np.testing.assert_allclose(visits / visits.sum(), 0.25, atol=0.05)
    # On this path both inner devices move with probability 2/3 and both ends with 1/3.
    assert sent / 4000 == pytest.approx(0.5, abs=0.05)


def test_the_walk_takes_the_adapter_along_and_a_loss_leaves_it():
    method, devices = network(literature.RandomWalkConfig(**SET), PAIR, rounds=100)
    first, moved_at = row(devices[0]), None
    for r in range(1, 30):
        kept = [row(d) for d in devices]
        holder = next(d for d in devices if d.memory.traffic.has)
        to = method.law.next_device(holder.index, r)
        _, sent = play(method, devices, r, lost={(0, 1), (1, 0)} if moved_at is None and r < 8 else set())
        assert (sent > 0) == (to != holder.index)
        if r < 8:
            assert devices[0].memory.traffic.has and np.array_equal(kept[1], row(devices[1]))
        elif to != holder.index and moved_at is None:
            moved_at = r
            np.testing.assert_array_equal(row(devices[1]), first)
            assert [d.memory.traffic.has for d in devices] == [False, True]
        assert sum(d.memory.traffic.has for d in devices) == 1
    assert moved_at is not None


def test_flora_draws_another_a_on_each_device_and_bases_never_agree_on_a_path():
    method, devices = network(FloraConfig(**SET), LINE)
    starts = [method.start(d)[0, :8].numpy() for d in range(4)]
    assert all(np.abs(starts[i] - starts[j]).max() > 0.01 for i in range(4) for j in range(i))
    for r in range(1, 13):
        play(method, devices, r)
        fresh = [d.state.theta[0, :8].numpy() for d in devices]
        assert np.abs(fresh[0] - fresh[1]).max() > 0.01
    bases = np.stack([d.memory.merged for d in devices])
    assert np.ptp(bases, axis=0).max() > 0.1, "what the first exchange left apart stays apart"


def test_hetlora_keeps_a_weighted_sum_and_is_the_papers_mean_on_a_complete_graph():
    method, devices = network(HetloraConfig(**SET), LINE)
    before = np.stack([row(d) for d in devices])
    norms = np.array([method.update_norm(d.state.theta[0].numpy()) for d in devices])
    mass = doubly_stochastic(LINE) @ norms
    play(method, devices, 1)
    after = np.stack([row(d) for d in devices])
    np.testing.assert_allclose(mass @ after, norms @ before, rtol=1e-5)
    method, devices = network(HetloraConfig(**SET), complete(4))
    before = np.stack([row(d) for d in devices])
    norms = np.array([method.update_norm(d.state.theta[0].numpy()) for d in devices])
    play(method, devices, 1)
    for d in devices:
        np.testing.assert_allclose(row(d), norms @ before / norms.sum(), atol=1e-5)


def test_hetlora_has_the_parameters_of_others_whether_ranks_differ_or_not():
    plain = HetloraConfig(rank=8, alpha=16.0)
    mixed = HetloraConfig(rank=12, alpha=24.0, ranks=(12, 4))
    values = [sum(make_method(plain_context(c, PAIR)).rank_of(d) for d in (0, 1)) for c in (plain, mixed)]
    assert values[0] == values[1]
    assert plain.alpha / plain.rank == mixed.alpha / mixed.rank


def test_choco_keeps_its_share_of_every_factor():
    layers = (LayerShape("x", 3, 40), LayerShape("y", 30, 4))
    method, devices = network(ChocoConfig(**SET, keep_share=0.1), PAIR, layers)
    public = method.start(0)[0].numpy()
    for d in devices:
        method.begin(d, 1)
    difference = row(devices[0]) - public
    play(method, devices, 1)
    expected = np.concatenate([
        largest(difference[s.start : s.stop], max(1, round(0.1 * (s.stop - s.start))))
        for s in method.layout.segments
    ])  # fmt: skip
    np.testing.assert_allclose(devices[0].memory.own - public, expected, atol=1e-5)
