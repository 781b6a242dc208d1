"""How devices are packed into actors and actors onto nodes, and whether the cluster can hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import InputError
from dfl_ray.packing.partition import MessageGraph, Node, assign
from dfl_ray.packing.workers import empty_actor_mb, objects_mb, why_no_forks

LONE_ACTORS = 16
LONE_ACTORS_PER_CPU = 4
LONE_WORKING_MB = 128.0
"""Above so much working memory, actors that only wait for a CPU cost more than they give."""
SLACK = 0.05
"""Share by which a packed node may exceed its fair number of devices where that keeps messages inside."""


@dataclass(frozen=True)
class Packing:
    """Which actor hosts which devices.

    Attributes:
        groups: For each actor its devices, ascending.
        cpus_per_actor: CPU share each asks for.
        gpus_per_actor: GPU share each asks for.
        memory_mb: Estimated private memory of one actor at its peak.
        reason: Why so, in one line.
        nodes: For each actor the name of its node; empty where there is but one.
        inside: Share of the expected message bytes that stay inside nodes; 1 where there is but one.
    """

    groups: tuple[tuple[int, ...], ...]
    cpus_per_actor: float
    gpus_per_actor: float
    memory_mb: float
    reason: str
    nodes: tuple[str, ...] = ()
    inside: float = 1.0

    def actor_name(self, number: int) -> str:
        """Make a readable name of an actor.

        Args:
            number: The actor.

        Returns:
            `device-0007` for an actor that hosts device 7 alone, `devices-0003` for actor 3 that hosts several.
        """
        group = self.groups[number]
        return f"device-{group[0]:04d}" if len(group) == 1 else f"devices-{number:04d}"


def most_lone_actors(cpus: float) -> int:
    """Up to how many devices have an actor each where nothing is asked for.

    Args:
        cpus: CPUs of the whole cluster.
    """
    return max(LONE_ACTORS, int(LONE_ACTORS_PER_CPU * cpus))


def device_state_mb(values: int, adapters: int, arrays: float = 0.0, dense: int = 0) -> float:
    """Memory of one device's training state: adapters and two moments in float32, a residual in bfloat16.

    ((3 + arrays) · 4 + 2) bytes · values · adapters + 4 bytes · dense, / 2^20.

    Args:
        values: Trained values of one adapter.
        adapters: Most adapters that one device trains.
        arrays: Further float32 arrays of an adapter's size that its method keeps (`methods.spec.kept_arrays`).
        dense: Values of an update that it has merged into its own base.

    Returns:
        Units of 2^20 bytes.
    """
    return (((3 + arrays) * 4 + 2) * values * adapters + 4 * dense) / 2**20


def pack(
    runtime: RuntimeConfig,
    cluster: np.ndarray,
    resources: Mapping[str, float],
    state_mb: float,
    *,
    nodes: Sequence[Node] = (),
    messages: MessageGraph | None = None,
    forks: bool | None = None,
    working_mb: float = 0.0,
    merged_mb: Callable[[int], float] = lambda _devices: 0.0,
) -> Packing:
    """Choose the packing; `check_fits` says whether the cluster can hold it.

    `auto` keeps one device per actor up to max(16, 4 x CPUs); beyond that, and where an actor works in much memory
    (`LONE_WORKING_MB`), it fills as many actors as there are CPU (or GPU) slots. Devices of one cluster share an actor
    where they can. On several nodes the devices are first dealt to nodes, in proportion to CPUs (or GPUs), so that few
    message bytes cross between nodes.

    Args:
        runtime: What the user asked for.
        cluster: (devices,) cluster label.
        resources: What the Ray cluster has: `CPU`, `GPU`, `memory` (bytes).
        state_mb: Memory of one device's state in MB.
        nodes: The cluster's machines; none or one means there is nothing to place.
        messages: Bytes between devices; needed with several nodes.
        forks: Whether actors are forks, which need less memory; None means as `why_no_forks` expects.
        working_mb: Memory an actor needs beside its devices' states while it trains or evaluates.
        merged_mb: The same where adapters are merged, of an actor of some devices (`engines.memory.merged_mb`); small
            enough not to decide the packing.

    Returns:
        The packing, whether or not the cluster can hold it.
    """
    count, machines = len(cluster), _machines(runtime, resources, nodes)
    actors, reason = _actors(runtime, count, machines, working_mb)
    forks = why_no_forks(runtime) is None if forks is None else forks
    if runtime.state_memory_mb is not None:
        state_mb = min(state_mb, runtime.state_memory_mb / count)
    each = -(-count // actors)
    memory = runtime.memory_per_actor_mb or (
        empty_actor_mb(forks) + working_mb + merged_mb(each) + state_mb * each + objects_mb(each, count)
    )
    bare = Packing((), runtime.cpus_per_actor or 0.0, runtime.gpus_per_actor, memory, reason)
    dealt = _deal(actors, machines, bare)
    share = runtime.cpus_per_actor or _cpu_share(dealt, machines)
    if len(machines) == 1 or messages is None:
        groups = tuple(_in_clusters(np.arange(count), cluster, actors))
        return replace(bare, groups=groups, cpus_per_actor=share)
    part = _node_of_devices(messages, cluster, dealt, runtime.devices_per_actor == "auto" and actors < count)
    return _on_machines(replace(bare, cpus_per_actor=share), machines, dealt, part, cluster, messages)


def actors_wanted(runtime: RuntimeConfig, devices: int, resources: Mapping[str, float]) -> int:
    """How many actors `pack` makes for so many devices on one machine, as long as no model is known.

    Args:
        runtime: What the user asked for.
        devices: Number of devices, >= 1.
        resources: What the machine has: `CPU`, `GPU`.

    Returns:
        The number, from 1 to the number of devices.
    """
    return _actors(runtime, devices, [_whole(resources)], 0.0)[0]


def _machines(
    runtime: RuntimeConfig, resources: Mapping[str, float], nodes: Sequence[Node]
) -> Sequence[Node]:
    """The nodes that can hold actors, or the cluster as one machine where it is one or no node can."""
    useful = _useful(nodes, runtime.gpus_per_actor)
    return useful if useful and len(nodes) > 1 else [_whole(resources)]


def _actors(
    runtime: RuntimeConfig, count: int, machines: Sequence[Node], working_mb: float
) -> tuple[int, str]:
    """Number of actors, and why so many."""
    per_actor = runtime.devices_per_actor
    if per_actor == "auto":
        return _auto(count, machines, runtime.gpus_per_actor, working_mb)
    return -(-count // per_actor), f"runtime.devices_per_actor={per_actor}"


def _on_machines(
    bare: Packing, machines: Sequence[Node], dealt: Sequence[int], part: np.ndarray, cluster: np.ndarray,
    messages: MessageGraph,
) -> Packing:  # fmt: skip
    """The packing whose actors hold the devices of their machine, cluster by cluster."""
    placed = [
        (group, machine.name)
        for number, machine in enumerate(machines)
        for group in _in_clusters(np.flatnonzero(part == number), cluster, dealt[number])
    ]
    sent = float(messages.bytes.sum())
    inside = 1.0 - messages.crossing(part) / sent if sent else 1.0
    return replace(bare, groups=tuple(g for g, _ in placed), nodes=tuple(n for _, n in placed), inside=inside)


def _whole(resources: Mapping[str, float]) -> Node:
    """The cluster as if it were one machine."""
    return Node(
        "",
        max(1.0, resources.get("CPU", 1.0)),
        resources.get("GPU", 0.0),
        resources.get("memory", float("inf")),
    )


def _useful(nodes: Sequence[Node], gpus_per_actor: float) -> list[Node]:
    """The nodes that can hold actors."""
    return [n for n in nodes if _weight(n, gpus_per_actor) > 0]


def _weight(node: Node, gpus_per_actor: float) -> float:
    return float(node.gpus if gpus_per_actor > 0 else node.cpus)


def _auto(count: int, machines: Sequence[Node], gpus_per_actor: float, working_mb: float) -> tuple[int, str]:
    cpus = sum(m.cpus for m in machines)
    lone = most_lone_actors(cpus)
    if working_mb > LONE_WORKING_MB and gpus_per_actor == 0:
        each = f"a model of this size needs about {working_mb:.0f} MB while an actor trains or evaluates"
        return max(1, min(int(cpus), count)), f"one actor per CPU: {each}"
    if count <= lone:
        return count, f"one device per actor, as up to {lone} devices on {cpus:g} CPUs"
    slots = sum(_gpu_room(m.gpus, gpus_per_actor) if gpus_per_actor > 0 else int(m.cpus) for m in machines)
    return max(1, min(slots, count)), f"more than {lone} devices: packed into one actor per slot"


def _gpu_room(gpus: float, each: float) -> int:
    """Actors that fit on whole GPUs; a share of a GPU cannot lie on two of them."""
    if each >= 1:
        return int(gpus / each + 1e-6)
    return int(gpus) * int(1 / each + 1e-6) + int(gpus % 1 / each + 1e-6)


def _room(machine: Node, packing: Packing) -> dict[str, int]:
    """How many actors each resource of a machine holds, of the resources they ask for."""
    room: dict[str, int] = {}
    if packing.cpus_per_actor > 0:
        room["CPU"] = int(machine.cpus / packing.cpus_per_actor * (1 + 1e-6))
    if packing.gpus_per_actor > 0:
        room["GPU"] = _gpu_room(machine.gpus, packing.gpus_per_actor)
    if np.isfinite(machine.memory_bytes):
        room["memory"] = int(machine.memory_bytes / 2**20 / packing.memory_mb * (1 + 1e-6))
    return room


def _deal(actors: int, machines: Sequence[Node], packing: Packing) -> list[int]:
    """Actors of each machine: in proportion to its CPUs (or GPUs), within its room as far as that goes."""
    room = [min(_room(m, packing).values(), default=actors) for m in machines]
    weight = [_weight(m, packing.gpus_per_actor) for m in machines]
    given = [0] * len(machines)
    for _ in range(actors):
        open_to = [k for k in range(len(machines)) if given[k] < room[k]] or range(len(machines))
        # The machine least loaded after taking one more; equal ones in turn.
        given[min(open_to, key=lambda k: ((given[k] + 1) / max(weight[k], 1e-9), k))] += 1
    return given


def _cpu_share(dealt: Sequence[int], machines: Sequence[Node]) -> float:
    least = min((m.cpus / n for m, n in zip(machines, dealt, strict=True) if n), default=1.0)
    return float(min(1.0, np.floor(1000 * least + 1e-9) / 1000))


def _node_of_devices(
    messages: MessageGraph, cluster: np.ndarray, dealt: Sequence[int], spread: bool
) -> np.ndarray:
    """Machine of each device; packed by choice, a machine may take a few more than its share."""
    ends = np.floor(np.cumsum([0, *dealt]) * messages.count / sum(dealt) + 0.5).astype(int)
    sizes = np.diff(ends).tolist()
    limits = [int(np.ceil(s * (1 + SLACK))) if spread and s else s for s in sizes]
    return assign(messages, cluster, sizes, limits)


def _in_clusters(devices: np.ndarray, cluster: np.ndarray, actors: int) -> Iterator[tuple[int, ...]]:
    order = devices[np.lexsort((devices, cluster[devices]))]
    for part in np.array_split(order, actors) if actors else ():
        if len(part):
            yield tuple(sorted(int(d) for d in part))


_KNOBS = {
    "CPU": ("runtime.cpus_per_actor", ""),
    "GPU": ("runtime.gpus_per_actor", ""),
    "memory": ("runtime.devices_per_actor", " MB"),
}


def check_fits(packing: Packing, resources: Mapping[str, float], nodes: Sequence[Node] = ()) -> None:
    """Refuse what the cluster cannot hold, naming the knob to turn; an actor lies on one node, whole.

    Args:
        packing: What is wanted.
        resources: What the cluster has in sum.
        nodes: Its machines; none means it is one.

    Raises:
        InputError: Not enough CPU, GPU or memory on some node, or a GPU share that Ray does not know.
    """
    _check_shares(packing)
    placed = bool(packing.nodes)
    machines = list(nodes) if placed else [_single(packing, resources, nodes)]
    actors = len(packing.groups)
    for name in ("GPU", "CPU", "memory"):
        holds = [_room(m, packing).get(name, actors) for m in machines]
        asked = [packing.nodes.count(m.name) if placed else actors for m in machines]
        if any(a > h for a, h in zip(asked, holds, strict=True)):
            raise _no_room(packing, name, machines, holds)
    if placed and sum(min(_room(m, packing).values(), default=actors) for m in machines) < actors:
        raise _no_room(
            packing, "CPU", machines, [min(_room(m, packing).values(), default=actors) for m in machines]
        )


def _single(packing: Packing, resources: Mapping[str, float], nodes: Sequence[Node]) -> Node:
    """Where actors lie that are on one machine: the one node of several that can hold them, or the whole cluster."""
    useful = _useful(nodes, packing.gpus_per_actor)
    if len(nodes) > 1 and len(useful) == 1:
        return useful[0]
    return Node(
        "", resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", float("inf"))
    )


def _check_shares(packing: Packing) -> None:
    actors, gpus = len(packing.groups), packing.gpus_per_actor
    if packing.cpus_per_actor < 0.0005 or 0 < gpus < 0.0005:
        raise InputError(
            f"{actors} actors leave each less than 0.001 {'GPU' if 0 < gpus < 0.0005 else 'CPU'}",
            change="Set `runtime.devices_per_actor=auto`, or a number of devices for each actor.",
        )
    if gpus > 1 and gpus != int(gpus):
        raise InputError(
            "An actor cannot have more than one GPU and a part of another",
            got=f"runtime.gpus_per_actor={gpus:g}",
            expected="a share up to 1, or a whole number",
            change="Change `runtime.gpus_per_actor`.",
        )


def _no_room(packing: Packing, name: str, machines: Sequence[Node], holds: Sequence[int]) -> InputError:
    knob, label = _KNOBS[name]
    each = {"CPU": packing.cpus_per_actor, "GPU": packing.gpus_per_actor, "memory": packing.memory_mb}[name]
    there = [
        {"CPU": m.cpus, "GPU": m.gpus, "memory": np.floor(m.memory_bytes / 2**20)}[name] for m in machines
    ]
    actors = len(packing.groups)
    if len(machines) == 1:
        only = machines[0].address or machines[0].name
        expected = f"at most {there[0]:g}{label} {name}" + (
            f" on the one node that can hold them, {only}" if only else ""
        )
    else:
        listed = [
            f"{m.address or m.name}: {t:g}{label} {name} hold {h}"
            for m, t, h in zip(machines, there, holds, strict=True)
        ]
        expected = f"what each node holds, {sum(holds)} in all ({'; '.join(listed)}); an actor lies on one node, whole"
    return InputError(
        f"The cluster cannot hold {actors} device actors",
        got=f"{actors} x {each:g}{label} = {each * actors:g}{label} {name}",
        expected=expected,
        change=f"Change `{knob}`, set `runtime.devices_per_actor=auto`, or join a larger cluster by "
        "`runtime.address`.",
    )
