"""Methods on a small network with no model: averaging, masks, published updates, losses, refusals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from dfl_ray.config.methods import DloraConfig, SparseOrthogonalConfig
from dfl_ray.methods import published
from dfl_ray.methods.aggregations import PartState
from dfl_ray.methods.bidding import share_out
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.expert_law import ExpertLaw, update_rounds
from dfl_ray.methods.fault_table import FAULTS
from dfl_ray.methods.faults import Faults
from dfl_ray.methods.laws import Planned
from dfl_ray.wire.message import HEADER_BYTES, Kind, Message, maker_of, pack, unpack
from tests.network import HELD, LAYERS, LINE, make_context, make_devices, play, projections_of


def so(**changes):
    base = {
        "rank": 4, "precision": "float32", "density": 1.0, "sketch_layers": 1, "exchange_every": 1,
        "prune_end": 0.6, "prune_steps": 5,
    }  # fmt: skip
    return SparseOrthogonalConfig(**{**base, **changes})


def values(devices, task):
    rows = {
        d.index: d.state.theta[d.adapter_tasks.index(task)].numpy().copy()
        for d in devices
        if task in d.adapter_tasks
    }
    return rows


def test_sparse_orthogonal_averages_inside_each_task_only():
    method = make_method(make_context(so(), HELD))
    devices = make_devices(method)
    before = {t: values(devices, t) for t in (0, 1)}
    refused, _ = play(method, devices, 1)
    assert not refused
    for task, graph in method.context.graph.task_weights.items():
        after = values(devices, task)
        for d, row in after.items():
            expected = before[task][d] + sum(
                w * (before[task][n] - before[task][d]) for n, w in graph[d].items()
            )
            np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            np.mean(list(after.values()), axis=0), np.mean(list(before[task].values()), axis=0), atol=1e-6
        )


def test_dlora_averages_a_and_b_over_all_neighbours():
    method = make_method(make_context(DloraConfig(rank=4, precision="float32"), HELD))
    devices = make_devices(method)
    assert method.layout.size == sum(4 * (s.in_features + s.out_features) for s in LAYERS)
    before = {d.index: d.state.theta[0].numpy().copy() for d in devices}
    play(method, devices, 1)
    for d in devices:
        expected = before[d.index] + sum(w * (before[n] - before[d.index]) for n, w in LINE[d.index].items())
        np.testing.assert_allclose(d.state.theta[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_lost_weight_stays_with_the_device():
    method = make_method(make_context(DloraConfig(rank=4, precision="float32"), HELD))
    devices = make_devices(method)
    before = {d.index: d.state.theta[0].numpy().copy() for d in devices}
    play(method, devices, 1, lost={(0, 1)})
    expected = before[1] + (before[2] - before[1]) / 3
    np.testing.assert_allclose(devices[1].state.theta[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gossip_reaches_consensus_with_int8_and_feedback():
    method = make_method(make_context(so(precision="int8"), HELD, rounds=500))
    devices = make_devices(method)
    target = np.mean(list(values(devices, 0).values()), axis=0)
    for r in range(1, 81):
        play(method, devices, r)
    spread = np.ptp(np.stack(list(values(devices, 0).values())), axis=0).max()
    assert spread < 0.06
    assert np.abs(np.mean(list(values(devices, 0).values()), axis=0) - target).max() < 0.1


def test_exchange_every_skips_rounds_but_never_the_last():
    config = DloraConfig(rank=4, exchange_every=3)
    method = make_method(make_context(config, HELD, rounds=7))
    devices = make_devices(method)
    sent = [play(method, devices, r)[1] > 0 for r in range(1, 8)]
    assert sent == [False, False, True, False, False, True, True]


def test_schedule_is_cubic_and_ends_at_the_density():
    schedule = update_rounds(so(density=0.25, prune_start=0.1, prune_end=0.6, prune_steps=5), 20)
    assert list(schedule) == [4, 6, 8, 10, 12]
    assert list(schedule.values()) == sorted(schedule.values(), reverse=True)
    assert schedule[12] == 0.25
    assert update_rounds(so(density=1.0), 20) == {}


def test_all_holders_switch_masks_together_and_thin_out():
    method = make_method(make_context(so(density=0.25, precision="float16"), HELD))
    devices = make_devices(method)
    sizes = []
    for r in range(1, 21):
        refused, size = play(method, devices, r)
        assert not refused
        sizes.append(size)
        for task in (0, 1):
            masks = [method.pruning.current(d, task) for d in devices if task in d.adapter_tasks]
            assert all((m is None) == (masks[0] is None) for m in masks)
            assert masks[0] is None or all((m == masks[0]).all() for m in masks)
    for d in devices:
        for adapter_index, task in enumerate(d.adapter_tasks):
            mask = method.pruning.current(d, task)
            assert mask is not None
            assert mask.mean() == pytest.approx(0.25, abs=0.02)
            assert not d.state.theta[adapter_index][torch.from_numpy(~mask)].any()
        assert method.density(d) == pytest.approx(0.25, abs=0.02)
    assert sizes[-1] < sizes[3]


def test_masks_reach_holders_through_relays_that_do_not_hold_the_task():
    held = {0: (0,), 1: (1,), 2: (0, 1), 3: (1,)}
    method = make_method(make_context(so(density=0.25, precision="float16"), held))
    devices = make_devices(method)
    for r in range(1, 21):
        assert not play(method, devices, r)[0]
    masks = [method.pruning.current(devices[d], 0) for d in (0, 2)]
    assert masks[0] is not None
    assert (masks[0] == masks[1]).all()


def test_a_holder_that_missed_a_mask_refuses_and_catches_up():
    method = make_method(make_context(so(density=0.25, precision="float16"), HELD))
    devices = make_devices(method)
    seen = Counter()
    for r in range(1, 21):
        lost = {(0, 1)} if 4 <= r <= 9 else set()
        seen += play(method, devices, r, lost)[0]
    assert seen["unknown_mask"] > 0
    assert set(seen) == {"unknown_mask"}
    masks = [method.pruning.current(d, 0) for d in devices[:3]]
    assert all((m == masks[0]).all() for m in masks)


def test_replicas_reach_every_device_and_the_newest_wins():
    method = make_method(make_context(so(replicas_every=5, precision="float32"), HELD))
    devices = make_devices(method)
    for r in range(1, 21):
        play(method, devices, r)
    for task, author in ((0, 0), (1, 2)):
        for d in devices:
            expert = method.expert(d, task)
            if task in d.adapter_tasks:
                assert expert.key == ("own", d.index, task)
                continue
            kind, of, sender, version = expert.origin
            assert (kind, of, sender) == ("replica", task, author)
            assert version == 20 - (method.context.graph.everyone[task, author].depth - 1)
            own = next(x for x in devices if x.index == author)
            np.testing.assert_allclose(
                expert.values.numpy(), own.state.theta[own.adapter_tasks.index(task)].numpy(), atol=0.05
            )


def test_experts_that_go_through_the_tree_are_a_round_old_and_tried_again():
    method = make_method(make_context(so(replicas_every=5, precision="float32", publish="through"), HELD))
    devices = make_devices(method)
    for r in range(1, 21):
        play(method, devices, r, lost={(0, 3)} if r == 19 else set())
    versions = {(d.index, t): method.expert(d, t).origin[3:] for d in devices for t in (0, 1)}
    assert versions == {
        (d, t): () if t in HELD[d] else (19,) for d in range(4) for t in (0, 1)
    }  # by hops the farthest has version 18


@pytest.mark.parametrize(("mixed", "exchanged"), [(False, {10, 20}), (True, {8, 10, 18, 20})])
def test_adapters_are_exchanged_before_an_expert_is_published(mixed, exchanged):
    config = so(replicas_every=10, exchange_every=10, publish="through", publish_mixed=mixed)
    method = make_method(make_context(config, HELD))
    law = ExpertLaw(method.context.law_context(method.layout))
    states = {d: law.start(d) for d in HELD}
    found: dict[Kind, set[int]] = {}
    for r in range(1, 21):
        for d, state in states.items():
            sent = law.messages(d, state, r)
            assert law.busy(r) or not sent
            for message in sent:
                found.setdefault(message.kind, set()).add(r)
                if message.kind is Kind.EXPERT:
                    assert (message.version, d, len(message.destinations)) == (r, (0, 2)[message.task], 3)
                law.delivered(d, state, message, message.destinations)
    assert found[Kind.ADAPTER] == exchanged and found[Kind.EXPERT] == {9, 19}


def test_sketches_reach_everyone_and_lost_hops_are_retried():
    method = make_method(make_context(so(), HELD))
    devices = make_devices(method)
    for r in range(1, 6):
        play(method, devices, r, lost={(0, 1)} if r < 3 else set())
    for d in devices:
        key, decoded = method.sketches(d)
        found = decoded()
        assert key == ((0, 1), (2, 1))
        np.testing.assert_allclose(found[0, 0], np.eye(8), rtol=1e-3)  # float16 root diagonals
        np.testing.assert_allclose(found[1, 0], 2 * np.eye(8), rtol=1e-3)


def test_sent_projections_are_checked():
    method = make_method(make_context(so(a_exchange="send"), HELD))
    devices = make_devices(method)
    total = play(method, devices, 1)[1]
    assert total > sum(4 * 4 * s.in_features for s in LAYERS)
    for r in range(2, 6):
        assert not play(method, devices, r)[0]


def test_a_projection_of_another_length_is_refused():
    method = make_method(make_context(so(a_exchange="send"), HELD))
    device = make_devices(method)[1]
    data = pack(craft(kind=Kind.PROJECTION, task=0, body=b"12345678"))
    assert method.incoming(device, 1, [data], []) == Counter({"corrupted": 1})


def craft(**changes):
    fields = {
        "kind": Kind.ADAPTER, "task": -1, "sender": 0, "version": 1, "run": 99, "mask_hash": 0,
        "precision": "float32", "body": b"",
    }  # fmt: skip
    return Message(**{**fields, **changes})


def good_body(method, fill=0.0):
    return np.full(method.layout.size, fill, "<f4").tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run": 98}, "foreign"),
        ({"sender": 3}, "foreign"),
        ({"task": 0}, "foreign"),
        ({"version": 2}, "foreign"),
        ({"body": b"1234"}, "corrupted"),
        ({"fill": float("nan")}, "not_finite"),
        ({"fill": float("inf")}, "not_finite"),
    ],
)
def test_wrong_messages_are_refused_counted_and_never_averaged(change, reason):
    method = make_method(make_context(DloraConfig(rank=4, precision="float32"), HELD))
    device = make_devices(method)[1]
    before = device.state.theta.clone()
    change = dict(change)
    body = good_body(method, change.pop("fill", 0.0))
    data = pack(craft(**{"body": body, **change}))
    assert method.incoming(device, 1, [data], []) == Counter({reason: 1})
    assert torch.equal(device.state.theta, before)


def test_damaged_and_replayed_bytes_are_refused():
    method = make_method(make_context(DloraConfig(rank=4, precision="float32"), HELD))
    device = make_devices(method)[1]
    data = pack(craft(body=good_body(method)))
    broken = bytearray(data)
    broken[60] ^= 1
    assert method.incoming(device, 1, [bytes(broken), data[:-3]], []) == Counter(corrupted=1, truncated=1)
    assert not method.incoming(device, 1, [data], [])
    after = device.state.theta.clone()
    assert method.incoming(device, 2, [data], []) == Counter(replayed=1)
    assert torch.equal(device.state.theta, after)


def test_another_projection_makes_messages_foreign(tmp_path):
    """The run's identity in every message covers a hash of all A_t."""
    from dfl_ray.simulation.experiment import _run_identity

    class Section:
        seed = 0
        method = so()

    class Other(Section):
        method = so(projection="gaussian")

    drawn = projections_of(so(), LAYERS, 2)
    other = (drawn[0], drawn[1].copy())
    other[1][0, 0, 0] += 1e-6
    assert _run_identity(Section(), drawn) != _run_identity(Other(), drawn)  # type: ignore[arg-type]
    assert _run_identity(Section(), drawn) != _run_identity(Section(), other)  # type: ignore[arg-type]
    assert _run_identity(Section(), drawn) == _run_identity(Section(), drawn)  # type: ignore[arg-type]


