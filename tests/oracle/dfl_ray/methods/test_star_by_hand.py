"""Methods with a server at one device against plain numpy, their limit cases and their bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dfl_ray.config import literature
from dfl_ray.lora.layout import LayerShape
from dfl_ray.methods.gossip import mean_of
from dfl_ray.methods.spec import method_spec
from dfl_ray.network.traffic import LawfulNetwork
from dfl_ray.wire.codec import encoded_size, mask_size
from dfl_ray.wire.message import HEADER_BYTES
from tests.network import LINE, largest, network, play, put, row

ONE = (LayerShape("x", 3, 4),)
SET = {"rank": 2, "alpha": 4.0, "precision": "float32"}


def test_fedavg_star_averages_all_devices_and_nobody_trains_while_the_server_answers():
    method, devices = network(literature.FedavgStarConfig(**SET, exchange_every=2, server=1), LINE, ONE)
    law = method.law
    assert [law.trains(0, None, r) for r in range(1, 7)] == [True, True, False] * 2
    assert play(method, devices, 1)[1] == 0
    mean = np.mean([row(d) for d in devices], axis=0)
    up = play(method, devices, 2)[1]
    np.testing.assert_allclose(row(devices[1]), mean, atol=1e-6)
    down = play(method, devices, 3, lost={(1, 3)})[1]
    assert up == down == 3 * (HEADER_BYTES + encoded_size(14, "float32"))
    for d in devices[:3]:
        np.testing.assert_allclose(row(d), mean, atol=1e-6)
    assert np.abs(row(devices[3]) - mean).max() > 0.1


class Counted(tuple):
    """A tuple that counts how often it is gone through."""

    gone_through = 0

    def __iter__(self):
        Counted.gone_through += 1
        return super().__iter__()

    __contains__ = None


def test_the_law_of_a_server_does_not_go_through_all_devices_for_each():
    method, _ = network(literature.FedavgStarConfig(**SET), LINE, ONE)
    whole, devices = method.law.context, 300
    context = replace(whole, graph=replace(whole.graph, star=Counted(range(devices))))
    planned = LawfulNetwork(method_spec(whole.config).law(context), range(devices)).requests(1)
    assert len(planned) == devices - 1
    assert Counted.gone_through <= 2


@pytest.mark.parametrize("count", [1, 2, 9, 300])
def test_a_servers_running_mean_is_the_mean_to_the_last_bit(count):
    vectors = np.random.default_rng(count).normal(size=(count, 1001)).astype(np.float32)
    vectors *= np.float32(10.0) ** np.arange(-3, 998, dtype=np.float32).clip(-3, 4)
    np.testing.assert_array_equal(mean_of(iter(vectors)), np.mean(vectors.astype(np.float64), axis=0))


def test_fedavg_star_leaves_out_what_was_lost():
    method, devices = network(literature.FedavgStarConfig(**SET), LINE, ONE)
    mean = np.mean([row(d) for d in (devices[0], devices[1], devices[3])], axis=0)
    play(method, devices, 1, lost={(2, 0)})
    np.testing.assert_allclose(row(devices[0]), mean, atol=1e-6)


def test_flasc_is_sparse_down_and_up_and_dense_between():
    method, devices = network(literature.FlascConfig(**SET, upload_share=0.25, download_share=0.5), LINE, ONE)
    start = method.start(0)[0].numpy().astype(float)
    server, x = start.copy(), np.stack([start] * 4)
    for d in devices:
        put(d, start)
    rng = np.random.default_rng(2)
    for cycle in range(3):
        up, down = 2 * cycle + 1, 2 * cycle + 2
        for d in devices:
            method.begin(d, up)
        steps = rng.normal(size=(4, 14))
        for d in devices:
            put(d, row(d) + steps[d.index])
        sent_up = play(method, devices, up)[1]
        server = server + np.mean([largest(s, 4) for s in steps], axis=0)
        sent_down = play(method, devices, down)[1]
        x = largest(server, 7)
        for d in devices:
            np.testing.assert_allclose(row(d), x, atol=1e-5)
        for sent, kept in ((sent_up, 4), (sent_down, 7)):
            length = HEADER_BYTES + 4 + mask_size(kept, 14) + encoded_size(kept, "float32")
            assert sent == 3 * length


def test_flasc_of_everything_is_fedavg():
    dense = literature.FlascConfig(**SET, upload_share=1.0, download_share=1.0)
    flasc, left = network(dense, LINE, ONE)
    fedavg, right = network(literature.FedavgStarConfig(**SET), LINE, ONE)
    start = flasc.start(0)[0].numpy()
    rng = np.random.default_rng(3)
    for devices, method in ((left, flasc), (right, fedavg)):
        for d in devices:
            put(d, start)
            method.begin(d, 1)
    steps = rng.normal(size=(4, 14))
    for devices in (left, right):
        for d in devices:
            put(d, row(d) + steps[d.index])
    for r in (1, 2):
        play(flasc, left, r)
        play(fedavg, right, r)
    for one, two in zip(left, right, strict=True):
        np.testing.assert_allclose(row(one), row(two), atol=1e-5)
