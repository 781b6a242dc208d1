"""Devices that move: where they are when a round begins, which links they have then, and the graph made of these.

Movement happens between rounds: positions, gains, lines of sight and shadowing are those of the round's first virtual
second, for the whole round. A link appears when its mean SNR reaches `topology.min_snr_db` and vanishes when it falls
`devices.mobility.hysteresis_db` below. The graph is built anew only when that is worth it
(`topology.mobility.needs_rebuild`); between two builds its links get new lengths and SNRs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.errors import RunError
from dfl_ray.network.comm_graph import CommGraph, succeed
from dfl_ray.network.deployment import ChannelSetup, Links, decodable, graph_for, graph_on, mobility_model

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.experts.similarity import SharedSketches
    from topology import Topology

PREFIX = "movement/"
"""Begins the names of a movement's arrays beside those of the channel."""


@dataclass(frozen=True)
class Moved:
    """Where the devices are in a round.

    Attributes:
        topology: Positions, and the links in use with their lengths, SNRs and airtimes of now.
        graph: Who exchanges what with whom.
        rebuilt: Whether the graph was built anew for this round.
        changed: Whether it was, or a device is elsewhere than in the round before.
        parts_before: Number of parts of the graph before.
        parts: Number of its parts now.
    """

    topology: Topology
    graph: CommGraph
    rebuilt: bool
    changed: bool
    parts_before: int
    parts: int


