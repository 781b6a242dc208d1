"""The rule `filter` as a method's own: by the sketches that the radio has brought a device, and by no others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dfl_ray.devices.group import DeviceGroup
from dfl_ray.devices.rules import inference_rule
from dfl_ray.errors import Interrupted
from dfl_ray.experts.routing import filter_matrices, semidefinite
from dfl_ray.methods import published
from dfl_ray.records import load_run
from dfl_ray.simulation.driver import Driver
from dfl_ray.simulation.export_device import open_saved
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.wire.message import Kind
from dfl_ray.wire.sketch import decode_sketch
from tests.conftest import small_config
from tests.records import assert_same_records
from tests.unit.dfl_ray.simulation.test_local_run import stop_after

WORDS = ("name=x", "method.rule=filter", "runtime.backend=local", "method.learning_rate=0.02", "rounds=2")


def no_exact_sketches(self):
    raise AssertionError("what nobody has sent was asked for")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A run by the rule, closed by all rules that need no more than it, during which nobody sketches for nothing."""
    monkeypatch.setattr(DeviceGroup, "full_sketches", no_exact_sketches)
    return open_saved(launch(small_config(tmp_path, *WORDS), json=True).folder)


def by_hand(group, device):
    """B of every layer, from the encoded sketches in the device's memory: M_t = C_t (sum_s C_s + lambda mean I)^-1."""
    layers, tasks, rank = group.setup.layers, len(group.setup.tasks), group.config.rank
    width, n = tasks * rank, len(layers)
    found = np.zeros((tasks, n, width, width))
    for task in range(tasks):
        message = published.held(device.memory, Kind.SKETCH, task)
        for layer, c in enumerate(decode_sketch(message.body, "int8", n, width) if message else ()):
            values, vectors = np.linalg.eigh(c)
            found[task, layer] = sum(
                v * np.outer(u, u) for v, u in zip(values, vectors.T, strict=True) if v > 0
            )
    out = []
    for layer in range(n):
        total = found[:, layer].sum(axis=0)
        inverse = np.linalg.pinv(total + (0.01 + 1e-9) * np.trace(total) / width * np.eye(width))
        b = np.zeros((layers[layer].out_features, width))
        for task in range(tasks):
            expert = group.method.expert(device, task)
            if expert is not None:
                own = group.method.layout.views(expert.values[None], "b")[layer][0].double().numpy()
                b += own @ (found[task, layer] @ inverse)[task * rank : (task + 1) * rank]
        out.append(b)
    return out


def forget(device, task):
    """As if the sketch of a task had not come."""
    device.memory.updates.pop((Kind.SKETCH, task), None)


def test_a_device_filters_by_what_it_has_received(saved):
    device = saved.group.devices[0]
    merged = []
    for gone in (None, 1, 0):
        if gone is not None:
            forget(device, gone)
        whole = saved.group.answers(0)[0]
        for b, expected in zip(whole.b, by_hand(saved.group, device), strict=True):
            np.testing.assert_allclose(b.numpy(), expected, atol=1e-5 * max(1e-3, np.abs(expected).max()))
        merged.append(np.concatenate([b.numpy().ravel() for b in whole.b]))
    assert np.abs(merged[0] - merged[1]).max() > 1e-4 and np.abs(merged[0]).max() > 1e-3
    assert not merged[2].any()  # without a sketch it can tell nothing from nothing


def test_devices_with_other_sketches_are_told_apart(saved):
    group = saved.group
    group.evaluate(2, ("filter",))
    key, router = inference_rule("filter").key, group._evaluator.router
    have = [key(router, group.devices[d]) for d in range(4)]
    assert have[3][0] is None and None not in have[0]  # one hop more than there were rounds
    group.devices[3].memory.updates = dict(group.devices[0].memory.updates)
    assert key(router, group.devices[3]) == have[0]


def test_filters_are_made_once_for_equal_sketches(saved, monkeypatch):
    """Though devices that hold the same are not asked one after the other; and a sketch is made definite once."""
    from dfl_ray.devices import merging

    group = saved.group
    made, definite = [], []
    monkeypatch.setattr(merging, "filter_matrices", lambda c, **k: made.append(1) or filter_matrices(c, **k))
    monkeypatch.setattr(merging, "semidefinite", lambda c: definite.append(1) or semidefinite(c))
    group.evaluate(2, ("filter",))
    key, router = inference_rule("filter").key, group._evaluator.router
    for number, device in enumerate(group.devices.values()):
        device.memory.updates = dict(group.devices[0].memory.updates)
        if number % 2:
            forget(device, 1)
    assert len({key(router, d) for d in group.devices.values()}) == 2
    group._evaluator.merger._filter = None
    group._evaluator.merger._sketches.clear()
    made.clear(), definite.clear()
    group.evaluate(2, ("filter",))
    assert len(made) == 2 and len(definite) == len(group.setup.tasks)


def test_a_resumed_run_answers_as_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(DeviceGroup, "full_sketches", no_exact_sketches)
    words = (*WORDS[1:], "rounds=3", "evaluate.every=1")
    whole = load_run(launch(small_config(tmp_path, "name=whole", *words), json=True).folder)
    with monkeypatch.context() as stopping:
        stopping.setattr(Driver, "_evaluate_base", stop_after(Driver._evaluate_base, 1))
        with pytest.raises(Interrupted):
            launch(small_config(tmp_path, "name=cut", *words), json=True)
    assert_same_records(whole, load_run(resume(tmp_path / "cut", json=True).folder), exact=True)
    assert set(whole.evaluation.loc[whole.evaluation["round"] == 2, "rule"]) == {"filter", "oracle"}


def test_beside_another_rule_it_is_a_reference_by_exact_sketches(tmp_path):
    """All layers', though those of three were sent; a device without any sketch answers by it too."""
    run = open_saved(launch(small_config(tmp_path, *WORDS, "method.rule=likelihood"), json=True).folder)
    group = run.group
    with pytest.raises(ValueError, match="sketches of all layers"):
        group.evaluate(2, ("filter",))
    before = pd.DataFrame(group.evaluate(2, ("filter",), group.full_sketches()).rows)
    for device in group.devices.values():
        for task in range(2):
            forget(device, task)
    pd.testing.assert_frame_equal(
        before, pd.DataFrame(group.evaluate(2, ("filter",), group.full_sketches()).rows)
    )


def test_rounding_on_air_makes_no_filter_explode():
    """Inputs in few directions, rounded to int8: indefinite as they arrive, which a ridge does not bear."""
    from dfl_ray.wire.sketch import encode_sketch

    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 1, 60, 3)) @ rng.standard_normal((4, 1, 3, 48))
    exact = x.swapaxes(-1, -2) @ x / 60
    received = np.stack([decode_sketch(encode_sketch(c, "int8"), "int8", 1, 48) for c in exact])
    assert np.linalg.eigvalsh(received).min() < 0
    mended = semidefinite(received)
    assert np.linalg.eigvalsh(mended).min() > -1e-12
    wanted = filter_matrices(exact, ridge=0.01)
    error = [np.abs(filter_matrices(c, ridge=0.01) - wanted).max() for c in (received, mended)]
    assert error[1] < 0.5 < error[0]
    np.testing.assert_allclose(semidefinite(exact), exact, atol=1e-12 * np.abs(exact).max())
