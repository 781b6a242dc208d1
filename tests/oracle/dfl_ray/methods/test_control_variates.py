"""Control variates against SCAFFOLD in plain numpy on least squares, their bytes, and what the engine makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.config.baselines import DloraConfig, FedsaConfig, RoloraConfig
from dfl_ray.config.load import load_config
from dfl_ray.devices.snapshots import as_tree, flatten, rebuild
from dfl_ray.engines.correction import Correction
from dfl_ray.engines.training import LocalWork, train_adapters
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.methods.variates import Variates
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from dfl_ray.wire.codec import encoded_size
from dfl_ray.wire.message import HEADER_BYTES
from tests.network import LINE, complete, play, put, row
from tests.network import network as plain_network

ONE = (LayerShape("x", 3, 4),)
SET = {"rank": 2, "alpha": 4.0, "precision": "float32", "control_variates": True}
STEPS, RATE, SIZE = 5, 0.2, 14
rng = np.random.default_rng(0)
CENTRE, STEEP = rng.normal(size=(4, SIZE)), rng.uniform(0.2, 2.0, size=(4, 1))
BEST = (STEEP * CENTRE).sum(axis=0) / STEEP.sum()
"""The optimum of sum_i k_i |x - c_i|^2 / 2."""


def network(section, weights, rounds=1000, **settings):
    return plain_network(section(**SET | settings), weights, ONE, rounds)


def local_steps(device):
    """Gradient steps along g - c_i + v_i, as the engine makes them, told to what the device keeps."""
    x, total = row(device), np.zeros(SIZE)
    added = device.memory.variates.correction(SIZE)
    for _ in range(STEPS):
        gradient = STEEP[device.index] * (x - CENTRE[device.index])
        total += gradient
        x = x - RATE * (gradient + added)
    put(device, x)
    device.memory.variates.observe(total.astype(np.float32), STEPS)


def run(section, weights, rounds, **settings):
    method, devices = network(section, weights, **settings)
    for d in devices:
        put(d, np.ones(SIZE))
    for r in range(1, rounds + 1):
        for d in devices:
            local_steps(d)
        play(method, devices, r)
        yield devices


def test_on_a_complete_graph_it_is_scaffold_and_finds_the_optimum_that_averaging_misses():
    """SCAFFOLD with a server and option II, whose c_i comes from (x - y) / (K eta), in plain numpy."""
    x, c, own = np.ones(SIZE), np.zeros(SIZE), np.zeros((4, SIZE))
    for r, devices in enumerate(run(DloraConfig, complete(4), 60), start=1):
        ends, variates = np.empty((4, SIZE)), np.empty((4, SIZE))
        for i in range(4):
            y = x.copy()
            for _ in range(STEPS):
                y = y - RATE * (STEEP[i] * (y - CENTRE[i]) - own[i] + c)
            ends[i], variates[i] = y, own[i] - c + (x - y) / (STEPS * RATE)
        x, c, own = ends.mean(axis=0), c + (variates - own).mean(axis=0), variates
        if r <= 10:
            for d in devices:
                np.testing.assert_allclose(row(d), x, atol=1e-5)
                np.testing.assert_allclose(d.memory.variates.own, own[d.index], atol=1e-5)
                np.testing.assert_allclose(d.memory.variates.mean, c, atol=1e-5)
    for d in devices:
        np.testing.assert_allclose(row(d), BEST, atol=1e-4)
    plain, others = network(DloraConfig, complete(4), control_variates=False)
    for r in range(1, 61):
        for d in others:
            local_steps(d)
        play(plain, others, r)
    assert max(np.abs(row(d) - BEST).max() for d in others) > 0.05


def test_on_a_path_the_estimates_keep_their_sum_and_lead_to_the_optimum():
    for devices in run(DloraConfig, LINE, 250):
        kept = [d.memory.variates for d in devices]
        np.testing.assert_allclose(sum(v.mean for v in kept), sum(v.own for v in kept), atol=1e-4)
    for d in devices:
        np.testing.assert_allclose(row(d), BEST, atol=1e-3)


def test_a_device_that_has_said_nothing_has_a_variate_of_zero():
    """v <- sum_j W_ij y_j with y_i = 0, by hand; its c_i is 0, so that its steps are corrected by v."""
    said = {1: np.full(4, 2.0, np.float32), 2: np.array([4.0, 0, 0, -8], np.float32)}
    silent = Variates()
    silent.mix({1: 0.25, 2: 0.5, 3: 0.1}, said, None)
    np.testing.assert_allclose(silent.correction(4), [2.5, 0.5, 0.5, -3.5])
    partly = Variates()
    partly.mix({1: 0.25}, {1: said[1]}, np.array([True, False, True, False]))
    np.testing.assert_allclose(partly.correction(4), [0.5, 0, 0.5, 0])
    alone = Variates()
    alone.mix({1: 0.25}, {}, None)
    np.testing.assert_array_equal(alone.correction(4), np.zeros(4))


@pytest.mark.parametrize("method", ["dlora", "ffa", "fedsa"])
def test_runs_with_devices_that_never_speak_go_on(method, tmp_path):
    """Crashed devices get mail; device 1 is off in the first round alone."""
    (tmp_path / "on.csv").write_text("device,t_s,on\n1,0,0\n1,0.2,1\n")
    words = (f"method={method}", "method.control_variates=true", "devices.count=4", "devices.partition.min_holders=1",
             "tasks.train_rows=40", "tasks.test_rows=8", "rounds=3", "evaluate.every=3", "runtime.backend=local",
             "runtime.report=false", f"runtime.runs_dir={tmp_path}", "track.trackers=[]",
             "devices.faults.share=0.3", "devices.faults.kind=crash",
             f"devices.availability.path={tmp_path / 'on.csv'}")  # fmt: skip
    found = load_run(launch(load_config(None, [*words])).folder)
    assert found.info["state"] == "done" and int(found.rounds["round"].max()) == 3


def test_equal_data_are_not_corrected():
    method, devices = network(DloraConfig, LINE)
    for d in devices:
        d.memory.variates.observe(np.full(SIZE, 3.0, np.float32), 2)
    play(method, devices, 1)
    for d in devices:
        np.testing.assert_allclose(d.memory.variates.correction(SIZE), 0, atol=1e-6)
        np.testing.assert_allclose(d.memory.variates.own, 1.5)


@pytest.mark.parametrize(("section", "values"), [(DloraConfig, 14), (FedsaConfig, 8), (RoloraConfig, 6)])
def test_messages_carry_twice_the_values_and_only_what_is_exchanged_is_corrected(section, values):
    method, devices = network(section, complete(4))
    for d in devices:
        d.memory.variates.observe(np.full(SIZE, d.index + 1.0, np.float32), 1)
    sent = play(method, devices, 1)[1]
    assert sent == 12 * (HEADER_BYTES + 2 * encoded_size(values, "float32"))
    for d in devices:
        told = d.memory.variates.correction(SIZE) != 0
        part = {14: slice(None), 8: slice(0, 8), 6: slice(8, 14)}[values]
        wanted = np.zeros(SIZE, bool)
        wanted[part] = True
        np.testing.assert_array_equal(told, wanted)


def test_a_lost_estimate_leaves_its_weight_at_home():
    method, devices = network(DloraConfig, {0: {1: 0.3}, 1: {0: 0.3}})
    for d in devices:
        d.memory.variates.observe(np.full(SIZE, 10.0 * (d.index + 1), np.float32), 1)
    play(method, devices, 1, lost={(0, 1)})
    np.testing.assert_allclose(devices[0].memory.variates.mean, 0.7 * 10 + 0.3 * 20)
    np.testing.assert_allclose(devices[1].memory.variates.mean, 20)


def test_the_engine_adds_the_correction_before_it_clips_and_gives_back_plain_gradients(adapted, token_tasks):
    layout = Layout(adapted.layers, 2, ("a", "b"))
    start = adapted.theta(layout, 2)
    work = [LocalWork([[(token_tasks[k].train, i) for i in range(4)]]) for k in (0, 1)]
    size = StepSize(1e-2, 0.0, 0.5)

    def trained(correction):
        state = AdapterState.from_theta(start.clone())
        train_adapters(adapted.model, layout, state, work, size=size, scale=2.0, correction=correction)
        return state

    none = Correction(torch.zeros(2, layout.size))
    assert torch.equal(trained(None).theta, trained(none).theta)
    assert none.steps.tolist() == [1, 1]
    plain = none.sums
    clipped = plain * (0.5 / (plain.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
    torch.testing.assert_close(trained(None).exp_avg, 0.1 * clipped)
    added = torch.from_numpy(np.random.default_rng(1).normal(0, 0.01, plain.shape).astype(np.float32))
    some = Correction(added)
    moved = trained(some)
    torch.testing.assert_close(some.sums, plain)
    both = plain + added
    torch.testing.assert_close(
        moved.exp_avg, 0.1 * both * (0.5 / (both.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
    )


@pytest.mark.parametrize(
    "word",
    [
        "method.aggregation=push_sum",
        "schedule=async",
        "privacy.mechanism=updates",
        "devices.faults.share=0.2",
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(word):
    load_config(None, ["method=dlora", "method.control_variates=true"])
    with pytest.raises(InputError, match="control_variates"):
        load_config(None, ["method=dlora", "method.control_variates=true", word])


def test_a_snapshot_keeps_them():
    *_, devices = run(DloraConfig, LINE, 2)
    local_steps(devices[1])
    before = devices[1].memory
    arrays, numbers = {}, {}
    flatten(before, "memory", arrays, numbers)
    after = rebuild(type(before), "memory", as_tree({**arrays, **numbers})["memory"], before)
    assert after.variates.steps == STEPS
    for name in ("own", "mean", "gradient"):
        np.testing.assert_array_equal(getattr(after.variates, name), getattr(before.variates, name))
