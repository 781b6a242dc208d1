"""Every baseline's update against the paper's, worked out in plain numpy on two or four devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.config.methods import (
    CentralizedConfig,
    ChocoConfig,
    DloraConfig,
    FedsaConfig,
    FfaConfig,
    FlexloraConfig,
    FloraConfig,
    HetloraConfig,
    LocalConfig,
    RoloraConfig,
)
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.methods.entries import make_method
from tests.network import LINE, complete, largest, make_devices, plain_context, play

ONE = (LayerShape("x", 3, 4),)
TWO_LAYERS = (LayerShape("x", 3, 4), LayerShape("y", 5, 4))
PAIR = {0: {1: 0.3}, 1: {0: 0.3}}
SET = {"rank": 2, "alpha": 4.0, "precision": "float32"}


def network(config, weights=PAIR, layers=ONE):
    method = make_method(plain_context(config, weights, layers))
    devices = make_devices(method)
    return method, devices


def factors(method, device):
    """(B, A) of the one (3, 4) layer in float64: A is the first 4 r values, B the last 3 r."""
    flat, rank = device.state.theta[0].numpy().astype(float).copy(), method.layout.rank
    if "a" in method.layout.trains:
        return flat[4 * rank :].reshape(3, rank), flat[: 4 * rank].reshape(rank, 4)
    return flat.reshape(3, rank), method.static_a([(device.index, 0)])[0][0].numpy().astype(float)


def all_factors(method, devices):
    return [factors(method, d) for d in devices]


def test_dlora_averages_the_factors_and_that_is_not_the_average_of_the_products():
    method, devices = network(DloraConfig(**SET))
    (b0, a0), (b1, a1) = all_factors(method, devices)
    play(method, devices, 1)
    (b, a), _ = all_factors(method, devices)
    np.testing.assert_allclose(b, 0.7 * b0 + 0.3 * b1, atol=1e-6)
    np.testing.assert_allclose(a, 0.7 * a0 + 0.3 * a1, atol=1e-6)
    assert np.abs(b @ a - (0.7 * b0 @ a0 + 0.3 * b1 @ a1)).max() > 0.1


def test_ffa_averages_b_under_a_common_a_which_is_exact():
    method, devices = network(FfaConfig(**SET))
    (b0, a0), (b1, a1) = all_factors(method, devices)
    np.testing.assert_array_equal(a0, a1)
    assert method.layout.size == 6
    play(method, devices, 1)
    (b, a), (other, _) = all_factors(method, devices)
    np.testing.assert_array_equal(a, a0)
    np.testing.assert_allclose(b @ a, 0.7 * b0 @ a0 + 0.3 * b1 @ a0, atol=1e-6)
    np.testing.assert_allclose(other @ a, 0.3 * b0 @ a0 + 0.7 * b1 @ a0, atol=1e-6)


def test_one_ffa_round_on_a_complete_graph_is_the_central_mean():
    method, devices = network(FfaConfig(**SET), complete(4))
    before = all_factors(method, devices)
    central = np.mean([b @ a for b, a in before], axis=0)
    play(method, devices, 1)
    for b, a in all_factors(method, devices):
        np.testing.assert_allclose(b @ a, central, atol=1e-6)


def test_rolora_mixes_b_in_odd_rounds_and_a_in_even_ones_and_trains_only_that():
    method, devices = network(RoloraConfig(**SET))
    (b0, a0), (b1, a1) = all_factors(method, devices)
    size = play(method, devices, 1)[1]
    (b, a), _ = all_factors(method, devices)
    np.testing.assert_allclose(b, 0.7 * b0 + 0.3 * b1, atol=1e-6)
    np.testing.assert_array_equal(a, a0)
    assert method.keep(devices[0], 1).tolist() == [[False] * 8 + [True] * 6]
    devices[0].state.exp_avg.fill_(1.0)
    play(method, devices, 2)
    assert devices[0].state.exp_avg.all(), "moments stay where `fresh_optimizer` is off"
    (after, a), _ = all_factors(method, devices)
    np.testing.assert_array_equal(after, b)
    np.testing.assert_allclose(a, 0.7 * a0 + 0.3 * a1, atol=1e-6)
    assert method.keep(devices[0], 2).tolist() == [[True] * 8 + [False] * 6]
    assert size < play(make_method(plain_context(DloraConfig(**SET), PAIR, ONE)), devices, 1)[1]


def test_rolora_keeps_one_factor_active_until_it_has_been_exchanged():
    method, _ = network(RoloraConfig(**SET, exchange_every=3))
    assert [method.active(r) for r in range(1, 10)] == list("bbbaaabbb")


def test_fedsa_shares_a_and_keeps_b():
    method, devices = network(FedsaConfig(**SET))
    (b0, a0), (b1, a1) = all_factors(method, devices)
    play(method, devices, 1)
    (b, a), (other, _) = all_factors(method, devices)
    np.testing.assert_array_equal(b, b0)
    np.testing.assert_array_equal(other, b1)
    np.testing.assert_allclose(a, 0.7 * a0 + 0.3 * a1, atol=1e-6)


def test_choco_follows_algorithm_2_for_three_rounds_of_drift():
    method, devices = network(ChocoConfig(**SET, keep_share=3 / 14, consensus_step=0.5))
    start = method.start(0)[0].numpy().astype(float)
    x = [d.state.theta[0].numpy().astype(float) for d in devices]
    public = [start.copy(), start.copy()]
    rng = np.random.default_rng(5)
    for r in (1, 2, 3):
        steps = rng.normal(size=(2, 14))
        for i in (0, 1):
            x[i] = x[i] + steps[i]
            devices[i].state.theta[0] += torch.from_numpy(steps[i].astype(np.float32))
            gap = x[i] - public[i]
            public[i] = public[i] + np.r_[largest(gap[:8], 2), largest(gap[8:], 1)]
        x = [x[i] + 0.5 * 0.3 * (public[1 - i] - public[i]) for i in (0, 1)]
        refused, _ = play(method, devices, r)
        assert not refused
        for i in (0, 1):
            np.testing.assert_allclose(devices[i].state.theta[0].numpy(), x[i], atol=1e-5)
            np.testing.assert_allclose(devices[i].memory.own, public[i], atol=1e-5)
            np.testing.assert_array_equal(devices[1 - i].memory.copies[i], devices[i].memory.own)


def test_choco_with_the_identity_and_unit_step_is_plain_gossip():
    choco, left = network(ChocoConfig(**SET, keep_share=1.0, consensus_step=1.0), LINE)
    gossip, right = network(DloraConfig(**SET), LINE)
    for r in range(1, 6):
        for devices in (left, right):
            for d in devices:
                d.state.theta += 0.1 * (d.index + 1) * r
        play(choco, left, r)
        play(gossip, right, r)
    for one, two in zip(left, right, strict=True):
        torch.testing.assert_close(one.state.theta, two.state.theta, atol=1e-5, rtol=1e-5)


def test_choco_copies_agree_again_after_a_loss():
    method, devices = network(ChocoConfig(**SET, keep_share=0.2), LINE)
    for r in range(1, 5):
        for d in devices:
            d.state.theta += 0.3 * d.index
        refused, _ = play(method, devices, r, lost={(0, 1)} if r in (2, 3) else set())
        assert not refused
        same = np.array_equal(devices[0].memory.own, devices[1].memory.copies[0])
        assert same == (r not in (2, 3))


def test_choco_takes_the_first_difference_of_a_neighbour_that_came_later():
    config = ChocoConfig(rank=4, precision="float32")
    method, devices = network(config, complete(3))
    play(method, devices, 1)
    later, strangers = network(config, complete(3))
    for device in strangers:
        later.begin(device, 1)
        device.memory.copies.clear()  # as after a graph that had no such link
    refused, _ = play(later, strangers, 1)
    assert not refused
    for one, other in zip(devices, strangers, strict=True):
        np.testing.assert_array_equal(one.state.theta.numpy(), other.state.theta.numpy())
        assert set(other.memory.copies) == set(one.memory.copies)


def test_choco_sends_far_less():
    layers = (LayerShape("x", 60, 70),)
    sizes = []
    for config in (ChocoConfig(**SET, keep_share=0.05), DloraConfig(**SET)):
        method, devices = network(config, PAIR, layers)
        sizes.append(play(method, devices, 1)[1])
    assert sizes[0] < 0.25 * sizes[1]


def test_flora_merges_the_sum_of_products_without_cross_terms_and_starts_anew():
    method, devices = network(FloraConfig(**SET))
    (b0, a0), (b1, a1) = all_factors(method, devices)
    s = 4.0 / 2
    devices[0].state.exp_avg.fill_(1.0)
    play(method, devices, 1)
    merged = devices[0].memory.merged.reshape(3, 4)
    np.testing.assert_allclose(merged, s * (0.7 * b0 @ a0 + 0.3 * b1 @ a1), atol=1e-5)
    (b, a), (_, other) = all_factors(method, devices)
    assert not b.any() and not devices[0].state.exp_avg.any()
    assert np.abs(a - a0).max() > 0.01
    assert np.abs(a - other).max() > 0.01, "every device draws its own"
    (fa, fb) = method.frozen(devices)[0]
    np.testing.assert_allclose(s * (fb[0] @ fa[0]).numpy(), merged, atol=1e-6)
    ((ea, eb),) = method.expert(devices[0], 0).frozen()
    np.testing.assert_allclose(s * (eb @ ea).numpy(), merged, atol=1e-6)
    devices[0].state.theta[0, 8:] = 1.0
    (b2, a2), _ = all_factors(method, devices)
    play(method, devices, 2)
    np.testing.assert_allclose(devices[0].memory.merged.reshape(3, 4), merged + s * 0.7 * b2 @ a2, atol=1e-5)


def test_flora_on_a_complete_graph_is_the_papers_server_step():
    method, devices = network(FloraConfig(**SET), complete(4))
    central = 2.0 * np.mean([b @ a for b, a in all_factors(method, devices)], axis=0)
    play(method, devices, 1)
    for d in devices:
        np.testing.assert_allclose(d.memory.merged.reshape(3, 4), central, atol=1e-5)


def test_flexlora_takes_the_best_low_rank_product():
    method, devices = network(FlexloraConfig(**SET, ranks=(2, 1)))
    before = all_factors(method, devices)
    b1, a1 = before[1][0].copy(), before[1][1].copy()
    b1[:, 1], a1[1] = 0, 0  # device 1 sends its own rank only
    mean = 0.7 * before[0][0] @ before[0][1] + 0.3 * b1 @ a1
    u, s, vt = np.linalg.svd(mean)
    play(method, devices, 1)
    (b, a), (_, other_a) = all_factors(method, devices)
    np.testing.assert_allclose(b @ a, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5)
    np.testing.assert_allclose(a @ a.T, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0), s[:2], atol=1e-5)
    assert np.linalg.norm(other_a[0]) == pytest.approx(1.0, abs=1e-5)


def test_flexlora_of_a_rank_above_the_layers_width_is_the_mean_product_itself():
    """The decomposition has min(m, d) parts; what lay behind them must not stay."""
    method, devices = network(FlexloraConfig(**{**SET, "rank": 6}))
    (b0, a0), (b1, a1) = all_factors(method, devices)
    play(method, devices, 1)
    (b, a), _ = all_factors(method, devices)
    np.testing.assert_allclose(b @ a, 0.7 * b0 @ a0 + 0.3 * b1 @ a1, atol=1e-5)
    assert not b[:, 3:].any() and not a[3:].any()


def test_hetlora_pads_weighs_by_norm_and_truncates():
    method, devices = network(HetloraConfig(**SET, ranks=(2, 1)))
    assert method.keep(devices[0], 1) is None
    np.testing.assert_array_equal(method.keep(devices[1], 1)[0].numpy(), method.rank_keep(1))
    low = devices[1].state.theta[0]
    low[~torch.from_numpy(method.rank_keep(1))] = 0
    (b0, a0), (b1, a1) = all_factors(method, devices)
    assert not a1[1].any() and not b1[:, 1].any()
    n0, n1 = np.linalg.norm(b0 @ a0), np.linalg.norm(b1 @ a1)
    w0, w1 = 0.7 * n0 / (0.7 * n0 + 0.3 * n1), 0.3 * n1 / (0.7 * n0 + 0.3 * n1)
    v0, v1 = 0.3 * n0 / (0.3 * n0 + 0.7 * n1), 0.7 * n1 / (0.3 * n0 + 0.7 * n1)
    size = play(method, devices, 1)[1]
    (b, a), (lb, la) = all_factors(method, devices)
    np.testing.assert_allclose(b, w0 * b0 + w1 * b1, atol=1e-5)
    np.testing.assert_allclose(a, w0 * a0 + w1 * a1, atol=1e-5)
    np.testing.assert_allclose(lb[:, 0], (v0 * b0 + v1 * b1)[:, 0], atol=1e-5)
    np.testing.assert_allclose(la[0], (v0 * a0 + v1 * a1)[0], atol=1e-5)
    assert not la[1].any() and not lb[:, 1].any()
    whole = network(HetloraConfig(**SET, ranks=(2,)))
    assert size < play(*whole, 1)[1]


def test_hetlora_norm_is_of_the_whole_update():
    method, devices = network(HetloraConfig(**SET, ranks=(2,)), layers=TWO_LAYERS)
    flat = devices[0].state.theta[0].numpy().astype(float)
    a0, b0 = flat[:8].reshape(2, 4), flat[8:14].reshape(3, 2)
    a1, b1 = flat[14:22].reshape(2, 4), flat[22:32].reshape(5, 2)
    expected = np.sqrt(np.linalg.norm(b0 @ a0) ** 2 + np.linalg.norm(b1 @ a1) ** 2)
    assert method.update_norm(devices[0].state.theta[0].numpy()) == pytest.approx(expected, rel=1e-5)


def test_a_rank_above_the_layouts_is_refused():
    with pytest.raises(InputError, match=r"`method.ranks` holds 3"):
        network(HetloraConfig(**SET, ranks=(2, 3)))


@pytest.mark.parametrize("config", [LocalConfig(**SET), CentralizedConfig(**SET)])
def test_local_and_centralized_send_nothing_and_refuse_everything(config):
    method, devices = network(config, LINE)
    assert play(method, devices, 1)[1] == 0
    gossip, others = network(DloraConfig(**SET), LINE)
    data = gossip.outgoing(others[1], 1)[0].payload
    before = devices[0].state.theta.clone()
    assert method.incoming(devices[0], 1, [data], [])["foreign"] == 1
    assert torch.equal(before, devices[0].state.theta)


def test_centralized_has_one_learner_with_everybodys_rows():
    method, _ = network(CentralizedConfig(**SET), LINE)
    assert [method.law.sources(d) for d in range(4)] == [(0, 1, 2, 3), (), (), ()]
    assert network(LocalConfig(**SET), LINE)[0].law.sources(2) == (2,)


@pytest.mark.parametrize("config", [ChocoConfig(**SET), DloraConfig(**SET), FloraConfig(**SET)])
def test_a_device_without_neighbours_sends_nothing(config):
    method, devices = network(config, {0: {}, 1: {}})
    for d in devices:
        method.begin(d, 1)
        assert method.outgoing(d, 1) == []
    lonely = method.law.messages(7, method.law.start(7), 1)
    assert lonely == [], "a device that the graph does not name"