def test_deferred_acceptance_is_stable_and_fills_every_share():
    rng = np.random.default_rng(0)
    worths = rng.random((3, 11))
    owner = share_out(worths)
    assert np.bincount(owner).tolist() == [4, 4, 3]
    for task in range(3):
        worst = worths[task, owner == task].min()
        for row in np.flatnonzero(owner != task):
            assert worths[task, row] <= worst or worths[owner[row], row] >= worths[task, row]
    np.testing.assert_array_equal(
        share_out(np.array([[3.0, 2.0, 1.0, 0.0], [9.0, 1.0, 8.0, 0.5]])), [1, 0, 1, 0]
    )


@pytest.mark.parametrize("late", [False, True])
def test_disjoint_tasks_own_rows_of_their_own(late):
    method = make_method(make_context(so(density=0.3, disjoint=True, precision="float16"), HELD))
    devices = make_devices(method)
    for r in range(1, 21):
        lost = {(1, 2), (2, 1)} if late and r < 9 else set()
        refused, _ = play(method, devices, r, lost)
        assert set(refused) <= {"unknown_mask"}
    masks = [method.pruning.current(devices[2], task) for task in (0, 1)]
    assert all(m is not None and 0.2 < m.mean() <= 0.31 for m in masks)
    for s in method.layout.of("b"):
        touched = [m[s.start : s.stop].reshape(s.shape).any(axis=1) for m in masks]
        assert not (touched[0] & touched[1]).any()
    product = [v.numpy() for v in method.layout.views(devices[2].state.theta, "b")]
    for b in product:
        assert not (b[0].T @ b[1]).any()


