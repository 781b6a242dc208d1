"""The traffic law of methods with an expert a task: same-task exchanges, and updates that authors publish along trees.

The author of a task publishes what must be equal for all: its input sketch and, where it is sent, its projection
once; bids for rows once, before pruning starts; masks by the cubic schedule; its expert every E rounds. A device
passes the newest update of each (kind, task) to its children in the author's tree, one hop a round, until the link
has acknowledged it: a lost hop is tried again in the next round, a newer version overtakes an older one. With
`method.publish: through` the author itself sends an expert to all devices of its tree, in one round, over relays.
Projections, bids and masks are sparse-and-orthogonal LoRA's alone; `local_per_task` exchanges nothing among holders and
publishes each expert once.

Lengths are exact for every setting but `method.budget: effective_rank`, where the layers' shares of a mask depend on
the rows seen; there the uniform budget's length is planned, and a run's differs by what rounding makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dfl_ray.config.methods import PerTaskConfig, Precision, ReplicasConfig, SparseOrthogonalConfig
from dfl_ray.lora.masks import cubic_density, kept_entries, layer_densities
from dfl_ray.methods.expert_traffic import AnnouncedMask, ExpertTraffic, HeldUpdate, TaskMasks
from dfl_ray.methods.laws import LawContext, Planned, adapter_bytes, exchange_due
from dfl_ray.network.comm_graph import Tree
from dfl_ray.wire.codec import encoded_size, mask_size
from dfl_ray.wire.message import HEADER_BYTES, Kind
from dfl_ray.wire.sketch import sketch_size

PUBLISHED_KINDS = (Kind.PROJECTION, Kind.SKETCH, Kind.BID, Kind.MASK, Kind.EXPERT)
"""Kinds of published updates, in the order in which a device passes them on."""
KEPT_PAST_VERSIONS = 2
"""Masks before the one in force that a device remembers, for messages that come late."""
ROUND_BYTES, LENGTH_BYTES = 4, 4
"""Bytes of the round in which a mask comes into force, and of the length of a mask inside an expert."""


def update_rounds(config: SparseOrthogonalConfig | None, rounds: int) -> dict[int, float]:
    """Lay out the pruning schedule: steps spread evenly from `prune_start` to `prune_end` of the run.

    Step k of K falls in round start + (end - start) k / K, rounded, and asks for the density of
    `lora.masks.cubic_density`.

    Source: Zhu and Gupta 2017 (arXiv 1710.01878), equation 1.

    Args:
        config: The method's section; `prune_start` and `prune_end` are shares of the run in [0, 1]. None: no masks.
        rounds: Rounds of the run.

    Returns:
        Round -> density of the mask announced in it; empty when nothing is pruned.
    """
    if config is None or config.density >= 1.0:
        return {}
    start, end = config.prune_start * rounds, config.prune_end * rounds
    steps = max(1, min(config.prune_steps, int(end - start)))
    at = {step: max(1, round(start + (end - start) * step / steps)) for step in range(1, steps + 1)}
    return {r: cubic_density(step, steps, config.density) for step, r in at.items() if r <= rounds}


class ExpertLaw:
    """The traffic law of methods with an expert a task; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: LawContext) -> None:
        config = context.config
        assert isinstance(config, PerTaskConfig)
        self.context = context
        self._sketch_precision: Precision = config.sketch_precision
        self.sparse = config if isinstance(config, SparseOrthogonalConfig) else None
        replicas = config if isinstance(config, ReplicasConfig) else None
        self.mixes = config.mixes
        self._mixed_first = replicas is not None and replicas.publish_mixed
        self._replicas_every = context.rounds if replicas is None else replicas.replicas_every
        self._disjoint = self.sparse is not None and self.sparse.disjoint
        self.schedule = update_rounds(self.sparse, context.rounds)
        self.exact_masks = self.sparse is None or self.sparse.budget != "effective_rank"
        graph = context.graph
        self._deepest = max((tree.depth for tree in graph.everyone.values()), default=0)
        self._refreshes = {
            (t, a): self._refresh_rounds(tree.depth) for (t, a), tree in graph.everyone.items()
        }
        self._new_rounds = set(self.schedule).union(*self._refreshes.values())
        mixed = self._refreshes.values() if self._mixed_first else ()
        self._before_new = {r - 1 for rounds in mixed for r in rounds}

    def _refresh_rounds(self, depth: int) -> frozenset[int]:
        """Every E rounds, timed so that the last refresh has reached the farthest device when the run ends.

        What goes through the tree in a round has one more round for what is lost.
        """
        waits = max(0, depth - 1)
        if self.context.config.through:
            waits = min(1, waits)
        last = max(1, self.context.rounds - waits)
        return frozenset(range(last, 0, -self._replicas_every))

    def start(self, device: int) -> ExpertTraffic:
        """Nothing held, all tasks dense."""
        return ExpertTraffic(masks={task: TaskMasks() for task in self.context.held[device]})

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows."""
        return (device,)

    def trains(self, device: int, state: ExpertTraffic, round_index: int) -> bool:
        """In every round."""
        return True

    def authored(self, device: int) -> tuple[int, ...]:
        """The held tasks whose author a device is."""
        authority = self.context.graph.authority
        return tuple(t for t in self.context.held[device] if authority.get((t, device)) == device)

    def busy(self, round_index: int) -> bool:
        """Where an exchange, a mask, a bid or a refresh is due, and in the first round."""
        due = self._exchange_due(round_index) or round_index in self._before_new
        return due or round_index == 1 or self._disjoint or round_index in self._new_rounds

    def _exchange_due(self, round_index: int) -> bool:
        return self.mixes and exchange_due(self.context.config, round_index, self.context.rounds)

    def _mixed(self, device: int, round_index: int) -> Iterator[int]:
        """The held tasks whose adapters are exchanged in a round."""
        due = self._exchange_due(round_index)
        for task in self.context.held[device] if due or self._mixed_first else ():
            author = self.context.graph.authority[task, device]
            if due or round_index + 1 in self._refreshes[task, author]:
                yield task

    def owes(self, device: int, state: ExpertTraffic) -> bool:
        """Whether a child lacks an update that the device holds."""
        return any(True for _ in self._forwards(device, state))

    def begin(self, device: int, state: ExpertTraffic, round_index: int) -> None:
        """Put due masks in force."""
        for task in state.masks:
            self.activate(state, task, round_index)

    def activate(self, state: ExpertTraffic, task: int, round_index: int) -> int:
        """Put the newest mask of a task whose round has come into force; of older ones keep `KEPT_PAST_VERSIONS`.

        Args:
            state: The device's traffic state.
            task: A task it holds.
            round_index: The round, from 1.

        Returns:
            The mask's version, or 0 where none was due.
        """
        masks = state.masks[task]
        due = [v for v, m in masks.known.items() if v > masks.current and m.in_force <= round_index]
        if not due:
            return 0
        masks.current = max(due)
        for old in sorted(v for v in masks.known if v < masks.current)[:-KEPT_PAST_VERSIONS]:
            del masks.known[old]
        return masks.current

    def publications(self, device: int, state: ExpertTraffic, round_index: int) -> Iterator[Planned]:
        """List what a device publishes in a round, one after the other; `publish` each before the next is asked for.

        Args:
            device: The device.
            state: Its traffic state.
            round_index: The round, from 1.

        Yields:
            Updates of the tasks it is the author of, without destinations.
        """
        for task in self.context.held[device]:
            author = self.context.graph.authority[task, device] == device
            if not author:
                continue
            sent = self.sparse is not None and self.sparse.a_exchange == "send"
            once = (Kind.SKETCH, *((Kind.PROJECTION,) if sent else ()))
            for kind in once:
                if (kind, task) not in state.held:
                    yield self._planned(kind, task, 1)
            if self._bid_due(state, task, round_index):
                yield self._planned(Kind.BID, task, round_index)
            density = self._mask_due(device, state, task, round_index)
            if density is not None:
                yield self._mask(device, task, density, round_index)
            if self._refresh_due(device, state, task, round_index):
                yield self._planned(Kind.EXPERT, task, round_index, self._kept(state, task))

    def _refresh_due(self, device: int, state: ExpertTraffic, task: int, round_index: int) -> bool:
        """Whether an author's expert is to be published: in its rounds; without a barrier late where it missed one."""
        held, rounds = state.held.get((Kind.EXPERT, task)), self._refreshes[task, device]
        if self.context.barrier:
            return round_index in rounds and not (held is not None and held.version == round_index)
        last = 0 if held is None else held.version
        return any(last < r <= round_index for r in rounds)

    def publish(self, state: ExpertTraffic, update: Planned) -> None:
        """Put an author's own new update in place."""
        self.accept(state, update)
        if update.kind is Kind.MASK:
            state.masks[update.task].announced = max(r for r in self.schedule if r <= update.version)

    def density_due(self, author: int, state: ExpertTraffic, task: int, round_index: int) -> float | None:
        """Find the density of the mask that is due: one of the schedule that has not been announced, if any.

        The newest is due anew where other holders have come into the author's part since then: they may have another.

        Args:
            author: The task's author.
            state: Its traffic state.
            task: The task.
            round_index: The round, from 1. Masks of past rounds are made up for only with `disjoint`, where bids may
                come late, and where devices do not wait for each other.

        Returns:
            Share of entries to keep, in (0, 1]; None where no mask is due.
        """
        due = [r for r in self.schedule if state.masks[task].announced < r <= round_index]
        if self.context.barrier and not self._disjoint:
            due = [r for r in due if r == round_index]
        newest = max(state.masks[task].known, default=0)
        if not due and 0 < newest < self.context.graph.grown.get((task, author), 0):
            due = [r for r in self.schedule if r <= round_index]
        return self.schedule[max(due)] if due else None

    def messages(self, device: int, state: ExpertTraffic, round_index: int) -> list[Planned]:
        """List updates owed to tree children, then the kept values to same-task neighbours.

        Args:
            device: The device.
            state: Its traffic state; new publications are entered into it.
            round_index: The round, from 1.

        Returns:
            The messages, in the order in which they are sent.
        """
        for update in self.publications(device, state, round_index):
            self.publish(state, update)
        out = list(self._forwards(device, state))
        for task in self._mixed(device, round_index):
            neighbours = tuple(sorted(self.context.graph.task_weights[task].get(device, {})))
            if neighbours:
                kept = self._kept(state, task)
                size = adapter_bytes(self.context.config, kept)
                sure = self.exact_masks or kept == self.context.layout.size
                out.append(Planned(Kind.ADAPTER, task, neighbours, size, round_index, sure, kept))
        return out

    def _forwards(self, device: int, state: ExpertTraffic) -> Iterator[Planned]:
        graph = self.context.graph
        for task in range(self.context.tasks):
            author = graph.authority.get((task, device))
            if author is None:
                continue
            for kind in PUBLISHED_KINDS:
                held = state.held.get((kind, task))
                if held is None:
                    continue
                trees = graph.holders if kind is Kind.MASK else graph.everyone
                children = self._next(trees[task, author], device, kind)
                known = state.acknowledged
                behind = tuple(c for c in children if known.get((kind, task, c), -1) < held.version)
                if behind:
                    yield Planned(
                        kind, task, behind, held.payload_bytes, held.version, held.exact, held.kept, held.in_force
                    )  # fmt: skip

    def _next(self, tree: Tree, device: int, kind: Kind) -> Sequence[int]:
        """The devices that a device sends an update on to."""
        if kind is not Kind.EXPERT or not self.context.config.through:
            return tree.children.get(device, ())
        return tree.devices if device == tree.root else ()

    def delivered(self, device: int, state: ExpertTraffic, message: Planned, reached: Sequence[int]) -> None:
        """Remember which children have acknowledged which version."""
        if message.kind is not Kind.ADAPTER:
            for child in reached:
                state.acknowledged[message.kind, message.task, child] = message.version

    def received(self, device: int, state: ExpertTraffic, message: Planned) -> None:
        """Keep a newer update."""
        if message.kind is not Kind.ADAPTER:
            self.accept(state, message)

    def accept(self, state: ExpertTraffic, update: Planned) -> bool:
        """Keep an update if it is newer than what is held.

        Args:
            state: The device's traffic state.
            update: The update.

        Returns:
            Whether it was newer.
        """
        held = state.held.get((update.kind, update.task))
        if held is not None and update.version <= held.version:
            return False
        state.held[update.kind, update.task] = HeldUpdate(
            update.version, update.payload_bytes, update.exact, update.kept, update.in_force
        )
        if update.kind is Kind.MASK and update.task in state.masks:
            known = state.masks[update.task].known
            known[update.version] = AnnouncedMask(update.kept, update.in_force)
        return True

    def _bid_due(self, state: ExpertTraffic, task: int, round_index: int) -> bool:
        if not self._disjoint or not self.schedule or (Kind.BID, task) in state.held:
            return False
        return round_index >= min(self.schedule) - self._deepest

    def _mask_due(self, device: int, state: ExpertTraffic, task: int, round_index: int) -> float | None:
        density = self.density_due(device, state, task, round_index)
        waits = self._disjoint and not all((Kind.BID, t) in state.held for t in self.present(device))
        return None if waits else density

    def present(self, device: int) -> list[int]:
        """The tasks that somebody in the device's part of the graph holds."""
        return [t for t in range(self.context.tasks) if (t, device) in self.context.graph.authority]

    def _kept(self, state: ExpertTraffic, task: int) -> int:
        """Values of an adapter under the mask in force."""
        masks = state.masks[task]
        return masks.known[masks.current].kept if masks.current else self.context.layout.size

    def _mask(self, device: int, task: int, density: float, round_index: int) -> Planned:
        author = self.context.graph.authority[task, device]
        in_force = round_index + self.context.graph.holders[task, author].depth + 1
        kept = self._chosen(density, self.present(device), task)
        size = HEADER_BYTES + ROUND_BYTES + mask_size(kept, self.context.layout.size)
        exact = self.exact_masks and self._exact_mask(kept)
        return Planned(Kind.MASK, task, (), size, round_index, exact, kept, in_force)

    def _chosen(self, density: float, present: Sequence[int], task: int) -> int:
        """Entries that `lora.masks.choose_mask` keeps at a density."""
        sparse = self.sparse
        assert sparse is not None, "only sparse-and-orthogonal LoRA has masks"
        segments, by_row = self.context.layout.of("b"), sparse.mask == "row"
        width = sparse.rank if by_row else 1
        sizes = [s.shape[0] if by_row else s.stop - s.start for s in segments]
        rows = [s.shape[0] for s in segments]
        place, tasks = present.index(task), len(present)
        owned = [m // tasks + (place < m % tasks) if sparse.disjoint else m for m in rows]
        most = [n if by_row else n * sparse.rank for n in owned]
        if sparse.budget == "global":
            least = sum(m > 0 for m in most)
            return width * min(max(least, round(density * sum(sizes))), sum(most))
        shares = layer_densities(
            sizes,
            density,
            [1.0] * len(sizes),
            exponent=sparse.budget_exponent,
            least=sparse.budget_min,
        )
        return width * sum(
            min(kept_entries(float(k), n), m) for k, n, m in zip(shares, sizes, most, strict=True)
        )

    def _exact_mask(self, kept: int) -> bool:
        """Whether a mask's encoded length depends on nothing but how many entries it keeps."""
        size = self.context.layout.size
        return size < 2**16 or 2 * kept >= -(-size // 8)

    def _planned(self, kind: Kind, task: int, version: int, kept: int = 0) -> Planned:
        layout, rank, precision = self.context.layout, self.context.config.rank, self.context.config.precision
        if kind is Kind.SKETCH:
            width = self.context.tasks * rank
            body = sketch_size(self._sketch_precision, self.context.router_layers, width)
        elif kind is Kind.PROJECTION:
            body = encoded_size(sum(rank * s.in_features for s in layout.layers), "float32")
        elif kind is Kind.BID:
            body = encoded_size(sum(s.shape[0] for s in layout.of("b")), "float16")
        else:
            body = LENGTH_BYTES + mask_size(kept, layout.size) + encoded_size(kept, precision)
        sure = kind is not Kind.EXPERT or kept == layout.size or (self.exact_masks and self._exact_mask(kept))
        return Planned(kind, task, (), HEADER_BYTES + body, version, sure, kept)
