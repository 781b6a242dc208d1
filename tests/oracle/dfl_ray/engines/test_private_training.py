"""DP-SGD against one row at a time, clipping and noise against their definitions."""

from __future__ import annotations

import math
from copy import copy

import numpy as np
import pytest
import torch

from dfl_ray.config.load import load_config
from dfl_ray.config.methods import DloraConfig
from dfl_ray.config.privacy import PrivacyConfig
from dfl_ray.engines import private
from dfl_ray.engines.gpu.make import large_decoder
from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.private import (
    ExampleNoise,
    clipped_sums,
    noisy_mean_,
    row_gradients,
    row_parts,
    train_privately,
)
from dfl_ray.engines.training import LocalWork, backward
from dfl_ray.errors import InputError
from dfl_ray.evaluation.membership import membership_auc, row_losses
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.methods.aggregations import PartState
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.private_updates import PrivateUpdates
from dfl_ray.simulation import epsilon as epsilon_of_a_run
from dfl_ray.simulation.epsilon import epsilon, spent
from dfl_ray.tasks.local_rows import draw_poisson, sampling_rates
from tests.network import LINE, make_devices, plain_context, play

RANK = 2


def noise_of(expected, clip=1.0, multiplier=0.0):
    return ExampleNoise(
        clip, multiplier, np.asarray(expected, float), lambda k, step: np.random.default_rng([k, step])
    )


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("trains", [("b",), ("a", "b")])
def test_gradients_of_rows_equal_those_of_one_row_at_a_time(adapted, token_tasks, trains, large):
    model = copy(adapted.model)
    model.large = large_decoder(model.model, "on") if large else None
    layout = Layout(adapted.layers, RANK, trains)
    theta = adapted.theta(layout, 2)
    static = None if "a" in trains else adapted.static_a(2, RANK)
    owner = torch.tensor([0, 1, 1, 0])
    rows = [(token_tasks[k % 2].train, 3 * k) for k in range(4)]
    found, losses = row_gradients(model, layout, theta, owner, rows, scale=2.0, static_a=static)
    for k, row in enumerate(rows):
        one = owner[k : k + 1]
        leaves = Leaves(
            layout, AdapterState.from_theta(theta[one]), None if static is None else [a[one] for a in static]
        )
        loss = backward(adapted.model, leaves, [[row]], 2.0)
        torch.testing.assert_close(found[k], leaves.gradient[0], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(losses[k], loss[0], rtol=1e-5, atol=1e-6)


def private_mean(gradients, owner, noise, step, keep=None):
    total = clipped_sums(gradients, owner, len(noise.expected_rows), noise.clip_norm, keep)
    noisy_mean_(total, noise, step, keep)
    return total


def test_what_does_not_change_neither_counts_for_clipping_nor_gets_noise():
    """Two adapters with masks of their own, by hand: |g| is taken over the kept entries alone."""
    gradients = torch.tensor([[3.0, 4.0, 100.0], [0.3, 50.0, 0.4], [math.nan, 0.0, 1.0]])
    owner, keep = torch.tensor([0, 1, 1]), torch.tensor([[True, True, False], [True, False, True]])
    found = private_mean(gradients, owner, noise_of([1, 2]), 0, keep)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8, 0.0], [0.15, 0.0, 0.2]]))
    noise = noise_of([1, 2], multiplier=2.0)
    drawn = torch.stack([torch.from_numpy(noise.draws(k, 3).normal(0, 2.0, 3)) for k in (0, 1)]).float()
    noisy = private_mean(gradients, owner, noise, 3, keep)
    torch.testing.assert_close(noisy, found + keep * drawn / torch.tensor([[1.0], [2.0]]))