def test_a_bid_that_cannot_be_is_refused():
    method = make_method(make_context(so(density=0.3, disjoint=True), HELD))
    device = make_devices(method)[1]
    for body, reason in ((np.full(11, -1, "<f2").tobytes(), "not_finite"), (b"123", "corrupted")):
        data = pack(craft(kind=Kind.BID, task=0, precision="float16", body=body))
        assert method.incoming(device, 1, [data], []) == Counter({reason: 1})


def test_a_bid_where_masks_need_not_be_disjoint_is_foreign():
    method = make_method(make_context(so(density=0.3), HELD))
    device = make_devices(method)[1]
    data = pack(craft(kind=Kind.BID, task=0, precision="float16", body=np.ones(11, "<f2").tobytes()))
    assert method.incoming(device, 1, [data], []) == Counter({"foreign": 1})


def test_who_made_a_message_is_read_without_its_body():
    message = Message(Kind.EXPERT, 3, 41, 17, 99, 5, "int8", b"body" * 1000)
    data = pack(message)
    assert maker_of(data) == (41, 17)
    assert maker_of(data[:HEADER_BYTES]) == (41, 17)


def test_a_replica_is_decoded_once_for_all_devices_that_hold_it(monkeypatch):
    """At 7 billion parameters a copy and a checksum of each replica for each device took minutes."""
    method = make_method(make_context(SparseOrthogonalConfig(rank=2), HELD))
    devices = make_devices(method)
    author, readers = devices[0], [d for d in devices if 0 not in d.adapter_tasks]
    update = Planned(Kind.EXPERT, 0, (), 0, 5)
    method._publish(author, update, 5)
    for reader in readers:
        reader.memory.updates[Kind.EXPERT, 0] = author.memory.updates[Kind.EXPERT, 0]
    read = []
    monkeypatch.setattr(published, "unpack", lambda data: read.append(len(data)) or unpack(data))
    found = [method.expert(reader, 0) for reader in (*readers, *readers)]
    assert len(readers) > 0 and len(read) == 1
    assert all(expert is found[0] for expert in found) and found[0].key == ("replica", 0, 0, 5)


def test_faulty_devices_are_not_looked_for_one_by_one():
    class Counted(tuple):
        __contains__ = None

    faults = Faults(Counted(range(0, 100, 2)), FAULTS["sign_flip"])
    values = np.ones(3, np.float32)
    wrong = [d for d in range(100) if faults.falsified(d, 1, PartState(np.empty(0)), values) is not None]
    assert wrong == list(range(0, 100, 2))
