"""The communication graph as methods use it: neighbours with weights, authorities and broadcast trees.

A plain, picklable digest of `topology.Topology`, made by the driver and handed to every group of devices. The
authority of a task is the holder with the smallest index in each connected part; it publishes what must be equal
for all (masks, sketches, the expert for devices that do not hold the task) along a tree, one hop a round; an expert may
also go through the whole tree in a round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from topology import Topology

Weights = Mapping[int, Mapping[int, float]]
Children = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Tree:
    """A rooted broadcast tree in one connected part.

    Attributes:
        root: The author.
        children: Device -> the devices it passes published updates on to.
        depth: Hops to the farthest device.
    """

    root: int
    children: Children
    depth: int

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """All devices but the root, ascending."""
        return tuple(sorted(c for children in self.children.values() for c in children))


@dataclass(frozen=True)
class Ways(Mapping[tuple[int, int], tuple[int, ...]]):
    """Ways of links of several hops: stored ones, and those from an author along its tree, found when asked.

    With 10,000 devices on a tree a hundred hops deep, all ways would be a million numbers for each author.

    Attributes:
        stored: (a, b) -> devices on the way from a to b, both ends included; these come first.
        parents: Author -> device of its tree -> the device before it on the way; devices that the author reaches
            itself are not named.
    """

    stored: Mapping[tuple[int, int], tuple[int, ...]]
    parents: Mapping[int, Mapping[int, int]]

    def __getitem__(self, pair: tuple[int, int]) -> tuple[int, ...]:
        """The way of a pair; climbed from its end."""
        if pair in self.stored:
            return self.stored[pair]
        root, to = pair
        before, way = self.parents[root], [to, self.parents[root][to]]
        while way[-1] in before:
            way.append(before[way[-1]])
        return (root, *way[::-1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Every pair once."""
        yield from self.stored
        for root, before in self.parents.items():
            yield from ((root, to) for to in before if (root, to) not in self.stored)

    def __len__(self) -> int:
        """Number of pairs."""
        return sum(1 for _ in self)


@dataclass(frozen=True)
class CommGraph:
    """Who exchanges what with whom.

    Attributes:
        weights: Device -> neighbour -> gossip weight on the whole graph (self-weight is the rest to 1).
        task_weights: Task -> holder -> neighbour -> gossip weight on the task's own graph.
        authority: (task, device) -> the author of the task's published updates in the device's part.
        everyone: (task, author) -> tree over the whole part.
        holders: (task, author) -> tree over the task's holders in the part.
        relays: (a, b) -> devices on the way from a to b, where a logical link takes several hops.
        since: Round in which the graph was built, 0 for the one a run starts with.
        grown: (task, author) -> round in which the holders of the author's part were last joined by others; of a graph
            that devices have not moved in, empty.
        authors: Task -> all devices that are or have been an author of it, where devices move.
        star: The devices that reach the server, itself included, ascending; empty for methods without one. Ways to and
            from it are in `relays`.
    """

    weights: Weights
    task_weights: Mapping[int, Weights]
    authority: Mapping[tuple[int, int], int]
    everyone: Mapping[tuple[int, int], Tree]
    holders: Mapping[tuple[int, int], Tree]
    relays: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    since: int = 0
    grown: Mapping[tuple[int, int], int] = field(default_factory=dict)
    authors: Mapping[int, frozenset[int]] = field(default_factory=dict)
    star: tuple[int, ...] = ()

    @property
    def mean_neighbours(self) -> float:
        """Neighbours of a device, their mean."""
        return sum(map(len, self.weights.values())) / max(1, len(self.weights))

    @property
    def most_neighbours(self) -> int:
        """Neighbours of the device that has most."""
        return max(map(len, self.weights.values()), default=0)

    def authored_by(self, sender: int, task: int, device: int) -> bool:
        """Say whether a published update may come from a sender.

        Args:
            sender: Who the update says has made it.
            task: Its task.
            device: The receiver.

        Returns:
            Whether the sender is the author of the task in the receiver's part, or, where devices move, has been an
            author of it before.
        """
        return self.authority.get((task, device)) == sender or sender in self.authors.get(task, ())


def comm_graph(
    topology: Topology, *, mixing: str, hub: int | None = None, through: bool = False
) -> CommGraph:
    """Digest a topology.

    Args:
        topology: The built topology with its mixture.
        mixing: Name of the gossip weights in `topology.mixing`.
        hub: The device that is the server, for methods with one.
        through: Whether experts go through their trees in a round; `relays` then has the ways from their authors.

    Returns:
        The graph; of a task that nobody holds in a part there are no trees and no authority there.

    Raises:
        InputError: The weights cannot be found for this graph.
    """
    held = np.asarray(topology.mixture) > 0
    devices, tasks = held.shape
    weights = _weights(topology.gossip_edges, devices, mixing)
    task_weights: dict[int, Weights] = {}
    authority: dict[tuple[int, int], int] = {}
    everyone: dict[tuple[int, int], Tree] = {}
    holders: dict[tuple[int, int], Tree] = {}
    whole: dict[int, Tree] = {}
    relays = _relays(topology, topology.gossip_edges)
    for task in range(tasks):
        edges = topology.task_edges(task)
        task_weights[task] = _weights(edges, devices, mixing)
        relays |= _relays(topology, edges)
        for part in topology.parts:
            mine = part[held[part, task]]
            if len(mine) == 0:
                continue
            author = int(mine[0])
            authority |= {(task, int(d)): author for d in part}
            if author not in whole:  # an author of several tasks has one tree over its part
                whole[author] = _tree(topology, author, part)
            everyone[task, author] = whole[author]
            holders[task, author] = _tree(topology, author, mine)
    star = {} if hub is None else _star(topology, hub)
    relays |= {(a, b): way for (a, b), way in star.items() if len(way) > 2}
    reached = () if hub is None else tuple(sorted({hub, *(a for a, _ in star)}))
    ways: Mapping[tuple[int, int], tuple[int, ...]] = relays
    if through:
        ways = Ways(relays, {root: _before(topology, tree) for root, tree in whole.items()})
    return CommGraph(weights, task_weights, authority, everyone, holders, ways, star=reached)


