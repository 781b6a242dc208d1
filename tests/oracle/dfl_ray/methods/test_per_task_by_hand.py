"""The controls with an expert a task: averaging inside tasks, experts spread once, the router of the method itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.lora.projection import common_factors
from dfl_ray.methods.entries import make_method, method_section
from dfl_ray.wire.codec import from_bfloat16
from dfl_ray.wire.message import Kind
from tests.network import HELD, LAYERS, make_context, make_devices, play

CONTROLS = ("dlora_per_task", "ffa_per_task", "local_per_task")
SET = {"rank": 4, "precision": "float32", "sketch_layers": 1}


def network(name, rounds=20, **changes):
    every = {} if name == "local_per_task" else {"exchange_every": 1}
    method = make_method(make_context(method_section(name)(**{**SET, **every, **changes}), HELD, rounds))
    return method, make_devices(method)


def rows(devices):
    """(task, device) -> values of the device's own expert."""
    return {
        (task, d.index): d.state.theta[k].numpy().astype(float)
        for d in devices
        for k, task in enumerate(d.adapter_tasks)
    }


@pytest.mark.parametrize(("name", "factors"), [("dlora_per_task", ("a", "b")), ("ffa_per_task", ("b",))])
def test_all_that_is_trained_is_averaged_among_a_tasks_holders(name, factors):
    method, devices = network(name)
    assert method.layout.trains == factors
    assert method.layout.size == sum(4 * (s.in_features * ("a" in factors) + s.out_features) for s in LAYERS)
    before = rows(devices)
    assert not play(method, devices, 1)[0]
    for (task, device), values in rows(devices).items():
        weights = method.context.graph.task_weights[task][device]
        expected = before[task, device] + sum(
            w * (before[task, n] - before[task, device]) for n, w in weights.items()
        )
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_holders_of_a_task_start_from_one_a_and_tasks_from_others():
    method, _ = network("dlora_per_task")
    first = {d: method.layout.views(method.start(d), "a")[0] for d in HELD}
    drawn = torch.from_numpy(common_factors(3, LAYERS, 4, 0)[0]).float()
    assert torch.equal(first[0][0], drawn) and torch.equal(first[2][0], drawn)
    assert torch.equal(first[2][1], first[3][0]) and not torch.equal(first[2][0], first[2][1])
    assert not any(b.any() for d in HELD for b in method.layout.views(method.start(d), "b"))
    assert method.static_a([(0, 0)]) is None


def test_all_tasks_of_ffa_read_one_common_a():
    method, _ = network("ffa_per_task")
    for stack, drawn in zip(method.static_a([(0, 0), (2, 1)]), common_factors(3, LAYERS, 4), strict=True):
        assert torch.equal(stack[0], stack[1])
        np.testing.assert_array_equal(stack[0].numpy(), drawn.astype(np.float32))


def test_local_experts_are_never_averaged_and_spread_once_before_the_end():
    method, devices = network("local_per_task", rounds=9)
    before, kinds, published = rows(devices), {}, {}
    for r in range(1, 10):
        for d in devices:
            d.state.theta += 0.1
        for d in devices:
            for planned in method.law.messages(d.index, method.memory(d.index).traffic, r):
                kinds.setdefault(planned.kind, set()).add(r)
                published.setdefault((planned.kind, planned.task), set()).add(planned.version)
        assert not play(method, devices, r)[0]
    assert Kind.ADAPTER not in kinds and Kind.MASK not in kinds
    # The path is three hops long for task 0 and two for task 1, and each hop takes a round.
    assert published[Kind.EXPERT, 0] == {7} and published[Kind.EXPERT, 1] == {8}
    after = rows(devices)
    for place, values in after.items():
        np.testing.assert_allclose(values, before[place] + 0.9, atol=1e-5)
    replica = method.expert(devices[3], 0)
    assert replica.key == ("replica", 0, 0, 7)
    np.testing.assert_allclose(replica.values, before[0, 0] + 0.7, atol=1e-5)
    assert method.expert(devices[1], 0).key == ("own", 1, 0)


@pytest.mark.parametrize("name", CONTROLS)
def test_the_router_is_that_of_sparse_and_orthogonal_lora(name):
    control, _ = network(name)
    ours = make_method(make_context(method_section("sparse_orthogonal")(**SET), HELD))
    for mine, theirs in zip(control.router_a(2), ours.router_a(2), strict=True):
        assert torch.equal(mine, theirs)
    a, b = (
        next(m for m in x.law.messages(0, x.law.start(0), 1) if m.kind is Kind.SKETCH)
        for x in (control, ours)
    )
    assert a == b


@pytest.mark.parametrize("name", CONTROLS)
def test_masks_and_bids_that_nobody_asked_for_are_refused(name):
    from dfl_ray.wire.message import Message, mask_hash, pack

    method, devices = network(name)
    mask = np.ones(method.layout.size, bool)
    for kind in (Kind.MASK, Kind.BID):
        data = pack(Message(kind, 0, 0, 1, 99, mask_hash(mask), "float32", b"\0" * 40))
        assert method.incoming(devices[1], 1, [data], []) == {"foreign": 1}


@pytest.mark.parametrize("name", ["dlora", "ffa", "rolora", "fedsa", "dlora_per_task", "ffa_per_task"])
def test_int8_carries_the_rounding_error_into_the_next_message(name):
    method, devices = network(name, precision="int8") if "_per_task" in name else plain_int8(name)
    messages = []
    for r in (1, 2):
        method.begin(devices[0], r)
        sent = [o for o in method.outgoing(devices[0], r) if o.planned.kind is Kind.ADAPTER]
        messages.append(sent[0].payload)
    residuals = [
        from_bfloat16(p.residual) for p in devices[0].memory.parts.values() if p.residual is not None
    ]
    assert residuals and any(np.abs(x).max() > 0 for x in residuals)
    assert np.abs(np.concatenate(residuals)).max() < 0.1


def plain_int8(name):
    method = make_method(make_context(method_section(name)(rank=4, precision="int8"), HELD))
    return method, make_devices(method)
