"""How devices are packed into actors and when the cluster is too small."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.packing import check_fits, pack

ANY = "devices.min_holders=1"
EACH_FOUR = "runtime.devices_per_actor=4"
MACHINE = {"CPU": 2.0, "GPU": 0.0, "memory": 20 * 2.0**30}


def packing(*overrides, cluster=None, resources=MACHINE):
    config = load_config(None, list(overrides))
    labels = np.zeros(config.devices.count, int) if cluster is None else np.array(cluster)
    return pack(config, labels, resources, 1.0)


def test_auto_keeps_one_device_per_actor_up_to_sixteen():
    assert [len(g) for g in packing("devices.count=16").groups] == [1] * 16
    assert len(packing("devices.count=17").groups) == 2
    assert len(packing("devices.count=17", resources={**MACHINE, "CPU": 8.0}).groups) == 17


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
        ([], {**MACHINE, "memory": 2.0**30}, "runtime.devices_per_actor"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_knob(overrides, resources, knob):
    with pytest.raises(InputError, match=knob):
        check_fits(packing("devices.count=10", *overrides, resources=resources), resources)


def test_names_are_readable():
    assert packing("devices.count=3", ANY).actor_name(2) == "device-0002"
    assert packing("devices.count=4", ANY, "runtime.devices_per_actor=2").actor_name(1) == "devices-0001"