class Movement:
    """The devices' places, links and graph over virtual time.

    Args:
        config: The experiment; `devices.mobility` says how they move.
        channel: What the run's channel is made from; a second one is asked for links here.
        topology: The graph that the run starts with.
        graph: The same as methods use it.
        sketches: What the graph's groups are found from; see `Deployment`.
    """

    def __init__(
        self,
        config: Config,
        channel: ChannelSetup,
        topology: Topology,
        graph: CommGraph,
        sketches: SharedSketches | None = None,
    ) -> None:
        self._config, self._sketches = config, sketches
        self._model = mobility_model(config)
        self._setup = channel
        self._channel = channel.make()
        self._found: tuple[np.ndarray, Links] | None = None
        near = channel.linked(self._channel.candidate_links(config.topology.min_snr_db), 0.0)
        self._linked = decodable(self._channel, near)[0]
        self._built_from = self._linked
        self._built = topology
        self._now_s = 0.0
        self._parts = _parts(topology, channel.here(0.0))
        self.topology = topology
        self.graph = graph

    @classmethod
    def of(
        cls,
        config: Config,
        channel: ChannelSetup,
        topology: Topology,
        graph: CommGraph,
        sketches: SharedSketches | None = None,
    ) -> Movement | None:
        """Make the movement of a run, None where its devices stand still and stay on; arguments as for the class."""
        return None if config.devices.keep_graph else cls(config, channel, topology, graph, sketches)

    @property
    def positions_m(self) -> np.ndarray:
        """(devices, 2) where they are, metres."""
        return self.topology.positions_m

    @property
    def velocity_mps(self) -> np.ndarray | None:
        """(devices, 2) their velocities, m/s; None where the mobility model does not know them."""
        return getattr(self._model, "velocity_mps", None)

    def advance(self, to_s: float, round_index: int) -> Moved:
        """Move everybody to a virtual time and see which links and which graph there are.

        Args:
            to_s: Virtual time in s, not before that of the last call.
            round_index: The round that begins then.

        Returns:
            What holds for the round.

        Raises:
            RunError: The graph cannot be built from the links there are, or the mobility model does not say where every
                device is.
        """
        were_m = self.positions_m.copy()
        positions = self._stepped(max(0.0, to_s - self._now_s), round_index)
        self._now_s = max(to_s, self._now_s)
        self._channel.move(positions)
        before, here = self._parts, self._setup.here(self._now_s)
        rebuilt = self._rebuild(positions, round_index)
        self.topology = self._built if rebuilt else self._measured(positions)
        self._parts = _parts(self._built, here)
        changed = rebuilt or not np.array_equal(were_m, positions)
        return Moved(self.topology, self.graph, rebuilt, changed, before, self._parts)

    def _stepped(self, dt_s: float, round_index: int) -> np.ndarray:
        """(devices, 2) where the mobility model, which may be a package's own, has the devices some seconds later."""
        from topology import answers
        from topology.registry import ask

        what = f"mobility model {self._config.devices.mobility.type!r}"
        try:
            return answers.positions(what, ask(what, self._model.step, dt_s), len(self.positions_m))
        except ValueError as error:
            raise RunError(
                f"`devices.mobility` cannot be carried out in round {round_index}: {error}"
            ) from error

    def _rebuild(self, positions: np.ndarray, round_index: int) -> bool:
        """Update the links, and build the graph anew if they have changed enough; says whether it was."""
        from topology import mobility

        section, least_db = self._config.devices.mobility, self._config.topology.min_snr_db
        low_db = least_db - section.hysteresis_db
        pairs, snr_db = self._setup.linked(self._candidates(positions, low_db), self._now_s)
        kept = mobility.update_links(
            self._linked, pairs, snr_db, appear_db=least_db, vanish_db=low_db, nodes=len(positions)
        )
        links = decodable(self._channel, (pairs[kept], snr_db[kept]))
        self._linked = links[0]
        if not mobility.needs_rebuild(
            self._built, self._built_from, self._linked, changed_share=section.rebuild_share
        ):
            return False
        try:
            built = graph_on(
                self._config.topology,
                self._config.seed,
                self._channel,
                positions,
                self._built.mixture,
                links,
                self._sketches,
            )
            new = graph_for(self._config, built)
        except ValueError as error:
            raise RunError(
                f"In round {round_index} no graph can be built from the links that the devices have after moving: "
                f"{error}"
            ) from error
        self._built, self._built_from = built, self._linked
        self.graph = succeed(self.graph, new, self._built.mixture > 0, round_index)
        return True

    def _candidates(self, positions: np.ndarray, low_db: float) -> Links:
        """Pairs whose mean SNR reaches a bound; those of devices that have not moved are known already."""
        if self._found is None or not np.array_equal(self._found[0], positions):
            self._found = positions.copy(), self._channel.candidate_links(low_db)
        return self._found[1]

    def _measured(self, positions: np.ndarray) -> Topology:
        """The links of the last build, with the figures they have now."""
        from topology.links import lengths_m

        edges = self._built.edges
        ends = edges[:, 0], edges[:, 1]
        snr_db = self._channel.mean_snr_db(*ends)
        within = snr_db >= self._config.topology.min_snr_db - self._config.devices.mobility.hysteresis_db
        return replace(
            self._built, positions_m=positions, length_m=lengths_m(positions, edges),
            mean_snr_db=np.where(within, snr_db, np.nan),
            airtime_s_per_mb=np.where(within, self._channel.airtime_s_per_mb(*ends), np.nan),
            energy_j_per_mb=np.where(within, self._channel.energy_j_per_mb(*ends), np.nan),
        )  # fmt: skip

    def snapshot(self) -> dict[str, np.ndarray]:
        """All state as arrays by name; the names begin with `PREFIX`."""
        graph = self.graph
        built = {k: v for k, v in self._built.to_arrays().items() if k != "name"}
        own = {
            "now_s": np.array(self._now_s),
            "since": np.array(graph.since),
            "linked": self._linked,
            "built_from": self._built_from,
            "grown": _table([(*key, at) for key, at in sorted(graph.grown.items())], 3),
            "authors": _table([(t, a) for t, found in graph.authors.items() for a in sorted(found)], 2),
            **{f"model/{name}": np.asarray(value) for name, value in self._model.snapshot().items()},
            **{f"built/{name}": value for name, value in built.items()},
        }
        return {PREFIX + name: np.array(value) for name, value in own.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the state of a snapshot, bit for bit.

        Args:
            state: Arrays by name; those whose names do not begin with `PREFIX` are not looked at.
        """
        from topology import Topology

        own = {k.removeprefix(PREFIX): np.asarray(v) for k, v in state.items() if k.startswith(PREFIX)}
        # A checkpoint keeps a number as an array of one.
        shapes = {name: np.shape(value) for name, value in self._model.snapshot().items()}
        self._model.restore({name: own[f"model/{name}"].reshape(shape) for name, shape in shapes.items()})
        self._now_s = own["now_s"].item()
        self._linked, self._built_from = own["linked"], own["built_from"]
        built = {k.removeprefix("built/"): v for k, v in own.items() if k.startswith("built/")}
        self._built = Topology.from_arrays({**built, "name": np.array(self._built.name)})
        self._channel.move(self._model.positions_m)
        self.topology = self._measured(self._model.positions_m)
        self._parts = _parts(self._built, self._setup.here(self._now_s))
        grown = {(t, a): at for t, a, at in own["grown"].tolist()}
        authors: dict[int, frozenset[int]] = {}
        for task, author in own["authors"].tolist():
            authors[task] = authors.get(task, frozenset()) | {author}
        graph = graph_for(self._config, self._built)
        self.graph = replace(graph, since=own["since"].item(), grown=grown, authors=authors)


def _parts(topology: Topology, here: np.ndarray) -> int:
    """Number of parts that the devices that are here fall into; at least 1."""
    return max(1, len(np.unique(topology.components[here])))


def _table(rows: list[tuple[int, ...]], width: int) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, width)
