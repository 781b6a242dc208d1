"""Where actors live: room for all reserved at once on the nodes chosen for them, and a new home when a node dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import RunError
from dfl_ray.packing.actors import Packing
from dfl_ray.packing.partition import Node

NODE_ID_LABEL = "ray.io/node-id"
FRESH_S = 1.0
"""Age up to which what Ray said about its nodes is taken as true."""


def living_nodes() -> list[Node]:
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


class NodePlacement:
    """Node of every device actor, from the reservation to the loss of nodes.

    On one node there is nothing to reserve, and Ray places as it likes. On several, one placement group holds a
    bundle for each actor, bound by label to the node chosen for it: all of them are had at once or none. An actor
    whose node is gone leaves its bundle (which holds nothing any more) and moves, with its fellows, to the surviving
    node with the most CPU for each actor; see docs/adr/0005-placement-by-messages.md.

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
        self._seen: tuple[float, list[Node]] = (float("-inf"), [])
        self._group: Any = self._reserve(packing, runtime.actor_timeout_s, say) if packing.nodes else None

    def _reserve(self, packing: Packing, timeout_s: float, say: Callable[[str], None]) -> Any:
        from ray.util.placement_group import placement_group

        bundle = {"CPU": packing.cpus_per_actor, "GPU": packing.gpus_per_actor}
        group = placement_group(
            [{k: v for k, v in bundle.items() if v > 0} for _ in packing.groups],
            strategy="PACK",
            bundle_label_selector=[{NODE_ID_LABEL: node} for node in packing.nodes],
        )
        if not group.wait(min(20.0, timeout_s)):
            say(
                f"The cluster is busy with other work; waiting up to {timeout_s:.0f} s for the room of "
                f"{len(packing.groups)} actors"
            )
            if not group.wait(timeout_s):
                raise RunError(
                    f"The cluster gave no room for {len(packing.groups)} actors within {timeout_s:.0f} s. Other work "
                    "holds its CPUs or GPUs: wait for it, or lower `runtime.cpus_per_actor`, or raise "
                    "`runtime.actor_timeout_s`."
                )
        return group

    def options(self, number: int) -> dict[str, Any]:
        """Ray's options for making an actor in its home, which is chosen anew if the old one is gone."""
        from ray.util.scheduling_strategies import (
            NodeAffinitySchedulingStrategy,
            PlacementGroupSchedulingStrategy,
        )

        if self._group is None:
            return dict(self._needs)
        if self.stranded(number):
            self._move(self.node_of[number])
        home = self.node_of[number]
        if home == self._first[number]:
            place: Any = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            return {**self._needs, "scheduling_strategy": place}
        if self._fixed_cpus:
            return {**self._needs, "scheduling_strategy": "DEFAULT"}
        # A share that was only the cluster's CPUs spread over the actors is spread thinner now.
        place = NodeAffinitySchedulingStrategy(home, soft=True)
        return {**self._needs, "num_cpus": 0, "scheduling_strategy": place}

    def settle(self, number: int, node: str) -> None:
        """Note the node an actor has really started on."""
        if self._group is not None:
            self.node_of[number] = node

    def stranded(self, number: int) -> bool:
        """Whether the node an actor was put on is gone."""
        return self._group is not None and self.node_of[number] not in {n.name for n in self._alive()}

    def _alive(self) -> list[Node]:
        now = time.monotonic()
        if now - self._seen[0] > FRESH_S:
            self._seen = (now, living_nodes())
        return self._seen[1]

    def _move(self, lost: str) -> None:
        """Give all actors of a lost node one new home: the survivor with the most CPU for each actor."""
        survivors = self._alive()
        if not survivors:
            return
        load = {n.name: self.node_of.count(n.name) for n in survivors}
        home = max(survivors, key=lambda n: (n.cpus / (1 + load[n.name]), n.address)).name
        self.node_of = [home if node == lost else node for node in self.node_of]

    def release(self) -> None:
        """Give the reserved room back."""
        if self._group is not None:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self._group)
