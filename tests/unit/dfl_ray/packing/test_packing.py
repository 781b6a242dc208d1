"""How devices are packed into actors and when the cluster is too small."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.packing.actors import check_fits, pack
from dfl_ray.packing.partition import MessageGraph, Node

ANY = "devices.min_holders=1"
EACH_FOUR = "runtime.devices_per_actor=4"
MACHINE = {"CPU": 2.0, "GPU": 0.0, "memory": 20 * 2.0**30}


def packing(*overrides, cluster=None, resources=MACHINE):
    config = load_config(None, list(overrides))
    labels = np.zeros(config.devices.count, int) if cluster is None else np.array(cluster)
    return pack(config.runtime, labels, resources, 1.0)


def test_auto_keeps_one_device_per_actor_up_to_sixteen():
    assert [len(g) for g in packing("devices.count=16").groups] == [1] * 16
    assert len(packing("devices.count=17").groups) == 2
    assert len(packing("devices.count=17", resources={**MACHINE, "CPU": 8.0}).groups) == 17


def test_actors_that_work_in_much_memory_are_one_per_cpu():
    config = load_config(None, ["devices.count=10"])
    labels = np.zeros(10, int)
    little = pack(config.runtime, labels, MACHINE, 1.0, working_mb=100.0, forks=True)
    much = pack(config.runtime, labels, MACHINE, 1.0, working_mb=500.0, forks=True)
    assert (len(little.groups), little.memory_mb) == (10, pytest.approx(151.06))
    assert (len(much.groups), much.memory_mb) == (2, pytest.approx(555.14))
    assert "500 MB" in much.reason
    chosen = load_config(None, ["devices.count=10", "runtime.devices_per_actor=1"])
    assert len(pack(chosen.runtime, labels, MACHINE, 1.0, working_mb=500.0).groups) == 10


def test_every_device_is_hosted_once():
    groups = packing("devices.count=103", "runtime.devices_per_actor=10").groups
    assert sorted(d for g in groups for d in g) == list(range(103))
    assert max(map(len, groups)) <= 10


def test_clusters_share_actors():
    groups = packing(
        "devices.count=8",
        ANY,
        EACH_FOUR,
        cluster=[0, 1, 0, 1, 0, 1, 0, 1],
    ).groups
    assert groups == ((0, 2, 4, 6), (1, 3, 5, 7))


def test_cpu_share_fills_the_cluster_and_no_more():
    found = packing("devices.count=10")
    assert found.cpus_per_actor == pytest.approx(0.2)
    check_fits(found, MACHINE)


@pytest.mark.parametrize(
    ("overrides", "resources", "knob"),
    [
        (["runtime.cpus_per_actor=0.5"], MACHINE, "runtime.cpus_per_actor"),
        (["runtime.gpus_per_actor=0.1"], MACHINE, "runtime.gpus_per_actor"),
        (["runtime.memory_per_actor_mb=4000"], MACHINE, "runtime.devices_per_actor"),
        ([], {**MACHINE, "memory": 2.0**28}, "runtime.devices_per_actor"),
        (["runtime.fork_actors=false"], {**MACHINE, "memory": 2.0**30}, "runtime.devices_per_actor"),
        (["runtime.address=auto"], {**MACHINE, "memory": 2.0**30}, "runtime.devices_per_actor"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_knob(overrides, resources, knob):
    with pytest.raises(InputError, match=knob):
        check_fits(packing("devices.count=10", *overrides, resources=resources), resources)


def test_names_are_readable():
    assert packing("devices.count=3", ANY).actor_name(2) == "device-0002"
    assert packing("devices.count=4", ANY, "runtime.devices_per_actor=2").actor_name(1) == "devices-0001"


def machines(*cpus, gpus=(), memory_gb=8.0):
    gpus = gpus or [0.0] * len(cpus)
    return [Node(f"n{k}", c, g, memory_gb * 2**30) for k, (c, g) in enumerate(zip(cpus, gpus, strict=True))]


def total(nodes):
    return {
        "CPU": sum(n.cpus for n in nodes),
        "GPU": sum(n.gpus for n in nodes),
        "memory": sum(n.memory_bytes for n in nodes),
    }


def ring_messages(count):
    devices = np.arange(count)
    return MessageGraph.build(count, devices, (devices + 1) % count, np.ones(count))


def on_nodes(nodes, *overrides):
    config = load_config(None, list(overrides))
    count = config.devices.count
    return pack(
        config.runtime, np.zeros(count, int), total(nodes), 1.0, nodes=nodes, messages=ring_messages(count)
    )  # fmt: skip


@pytest.mark.parametrize("cpus", [(1, 1, 1), (4, 2, 2), (16, 4), (0, 3, 1)])
@pytest.mark.parametrize("count", [10, 16, 60, 400])
def test_nodes_are_filled_by_their_cpus_and_hold_what_they_get(cpus, count):
    nodes = machines(*cpus)
    found = on_nodes(nodes, f"devices.count={count}")
    check_fits(found, total(nodes), nodes)
    assert sorted(d for g in found.groups for d in g) == list(range(count))
    devices = {n.name: 0 for n in nodes}
    for group, node in zip(found.groups, found.nodes, strict=True):
        devices[node] += len(group)
    for node in nodes:
        fair = count * node.cpus / sum(cpus)
        assert abs(devices[node.name] - fair) <= max(1.0, 0.12 * count)
    assert found.inside >= 1 - 2 * len(nodes) / count  # a ring is cut once for each node


def test_one_node_and_none_give_the_same_packing():
    assert on_nodes(machines(2), "devices.count=30") == packing(
        "devices.count=30", resources=total(machines(2))
    )


def test_an_actor_must_fit_on_a_node_not_in_the_sum():
    nodes = machines(1.5, 1.5)
    found = on_nodes(nodes, "devices.count=3", ANY, "runtime.cpus_per_actor=1")
    with pytest.raises(InputError, match=r"(?s)n0: 1.5 CPU hold 1.*runtime\.cpus_per_actor"):
        check_fits(found, total(nodes), nodes)


def test_where_one_node_of_several_can_hold_actors_they_are_packed_for_it():
    nodes = machines(32, 2, gpus=(0, 1))
    found = on_nodes(nodes, "devices.count=10", "runtime.gpus_per_actor=0.1")
    assert (len(found.groups), found.cpus_per_actor) == (10, 0.2)
    check_fits(found, total(nodes), nodes)
    crowded = on_nodes(nodes, "devices.count=10", "runtime.gpus_per_actor=0.1", "runtime.cpus_per_actor=0.5")
    with pytest.raises(InputError, match=r"(?s)at most 2 CPU on the one node.*n1.*runtime\.cpus_per_actor"):
        check_fits(crowded, total(nodes), nodes)


def test_memory_is_counted_on_each_node():
    nodes = [Node("large", 4, 0, 8 * 2**30), Node("small", 4, 0, 2**20 * 300)]
    fits = on_nodes(nodes, "devices.count=8", ANY, "runtime.memory_per_actor_mb=250")
    check_fits(fits, total(nodes), nodes)
    assert fits.nodes.count("small") == 1
    heavy = on_nodes(nodes, "devices.count=8", ANY, "runtime.memory_per_actor_mb=1200")
    with pytest.raises(InputError, match=r"runtime\.devices_per_actor"):
        check_fits(heavy, total(nodes), nodes)


@pytest.mark.parametrize(
    ("share", "gpus", "slots"), [(0.25, 1, 4), (0.4, 3, 6), (0.5, 2, 4), (1, 3, 3), (2, 5, 2), (0.3, 1, 3)]
)
def test_a_share_of_a_gpu_lies_on_one_gpu(share, gpus, slots):
    resources = {"CPU": 64.0, "GPU": float(gpus), "memory": 2.0**40}
    found = packing("devices.count=500", f"runtime.gpus_per_actor={share}", resources=resources)
    assert len(found.groups) == slots
    check_fits(found, resources)
    more = packing("devices.count=500", f"runtime.gpus_per_actor={share}", "runtime.devices_per_actor=2",
                   resources=resources)  # fmt: skip
    with pytest.raises(InputError, match=r"runtime\.gpus_per_actor"):
        check_fits(more, resources)


def test_a_gpu_and_a_half_is_refused():
    with pytest.raises(InputError, match="whole number"):
        check_fits(
            packing("devices.count=4", ANY, "runtime.gpus_per_actor=1.5"), {**MACHINE, "GPU": 8.0}
        )  # fmt: skip