def succeed(old: CommGraph, new: CommGraph, held: np.ndarray, round_index: int) -> CommGraph:
    """Give a graph that takes another's place what it must remember of the past.

    The holders of a task in one part have grown together if they had different authors before: their author then
    announces again what all of them must have alike.

    Args:
        old: The graph before.
        new: The graph from now on, as `comm_graph` gives it.
        held: (devices, tasks) bool, who holds what.
        round_index: The round from which it holds.

    Returns:
        `new` with `since`, `grown` and `authors`.
    """
    before: dict[tuple[int, int], set[int]] = {}
    for device, task in np.argwhere(held).tolist():
        before.setdefault((task, new.authority[task, device]), set()).add(old.authority[task, device])
    grown: dict[tuple[int, int], int] = {}
    for (task, author), earlier in before.items():
        since = round_index if len(earlier) > 1 else old.grown.get((task, min(earlier)), 0)
        if since:
            grown[task, author] = since
    authors = {
        task: old.authors.get(task, frozenset()) | {a for g in (old, new) for t, a in g.everyone if t == task}
        for task in range(held.shape[1])
    }
    return replace(new, since=round_index, grown=grown, authors=authors)


def mixing_matrix(mixing: str, edges: np.ndarray, devices: int) -> csr_array:
    """Gossip weights of a rule on some links.

    Args:
        mixing: `topology.mixing`.
        edges: (E, 2) links.
        devices: Number of devices.

    Returns:
        (devices, devices) symmetric, doubly stochastic weights; see `topology.mixing.gossip_weights`.

    Raises:
        InputError: The rule cannot be used on these links, or gives no such weights.
    """
    from topology.mixing import gossip_weights

    try:
        return gossip_weights(mixing, edges, devices)
    except ValueError as error:
        raise InputError(f"`topology.mixing` cannot be carried out: {error}") from error


def _weights(edges: np.ndarray, devices: int, mixing: str) -> dict[int, dict[int, float]]:
    matrix = mixing_matrix(mixing, edges, devices).tocoo()
    out: dict[int, dict[int, float]] = {}
    for i, j, w in zip(matrix.row.tolist(), matrix.col.tolist(), matrix.data.tolist(), strict=True):
        if i != j and w > 0:
            out.setdefault(i, {})[j] = w
    return out


def _relays(topology: Topology, edges: np.ndarray) -> dict[tuple[int, int], tuple[int, ...]]:
    """(a, b) and (b, a) -> the way, of each logical link that is no physical one."""
    from topology.arrays import find_pairs

    out: dict[tuple[int, int], tuple[int, ...]] = {}
    for a, b in edges[find_pairs(edges, topology.edges, topology.nodes) < 0].tolist():
        path = [int(x) for x in topology.path(a, b)]
        out[a, b], out[b, a] = tuple(path), tuple(reversed(path))
    return out


def _star(topology: Topology, hub: int) -> dict[tuple[int, int], tuple[int, ...]]:
    """(device, hub) and (hub, device) -> the way along the broadcast tree, of all devices in the hub's part."""
    down: dict[int, tuple[int, ...]] = {hub: (hub,)}
    for parent, child in topology.broadcast_tree(hub):
        down[int(child)] = (*down[int(parent)], int(child))
    down.pop(hub)
    return {(hub, d): way for d, way in down.items()} | {(d, hub): way[::-1] for d, way in down.items()}


def _before(topology: Topology, tree: Tree) -> dict[int, int]:
    """Device of a tree -> the device before it on the way from the root, of those that have no link to the root."""
    near = {tree.root, *topology.neighbours(tree.root).tolist()}
    return {c: parent for parent, children in tree.children.items() for c in children if c not in near}


def _tree(topology: Topology, root: int, devices: np.ndarray) -> Tree:
    """The tree from a root over some devices of its part; a device alone has none to be looked for."""
    children: dict[int, list[int]] = {}
    depth = {root: 0}
    for parent, child in topology.broadcast_tree(root, devices) if len(devices) > 1 else ():
        children.setdefault(int(parent), []).append(int(child))
        depth[int(child)] = depth[int(parent)] + 1
    return Tree(root, {p: tuple(sorted(c)) for p, c in children.items()}, max(depth.values()))
