"""The topology of one moment: who is linked to whom, what each link costs, who mixes which task with whom."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from topology.arrays import (
    BoolArray,
    FloatArray,
    IntArray,
    adjacency,
    as_pairs,
    both_ends,
    component_labels,
    degrees,
    pair_keys,
)
from topology.trees import cheapest_path, steiner_tree

if TYPE_CHECKING:
    from scipy.sparse import csr_array

INTRA, GATEWAY, RELAY = 0, 1, 2
KIND_NAMES = ("intra", "gateway", "relay")
ANY_TASK = -1


@dataclass(frozen=True, eq=False)
class Topology:
    """An undirected graph over devices 0..N−1 with everything a round needs to know about it.

    Physical links are `edges`. A link's `kind` says what it carries: ``intra``, its ends share a task and mix
    it; ``gateway``, they share none, it carries replicas of experts between clusters; ``relay``, it is there
    only as a hop of others' messages. Two holders of a task that are out of one another's reach may be joined
    by a *relayed* logical link, whose message is handed along `path` and charged on every hop.

    Devices may hold several tasks, so task groups overlap: `task_edges` is the truth about who mixes what,
    while `cluster` is one label per device, for drawing, for placing devices near one another on a machine
    and for counting gateways.

    Attributes:
        name: The builder that made it.
        positions_m: (N, 2) positions, metres.
        mixture: (N, T) task weights, rows sum to 1, zero = not held.
        cluster: (N,) int64 label.
        edges: (E, 2) int64 canonical physical links.
        length_m: (E,) metres.
        mean_snr_db: (E,) dB; NaN for a link outside the radio's candidates (``reach="ignore"``).
        airtime_s_per_mb: (E,) seconds per 1e6 bytes; NaN likewise.
        energy_j_per_mb: (E,) joules per 1e6 bytes; NaN where unknown.
        kind_code: (E,) int64: 0 intra, 1 gateway, 2 relay; as words in `kind`.
        relayed: (R, 2) canonical pairs joined by relays.
        relayed_task: (R,) the task a relayed pair mixes, −1 for every task both hold.
        relay_start: (R + 1,) where each relayed pair's path starts in `relay_hops`.
        relay_hops: Device numbers along all paths, one after the other, each from `relayed[r, 0]`.
    """

    name: str
    positions_m: FloatArray
    mixture: FloatArray
    cluster: IntArray
    edges: IntArray
    length_m: FloatArray
    mean_snr_db: FloatArray
    airtime_s_per_mb: FloatArray
    energy_j_per_mb: FloatArray
    kind_code: IntArray
    relayed: IntArray
    relayed_task: IntArray
    relay_start: IntArray
    relay_hops: IntArray

    @property
    def nodes(self) -> int:
        """Number of devices N."""
        return len(self.positions_m)

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.mixture.shape[1]

    @property
    def kind(self) -> tuple[str, ...]:
        """Kind of every link in words, in the order of `edges`."""
        codes: list[int] = self.kind_code.tolist()
        return tuple(KIND_NAMES[code] for code in codes)

    @cached_property
    def degree(self) -> IntArray:
        """Number of physical neighbours of every device, (N,)."""
        return degrees(self.nodes, self.edges)

    @cached_property
    def components(self) -> IntArray:
        """Connected component of every device over physical links, (N,), numbered by their smallest device.

        A partitioned graph is no error: each component goes on by itself; `components.max() + 1` is their number.
        """
        return component_labels(self.nodes, self.edges)

    @cached_property
    def parts(self) -> list[IntArray]:
        """Devices of each component, ascending, by label."""
        return _grouped(self.components, int(self.components.max(initial=-1)) + 1)

    @cached_property
    def _part_links(self) -> list[IntArray]:
        """Rows of `edges` in each component, ascending, by label."""
        return _grouped(self.components[self.edges[:, 0]], len(self.parts))

    @cached_property
    def _number(self) -> IntArray:
        """Place of every device among those of its component, (N,)."""
        number = np.empty(self.nodes, np.int64)
        for members in self.parts:
            number[members] = np.arange(len(members))
        return number

    @cached_property
    def _adjacency(self) -> csr_array:
        matrix = adjacency(self.nodes, self.edges)
        matrix.sort_indices()
        return matrix

    @cached_property
    def _relayed_rows(self) -> dict[int, int]:
        """Key of a relayed pair (`arrays.pair_keys`) -> its first row in `relayed`."""
        rows: dict[int, int] = {}
        for row, key in enumerate(pair_keys(self.relayed, self.nodes).tolist()):
            rows.setdefault(key, row)
        return rows

    @cached_property
    def _route_cost(self) -> FloatArray:
        cost = self.airtime_s_per_mb.copy()
        unknown = ~np.isfinite(cost)
        if unknown.any():
            # Links beyond the radio's candidates have no airtime: dearer than any known one, by length.
            dearest = float(np.max(cost[~unknown], initial=0.0)) or 1.0
            cost[unknown] = dearest * (1.0 + self.length_m[unknown] / max(float(self.length_m.max()), 1e-9))
        return cost

    def neighbours(self, device: int) -> IntArray:
        """Devices that share a physical link with ``device``, ascending.

        Args:
            device: Device number.

        Returns:
            (degree,) int64 device numbers.

        Raises:
            ValueError: If there is no such device.
        """
        self._check(device)
        start, end = self._adjacency.indptr[device : device + 2]
        return self._adjacency.indices[start:end].astype(np.int64)

    def holders(self, task: int) -> IntArray:
        """Devices that hold ``task``, ascending.

        Args:
            task: Task number, 0..T−1.

        Returns:
            (holders,) int64 device numbers.

        Raises:
            ValueError: If there is no such task.
        """
        if not 0 <= task < self.tasks:
            raise ValueError(f"task must lie in 0..{self.tasks - 1}, got {task}")
        return np.flatnonzero(self.mixture[:, task] > 0).astype(np.int64)

    def task_edges(self, task: int) -> IntArray:
        """Links of G_t, the graph on which the holders of a task mix it.

        All physical links between two holders, and the relayed pairs of this task. With the `clustered`
        builder G_t joins all holders that the radio can join at all.

        Args:
            task: Task number.

        Returns:
            (E_t, 2) int64 canonical pairs of holders, in global device numbers.

        Raises:
            ValueError: If there is no such task.
        """
        held = np.zeros(self.nodes, np.bool_)
        held[self.holders(task)] = True
        direct = self.edges[both_ends(held, self.edges)]
        mine = (self.relayed_task == task) | (self.relayed_task == ANY_TASK)
        mine &= both_ends(held, self.relayed)
        return as_pairs(np.concatenate([direct, self.relayed[mine]]), self.nodes)[0]

    def task_components(self, task: int) -> list[IntArray]:
        """Connected groups of a task's holders in G_t, each ascending, by their smallest device.

        Args:
            task: Task number, 0..T−1.

        Returns:
            One int64 array of device numbers for each group; their union is `holders`.

        Raises:
            ValueError: If there is no such task.
        """
        labels = component_labels(self.nodes, self.task_edges(task))
        holders = self.holders(task)
        return [holders[labels[holders] == label] for label in np.unique(labels[holders])]

    @cached_property
    def gossip_edges(self) -> IntArray:
        """Links on which methods without tasks average, (L, 2) canonical.

        Physical links that are not mere relay hops, and relayed pairs.
        """
        direct = self.edges[self.kind_code != RELAY]
        return as_pairs(np.concatenate([direct, self.relayed]), self.nodes)[0]

    def path(self, a: int, b: int) -> IntArray:
        """Devices a message passes on its way from a to b, so that every hop can be charged.

        A physical link is used if there is one, then the path stored for a relayed pair, else the path of
        least airtime over physical links.

        Args:
            a: Sender.
            b: Receiver.

        Returns:
            (hops + 1,) int64 devices, a first and b last.

        Raises:
            ValueError: If a device does not exist or the two lie in different components.
        """
        self._check(a)
        self._check(b)
        start, end = self._adjacency.indptr[a : a + 2]
        if a == b or b in self._adjacency.indices[start:end]:
            return np.array([a, b] if a != b else [a], np.int64)
        row = self._relayed_rows.get(min(a, b) * self.nodes + max(a, b))
        if row is not None:
            hops = self.relay_hops[self.relay_start[row] : self.relay_start[row + 1]]
            return hops if hops[0] == a else hops[::-1]
        found = cheapest_path(self.nodes, self.edges, self._route_cost, a, b)
        if found is None:
            raise ValueError(
                f"no path from device {a} to {b}: they lie in components {self.components[a]} and "
                f"{self.components[b]}; compare Topology.components before asking"
            )
        return found

    def broadcast_tree(self, root: int, audience: IntArray | None = None) -> list[tuple[int, int]]:
        """Hops by which a message of ``root`` reaches an audience at little airtime.

        A minimum spanning tree of the root's component (optimal) for all of it, else a tree at most twice as
        dear as the best one, without branches nobody needs; see `topology.trees.steiner_tree`.

        Args:
            root: The device that has the message.
            audience: Devices that want it; None for the whole component. Devices in others are left out.

        Returns:
            (parent, child) hops, every parent reached before it sends; deterministic.

        Raises:
            ValueError: If a device does not exist.
        """
        self._check(root)
        wanted = None if audience is None else np.unique(np.asarray(audience, np.int64).reshape(-1))
        for device in () if wanted is None else wanted[[0, -1]] if len(wanted) else ():
            self._check(int(device))
        # In the numbers of the root's component alone, so that many small ones cost no more than a large one.
        part, local = self.components[root], self._number
        members, rows = self.parts[part], self._part_links[part]
        if wanted is not None:
            wanted = local[wanted[self.components[wanted] == part]]
        pairs, cost = local[self.edges[rows]], self._route_cost[rows]
        hops = members[steiner_tree(len(members), pairs, cost, int(local[root]), wanted)]
        return [(parent, child) for parent, child in hops.tolist()]

    def crossing(self) -> BoolArray:
        """Which links join devices of different cluster labels.

        Returns:
            (E,) mask on `edges`.
        """
        ends = self.cluster[self.edges]
        return ends[:, 0] != ends[:, 1]

    def _check(self, device: int) -> None:
        if not 0 <= device < self.nodes:
            raise ValueError(f"device must lie in 0..{self.nodes - 1}, got {device}")

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All fields as NumPy arrays (the name as a 0-d string), for checkpoints and records."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Topology:
        """Rebuild a topology from `to_arrays`, bit for bit.

        Args:
            arrays: Field name -> array, shaped as in the attributes of this class; further names are ignored.

        Returns:
            The topology.

        Raises:
            ValueError: If a field is missing.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"topology arrays lack {missing}; expected the output of Topology.to_arrays")
        values: dict[str, Any] = {name: arrays[name] for name in names}
        values["name"] = str(values["name"])
        return cls(**values)


def _grouped(label: IntArray, count: int) -> list[IntArray]:
    """Places of each of `count` labels, ascending."""
    order = np.argsort(label, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1]) if count else []