@pytest.mark.parametrize("trains", [("b",), ("a", "b")])
def test_rows_in_parts_train_as_all_at_once_do(adapted, token_tasks, trains, monkeypatch):
    layout = Layout(adapted.layers, RANK, trains)
    static = None if "a" in trains else adapted.static_a(2, RANK)
    keep = torch.rand(2, layout.size, generator=torch.Generator().manual_seed(0)) < 0.5
    work = [LocalWork([[(token_tasks[k].train, i) for i in range(5)], [], [(token_tasks[k].train, 7)]])
            for k in range(2)]  # fmt: skip
    ends = []
    for most in (10**9, 2 * layout.size + 1, 1):
        monkeypatch.setattr(private, "ROW_VALUES", most)
        parts = len(list(row_parts(layout, static, 10)))
        state = AdapterState.from_theta(adapted.theta(layout, 2))
        start = state.theta.clone()
        told = train_privately(
            adapted.model, layout, state, work, size=StepSize(1e-2, 0.0, 1.0), scale=2.0, static_a=static,
            noise=noise_of([5, 5], clip=0.1, multiplier=0.5), keep=keep,
        )  # fmt: skip
        assert torch.equal(state.theta[~keep], start[~keep])
        ends.append((parts, state.theta, told.loss))
    assert ends[0][0] == 1 and ends[1][0] in (5, 10) and ends[2][0] == 10
    for _, theta, loss in ends[1:]:
        torch.testing.assert_close(theta, ends[0][1], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(loss, ends[0][2], rtol=1e-5)


def test_gradients_are_clipped_summed_and_noised_by_hand():
    """Rows of norms 5, 0.5 and NaN: the first is cut to 1, the second stays, the third counts as 0."""
    gradients = torch.tensor([[3.0, 4.0], [0.3, 0.4], [math.nan, 1.0], [0.0, 2.0]])
    owner = torch.tensor([0, 0, 0, 1])
    found = private_mean(gradients, owner, noise_of([4, 2, 0]), 0)
    torch.testing.assert_close(found, torch.tensor([[0.9 / 4, 1.2 / 4], [0.0, 0.5], [0.0, 0.0]]))
    empty = private_mean(torch.zeros(0, 40_000), owner[:0], noise_of([8], clip=0.5, multiplier=3.0), 1)
    assert float(empty.std()) == pytest.approx(3.0 * 0.5 / 8, rel=0.02)
    again = private_mean(torch.zeros(0, 40_000), owner[:0], noise_of([8], clip=0.5, multiplier=3.0), 2)
    assert not torch.equal(empty, again)


def test_rows_come_in_by_themselves_at_their_rate():
    shares, counts = np.array([0.75, 0.25]), [40, 400]
    np.testing.assert_allclose(sampling_rates(shares, counts, 16), [0.3, 0.01])
    assert sampling_rates(np.ones(1), [4], 16) == [1.0]
    drawn = draw_poisson(np.random.default_rng(0), shares, counts, steps=2000, batch_rows=16)
    times = np.zeros((2, 400))
    for step in drawn:
        assert len(set(step)) == len(step)
        for task, row in step:
            times[task, row] += 1
    np.testing.assert_allclose(times[0, :40], 600, rtol=0.15)
    assert times[1].mean() == pytest.approx(20, rel=0.05)
    sizes = [len(step) for step in drawn]
    assert np.var(sizes) == pytest.approx(40 * 0.3 * 0.7 + 400 * 0.01 * 0.99, rel=0.15)


def test_an_update_is_clipped_and_noised_and_only_what_was_sent_becomes_public():
    size, clip = 40_000, 2.0
    private = PrivateUpdates(PrivacyConfig(mechanism="updates", clip_norm=clip, noise_multiplier=1e-9), 5)
    start, kept = np.ones(size, np.float32), PartState()
    private.begin(kept, start)
    moved = start + np.float32(0.05)  # |u| = 10
    said = private.said(kept, moved, None, 1, 0, 0)
    assert np.linalg.norm(said.astype(float) - start) == pytest.approx(clip, rel=1e-3)
    short = private.said(kept, start + np.float32(1e-3), None, 1, 0, 0)
    np.testing.assert_allclose(short, start + np.float32(1e-3), atol=1e-6)
    loud = PrivateUpdates(PrivacyConfig(mechanism="updates", clip_norm=clip, noise_multiplier=1.5), 5)
    noise = loud.said(kept, start, None, 1, 0, 0) - start
    assert noise.std() == pytest.approx(3.0, rel=0.02)
    assert not np.array_equal(noise, loud.said(kept, start, None, 2, 0, 0) - start)
    # a round without a message leaves the public values, one with a message moves them
    silent = PartState(public=start)
    private.mixed(silent, moved)
    np.testing.assert_array_equal(silent.public, start)
    private.mixed(kept, moved)
    np.testing.assert_array_equal(kept.public, moved)
    keep = np.arange(size) < 10
    partly = loud.said(PartState(public=start), moved, keep, 3, 0, 0)
    np.testing.assert_array_equal(partly[~keep], moved[~keep])
    assert (partly[keep] != moved[keep]).all()


def test_what_devices_send_tells_of_an_update_no_more_than_its_clipped_length():
    """Two worlds that differ in one device's data: without noise their messages differ by at most the clip norm."""
    from dataclasses import replace

    said = []
    for length in (0.0, 50.0):
        config = DloraConfig(rank=2, precision="float32")
        privacy = PrivateUpdates(PrivacyConfig(mechanism="updates", clip_norm=0.5, noise_multiplier=1e-9), 1)
        method = make_method(replace(plain_context(config, LINE), privacy=privacy))
        devices = make_devices(method)
        before = devices[1].state.theta.clone()
        for device in devices:
            method.begin(device, 1)
        devices[1].state.theta += length / before.shape[1] ** 0.5
        play(method, devices, 1)
        said.append(devices[0].state.theta.clone())
    # device 0 takes in a third of what device 1 says
    assert pytest.approx(float(torch.linalg.vector_norm(said[1] - said[0])), rel=1e-3) == 0.5 / 3


def test_auc_of_the_membership_attack_by_hand():
    assert membership_auc([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert membership_auc([1.0, 3.0], [2.0, 3.0]) == 0.625
    assert membership_auc([5.0], [5.0]) == 0.5


def test_more_noise_hides_who_was_trained_on(adapted, token_tasks):
    """An adapter overfits 8 rows; with noise the attack on them comes near to guessing."""
    layout = Layout(adapted.layers, 8, ("a", "b"))
    table = token_tasks[0].train
    members, others = [(table, i) for i in range(8)], [(table, i) for i in range(8, 32)]
    found = {}
    for multiplier in (0.0, 50.0):
        state = AdapterState.from_theta(adapted.theta(layout, 1))
        train_privately(
            adapted.model, layout, state, [LocalWork([members] * 15)], size=StepSize(2e-2, 0.0, 1.0),
            scale=2.0, noise=noise_of([8], multiplier=multiplier),
        )  # fmt: skip
        losses = [
            row_losses(adapted.model, layout, state.theta[0], rows, scale=2.0) for rows in (members, others)
        ]
        found[multiplier] = membership_auc(*losses)
    assert found[0.0] > 0.75
    assert abs(found[50.0] - 0.5) < abs(found[0.0] - 0.5) - 0.1


def test_methods_that_say_more_than_adapters_are_refused():
    with pytest.raises(InputError, match=r"privacy\.mechanism.*sparse_orthogonal"):
        load_config(None, ["privacy.mechanism=updates"])


def test_a_device_without_neighbours_spends_nothing_in_a_graph_that_stays():
    """Setup by hand: device 1 has nobody to send to, device 0 exchanges every second of five rounds."""
    from types import SimpleNamespace

    from dfl_ray.config.schema import Config

    config = Config.model_validate(
        {"method": {"type": "dlora", "exchange_every": 2}, "privacy": {"mechanism": "updates"}}
    )
    setup = SimpleNamespace(
        config=config, rows={0: (), 1: ()}, graph=SimpleNamespace(weights={0: {2: 0.5}, 1: {}}), shares={}
    )
    setup.config = config.model_copy(update={"rounds": 5})
    assert spent(setup, 5) == {0: epsilon(1.0, 3, 1e-5), 1: 0.0}
    # ended after round 3 and lengthened to 5: exchanges in 2, 3, 4 and 5
    assert spent(setup, 5, [3])[0] == epsilon(1.0, 4, 1e-5) > epsilon(1.0, 3, 1e-5)
    assert spent(setup, 4)[0] == epsilon(1.0, 2, 1e-5)
    # one that is off at the start may find neighbours later
    off = config.devices.availability.model_copy(update={"path": "trace.csv"})
    devices = config.devices.model_copy(update={"availability": off})
    setup.config = setup.config.model_copy(update={"devices": devices})
    assert spent(setup, 5)[1] == epsilon(1.0, 3, 1e-5)


def test_many_different_rates_are_rounded_up_so_that_epsilon_stays_a_bound():
    """A thousand devices with rows of their own would need the accountant a thousand times."""
    few = {device: 8 / (60 + device) for device in range(20)}
    assert epsilon_of_a_run._few(few) is few
    many = {device: 0.9 / (1 + device) for device in range(5_000)} | {5_000: 0.0}
    found = epsilon_of_a_run._few(many)
    assert len(set(found.values())) < 1_500 and found[5_000] == 0.0
    for device, rate in many.items():
        assert rate <= found[device] <= rate * 1.0101
    assert all(found[d] < 1 for d in many if d)


def test_a_device_that_hears_nobody_learns_on():
    """All messages to device 1 are lost: what it said is public all the same, so each update is clipped anew."""
    from dataclasses import replace

    privacy = PrivateUpdates(PrivacyConfig(mechanism="updates", clip_norm=0.5, noise_multiplier=1e-9), 1)
    method = make_method(
        replace(plain_context(DloraConfig(rank=2, precision="float32"), LINE), privacy=privacy)
    )
    devices = make_devices(method)
    first = devices[1].state.theta.clone()
    lost = {(0, 1), (2, 1)}
    for round_index in (1, 2, 3):
        devices[1].state.theta += 0.5 / first.shape[1] ** 0.5
        play(method, devices, round_index, lost)
        walked = float(torch.linalg.vector_norm(devices[1].state.theta - first))
        assert walked == pytest.approx(0.5 * round_index, rel=1e-3)
