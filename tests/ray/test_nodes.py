"""Several nodes on one machine: placement keeps messages inside nodes, changes no record, and survives a lost node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.pool import RayBackend
from dfl_ray.errors import InputError, RunError
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config
from tests.records import assert_same_records

pytestmark = pytest.mark.ray

CLUSTERED = (
    "rounds=2", "devices.count=60", "devices.partition={type: one_each}", "tasks.names=null", "method.local_steps=1",
    "evaluate.every=2", "evaluate.rows_per_task=1", "evaluate.rules=[oracle]", "runtime.micro_devices=1",
)  # fmt: skip
"""60 devices in six clusters of ten, which three nodes can share without cutting one; each device trains alone, so
that sums are taken in the same order however devices are packed."""


WORKER = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
"""Ray notices a lost node within about two seconds."""


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    """A cluster on this machine: a head, where the drivers live, and what tests add."""
    cluster = Cluster(initialize_head=True, head_node_args={**WORKER, "_system_config": SOON})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def three_nodes(machines: Cluster) -> Cluster:
    """Three nodes of one CPU."""
    while len(machines.worker_nodes) < 2:
        machines.add_node(**WORKER)
    return machines


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The clustered run in one process."""
    path = tmp_path_factory.mktemp("one_process")
    return load_run(
        launch(small_config(path, *CLUSTERED, "name=one", "runtime.backend=local"), json=True).folder
    )


def test_messages_stay_inside_nodes_and_records_are_those_of_one_process(three_nodes, one_process, tmp_path):
    config = small_config(tmp_path, *CLUSTERED, "name=three", f"runtime.address={three_nodes.address}")
    outcome = launch(config, json=True)
    run = load_run(outcome.folder)
    assert_same_records(one_process, run, exact=False)
    crossing, total = run.rounds["node_crossing_bytes"].sum(), run.rounds["message_bytes"].sum()
    assert 0 < crossing <= 0.1 * total
    assert outcome.summary["inside_nodes_fraction"] == pytest.approx(1 - crossing / total)
    assert all(19 <= count <= 21 for count in run.devices.groupby("actor")["device"].nunique())
    assert not one_process.rounds["node_crossing_bytes"].any()


def test_an_actor_that_fits_no_single_node_is_refused(three_nodes, tmp_path):
    config = small_config(
        tmp_path, "devices.count=4", f"runtime.address={three_nodes.address}", "runtime.devices_per_actor=2",
        "runtime.cpus_per_actor=1.5",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"runtime\.cpus_per_actor"):
        launch(config, json=True)


@pytest.mark.exhaustive  # tests/ray/test_faults.py kills actors; what a node takes along is held here, in 100 s
def test_a_lost_node_changes_no_record(three_nodes, tmp_path, monkeypatch):
    original, lost = RayBackend.exchange, []

    def exchange(self, round_index, deliveries):
        if round_index == 2 and not lost:
            # Its trained state goes with it, and payloads for the other nodes that it has not handed out yet.
            bundles = [ray.get(call.refs[1]) for call in self._bundles]
            assert (
                min(sum(map(len, b.values())) for b in bundles) > 2**17
            )  # too large for Ray to keep beside the driver
            lost.append(remove_a_node_in_use(three_nodes, self))
        return original(self, round_index, deliveries)

    # Every device sends all of A and B to all its neighbours: much crosses between nodes in every round.
    shared = (*CLUSTERED, "devices.partition=balanced", "method=dlora", "method.precision=float32",
              "evaluate.rules=null", "rounds=3")  # fmt: skip
    one = launch(small_config(tmp_path, *shared, "name=one", "runtime.backend=local"), json=True)
    monkeypatch.setattr(RayBackend, "exchange", exchange)
    config = small_config(tmp_path, *shared, "name=three", f"runtime.address={three_nodes.address}")
    run = load_run(launch(config, json=True).folder)
    assert lost
    assert_same_records(load_run(one.folder), run, exact=False)


@pytest.mark.exhaustive  # tests/unit/actors/test_replay.py holds the waiting
def test_without_room_the_run_says_so_and_stops_saved(three_nodes, tmp_path, monkeypatch):
    original = RayBackend.plan

    def plan(self, round_index, *args):
        if round_index == 2:
            for group in self._groups:
                group._capacity_s = 15.0
            remove_a_node_in_use(three_nodes, self)
        return original(self, round_index, *args)

    monkeypatch.setattr(RayBackend, "plan", plan)
    config = small_config(
        tmp_path, *CLUSTERED, "name=three", f"runtime.address={three_nodes.address}", "runtime.cpus_per_actor=1"
    )  # fmt: skip
    with pytest.raises(RunError, match=r"found no room.*dfl-ray resume"):
        launch(config, json=True)
    run = load_run(tmp_path / "three")
    assert run.info["state"] == "failed"
    assert run.last_round >= 1


@pytest.mark.exhaustive  # a minute of starting nodes
def test_two_actors_share_a_gpu_that_is_only_declared(machines, undisturbed, tmp_path):
    node = machines.add_node(**WORKER, num_gpus=1)
    try:
        config = small_config(
            tmp_path, "name=shared", f"runtime.address={machines.address}", "runtime.devices_per_actor=2",
            "runtime.gpus_per_actor=0.5", "runtime.cpus_per_actor=0.5",
        )  # fmt: skip
        run = load_run(launch(config, json=True).folder)
        assert_same_records(undisturbed, run, exact=False)
        assert run.devices["actor"].nunique() == 2
        with pytest.raises(InputError, match=r"runtime\.gpus_per_actor"):
            devices = config.devices.model_copy(update={"count": 5})
            launch(config.model_copy(update={"name": "crowded", "devices": devices}), json=True)
    finally:
        machines.remove_node(node)


def remove_a_node_in_use(cluster: Cluster, backend: RayBackend) -> str:
    """Kill a worker node that hosts device actors; not the head, where the driver lives."""
    node = next(n for n in cluster.worker_nodes if n.node_id in backend._node_placement.node_of)
    cluster.remove_node(node, allow_graceful=False)
    return node.node_id
