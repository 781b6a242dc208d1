"""FedSRD against plain numpy with dense matrices, its limits and its bytes."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.config.literature import FedsrdConfig
from dfl_ray.lora.layout import LayerShape
from dfl_ray.methods.sparse_body import heard
from dfl_ray.wire.codec import encoded_size, mask_size
from dfl_ray.wire.message import HEADER_BYTES, unpack
from tests.network import LINE, play, put, row
from tests.network import network as plain_network

TWO = (LayerShape("x", 5, 6), LayerShape("y", 4, 6))
SET = {"rank": 2, "alpha": 4.0, "precision": "float32"}


def network(**settings):
    return plain_network(FedsrdConfig(**SET | settings), LINE, TWO)


def split(flat):
    """A and B of both layers: storage order is A, B of one layer, then of the next."""
    out, at = [], 0
    for layer in TWO:
        a = flat[at : at + 2 * layer.in_features].reshape(2, -1)
        at += a.size
        b = flat[at : at + 2 * layer.out_features].reshape(-1, 2)
        at += b.size
        out.append((a, b))
    return out


def joined(pairs):
    return np.concatenate([np.r_[a.ravel(), b.ravel()] for a, b in pairs])


def pruned(values, importance, share):
    kept = np.zeros(values.size)
    order = np.argsort(-importance.ravel(), kind="stable")[: max(1, round(share * values.size))]
    kept[order] = values.ravel()[order]
    return (kept * np.abs(values).sum() / np.abs(kept).sum()).reshape(values.shape)


def by_hand(common, trained, share, cycle):
    """One cycle before the random mask: what the server would send of the active factor, and 0 of the other."""
    mean, answer = [0.0, 0.0], []
    for flat in trained:
        for k, ((a, b), (new_a, new_b)) in enumerate(zip(split(common), split(flat), strict=True)):
            da = np.abs(new_a - a) * np.linalg.norm(new_b, axis=0)[:, None]
            db = np.abs(new_b - b) * np.linalg.norm(a, axis=1)[None, :]
            up_a, up_b = a + pruned(new_a - a, da, share), b + pruned(new_b - b, db, share)
            mean[k] = mean[k] + up_b @ up_a / len(trained)
    for (a, b), whole in zip(split(common), mean, strict=True):
        u, s, vt = np.linalg.svd(whole)
        wanted = (u[:, :2] * s[:2]) @ vt[:2] - b @ a
        if cycle % 2 == 0:
            answer.append((np.zeros_like(a), wanted @ np.linalg.pinv(a)))
        else:
            answer.append((np.linalg.pinv(b) @ wanted, np.zeros_like(b)))
    return joined(answer)


@pytest.mark.parametrize("down", [1.0, 0.5])
def test_three_cycles_are_those_of_plain_numpy(down):
    method, devices = network(upload_share=0.3, download_share=down, server=1)
    common = row(devices[1])
    for d in devices:
        put(d, common)
    rng = np.random.default_rng(2)
    for cycle in range(3):
        up, answered = 2 * cycle + 1, 2 * cycle + 2
        assert [method.law.trains(0, None, r) for r in (up, answered)] == [True, False]
        for d in devices:
            method.begin(d, up)
            put(d, common + rng.normal(size=common.size) * 0.3)
        trained = [row(d) for d in devices]
        sent_up = play(method, devices, up)[1]
        sent_down = play(method, devices, answered)[1]
        whole = by_hand(common, trained, 0.3, cycle)
        change = row(devices[0]) - common
        said = change != 0
        active = [10, 8] if cycle % 2 == 0 else [12, 12]
        assert said.sum() == round(down * sum(active))
        np.testing.assert_allclose(change[said], whole[said] / down, atol=2e-4)
        assert not whole[~said].any() or down < 1
        common = row(devices[0])
        for d in devices:
            np.testing.assert_array_equal(row(d), common)
        kept = sum(max(1, round(0.3 * n)) for n in (12, 10, 12, 8))
        assert sent_up == 3 * (HEADER_BYTES + 4 + mask_size(kept, 42) + encoded_size(kept, "float32"))
        length = mask_size(int(said.sum()), sum(active)) + encoded_size(int(said.sum()), "float32")
        assert sent_down == 3 * (HEADER_BYTES + 4 + length)


def test_the_random_share_is_right_on_average():
    """Mean over many draws of what is said is what would be said densely."""
    method, devices = network(download_share=0.25, upload_share=1.0)
    hub = devices[0]
    method.begin(hub, 1)
    rng = np.random.default_rng(1)
    changes = [rng.normal(size=42).astype(np.float32) for _ in range(3)]
    common = hub.memory.start.astype(float)
    dense = by_hand(common, [common + c for c in changes], 1.0, 0)
    found = []
    for r in range(2, 1600, 4):  # rounds of B's turn
        found.append(np.where(*method.form(hub, r - 1, changes), 0))
    error = np.abs(np.mean(found, axis=0) - dense)
    assert (error < 5 * np.abs(dense) * np.sqrt(3 / len(found)) + 1e-4).all()


def test_devices_that_agree_and_send_everything_move_to_the_nearest_with_one_factor():
    """Equal data, all of B's change alone: D A^+ gives it back exactly."""
    method, devices = network(upload_share=1.0, download_share=1.0)
    start = row(devices[0])
    step = joined([(np.zeros_like(a), np.ones_like(b)) for a, b in split(start)])
    for d in devices:
        put(d, start)
        method.begin(d, 1)
        put(d, start + step)
    play(method, devices, 1)
    play(method, devices, 2)
    for d in devices:
        np.testing.assert_allclose(row(d), start + step, atol=1e-4)


def test_nothing_learnt_is_nothing_said_and_a_zero_b_breaks_nothing():
    method, devices = network()
    start = joined([(a, np.zeros_like(b)) for a, b in split(row(devices[0]))])
    for d in devices:
        put(d, start)
    for r in (1, 2, 3, 4):
        for d in devices:
            method.begin(d, r)
        play(method, devices, r)
    for d in devices:
        np.testing.assert_allclose(row(d), start, atol=1e-5)


def test_the_server_hears_itself_rounded_as_the_others_do():
    """int8 scales by the largest value of a message, so that what is rounded must be what would be sent."""
    method, devices = network(precision="int8", upload_share=0.3, download_share=0.3)
    start = row(devices[0])
    for d in devices:
        put(d, start)
        method.begin(d, 1)
        put(d, start + np.random.default_rng(d.index).normal(size=42))
    said = method.upload(devices[1])
    sent = method.outgoing(devices[1], 1)[0].payload
    np.testing.assert_array_equal(heard(*said, "int8"), method._read(unpack(sent)))
    assert not np.array_equal(heard(*said, "int8"), np.where(*said, 0))
    for r in (1, 2):
        play(method, devices, r)
    for d in devices[1:]:
        np.testing.assert_array_equal(row(d), row(devices[0]))
