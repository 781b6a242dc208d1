"""The node of every actor: resources reserved for all of them at once, and another node when one is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from actors.forks import FORK_MARK
from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import LostError
from dfl_ray.packing.actors import Packing
from dfl_ray.packing.partition import Node

NODE_ID_LABEL = "ray.io/node-id"
NODES_CACHE_S = 1.0
"""Age up to which Ray's last list of nodes is used again."""


def alive_nodes() -> list[Node]:
    """The cluster's nodes, those without CPUs and GPUs left out, in the order of their addresses."""
    found: list[Node] = []
    for raw in ray.nodes():
        has: Mapping[str, float] = raw["Resources"]
        if raw["Alive"] and (has.get("CPU", 0.0) > 0 or has.get("GPU", 0.0) > 0):
            memory = has.get("memory", float("inf"))
            found.append(
                Node(
                    raw["NodeID"], has.get("CPU", 0.0), has.get("GPU", 0.0), memory, raw["NodeManagerAddress"]
                )
            )
    return sorted(found, key=lambda n: (n.address, -n.cpus, -n.gpus, n.name))


def own_node() -> str:
    """Name of the node this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class Started:
    """What an actor answers once it is ready.

    Attributes:
        node: Name of the node it runs on.
        forked: Whether its process is a fork; otherwise it is an ordinary worker.
    """

    node: str
    forked: bool


def started_here() -> Started:
    """Where and how the actor in this process was started."""
    return Started(own_node(), FORK_MARK in os.environ)


class NodePlacement:
    """Node of every device actor, from the reservation to the loss of nodes.

    On one node nothing is reserved, and Ray places the actors. On several, one placement group holds a bundle for
    each actor, bound by label to the node chosen for it: Ray grants all bundles at once or none. The actors of a lost
    node leave their bundles, which exist no more, and are all started again on the remaining node with the most CPUs
    for each of its actors; see docs/adr/0005-placement-by-messages.md.

    Args:
        packing: The actors and their nodes.
        runtime: How long to wait, and whether the CPU share was asked for.
        say: Tells the user something.
    """

    def __init__(self, packing: Packing, runtime: RuntimeConfig, say: Callable[[str], None]) -> None:
        self._needs = {"num_cpus": packing.cpus_per_actor, "num_gpus": packing.gpus_per_actor}
        self._fixed_cpus = runtime.cpus_per_actor is not None
        self._first = packing.nodes
        self.node_of = list(packing.nodes or ("",) * len(packing.groups))
        self._cached: tuple[float, list[Node]] = (float("-inf"), [])
        self._group: Any = self._reserve(packing, runtime.wait_for_capacity_s, say) if packing.nodes else None

    def _reserve(self, packing: Packing, timeout_s: float, say: Callable[[str], None]) -> Any:
        from ray.util.placement_group import placement_group

        bundle = {"CPU": packing.cpus_per_actor, "GPU": packing.gpus_per_actor}
        group = placement_group(
            [{k: v for k, v in bundle.items() if v > 0} for _ in packing.groups],
            strategy="PACK",
            bundle_label_selector=[{NODE_ID_LABEL: node} for node in packing.nodes],
        )
        if not group.wait(min(20.0, timeout_s / 3)):
            say(
                f"The cluster is busy with other work; waiting up to {timeout_s:.0f} s "
                f"(`runtime.wait_for_capacity_s`) for the resources of {len(packing.groups)} actors"
            )
            if not group.wait(timeout_s):
                raise LostError(
                    f"The cluster had no resources for {len(packing.groups)} actors within {timeout_s:.0f} s. Other "
                    "work holds its CPUs or GPUs: wait for it, or lower `runtime.cpus_per_actor`, or raise "
                    "`runtime.wait_for_capacity_s`."
                )
        return group

    def options(self, number: int) -> dict[str, Any]:
        """Ray's options for making an actor on its node; another node is chosen first if that one is lost.

        Args:
            number: The actor's place in `Packing.groups`.

        Returns:
            CPUs, GPUs and, on several nodes, a scheduling strategy.
        """
        from ray.util.scheduling_strategies import (
            NodeAffinitySchedulingStrategy,
            PlacementGroupSchedulingStrategy,
        )

        if self._group is None:
            return dict(self._needs)
        if self.on_lost_node(number):
            self._reassign(self.node_of[number])
        node = self.node_of[number]
        if node == self._first[number]:
            place: Any = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            return {**self._needs, "scheduling_strategy": place}
        if self._fixed_cpus:
            return {**self._needs, "scheduling_strategy": "DEFAULT"}
        # A share that was only the cluster's CPUs spread over the actors is spread thinner now.
        place = NodeAffinitySchedulingStrategy(node, soft=True)
        return {**self._needs, "num_cpus": 0, "scheduling_strategy": place}

    def note_node(self, number: int, node: str) -> None:
        """Note the node an actor has really started on.

        Args:
            number: The actor's place in `Packing.groups`.
            node: The node's name.
        """
        if self._group is not None:
            self.node_of[number] = node

    def on_lost_node(self, number: int) -> bool:
        """Whether the node an actor was put on is lost.

        Args:
            number: The actor's place in `Packing.groups`.

        Returns:
            True if it is; always False on one node. The nodes are asked for at most every `NODES_CACHE_S` seconds.
        """
        return self._group is not None and self.node_of[number] not in {n.name for n in self._alive()}

    def _alive(self) -> list[Node]:
        now = time.monotonic()
        if now - self._cached[0] > NODES_CACHE_S:
            self._cached = (now, alive_nodes())
        return self._cached[1]

    def _reassign(self, lost: str) -> None:
        """Assign all actors of a lost node to the remaining node with the most CPUs for each of its actors."""
        alive = self._alive()
        if not alive:
            return
        load = {n.name: self.node_of.count(n.name) for n in alive}
        chosen = max(alive, key=lambda n: (n.cpus / (1 + load[n.name]), n.address)).name
        self.node_of = [chosen if node == lost else node for node in self.node_of]

    def release(self) -> None:
        """Return the reserved resources to the cluster."""
        if self._group is not None:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self._group)
