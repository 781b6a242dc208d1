"""What all methods with one adapter for all tasks of a device have in common: everything but the exchange."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import Factor, Layout
from dfl_ray.lora.projection import common_factors
from dfl_ray.methods.base import Context, Delivery, Device, Expert, Factors, Outgoing
from dfl_ray.methods.spec import MERGED
from dfl_ray.wire.message import SHARED_TASK


class SharedAdapter(ABC):
    """One adapter a device, for all its tasks; a subclass says what is sent and how it is mixed.

    Args:
        context: The run.
        trains: Factors stored in the adapter; without "a" a common A is drawn once and never changes.
        ranks: Ranks handed to the devices in turn; None = `rank` for all.
        sources: Device -> devices whose rows it trains on; None = its own.
    """

    rule = "single"

    def __init__(
        self,
        context: Context,
        trains: tuple[Factor, ...] = ("a", "b"),
        ranks: tuple[int, ...] | None = None,
        sources: Callable[[int], tuple[int, ...]] | None = None,
    ) -> None:
        self.context = context
        self.layout = Layout(context.layers, context.config.rank, trains)
        self.ranks = ranks or (context.config.rank,)
        self._sources = sources
        if max(self.ranks) > context.config.rank:
            raise InputError(
                f"`method.ranks` holds {max(self.ranks)}",
                expected=f"ranks of at most `method.rank` = {context.config.rank}",
                change="Raise `method.rank` or lower the ranks.",
            )

    def adapter_tasks(self, device: int) -> tuple[int, ...]:
        """One adapter for all tasks."""
        return (SHARED_TASK,)

    def sources(self, device: int) -> tuple[int, ...]:
        """The devices whose rows a device trains on."""
        return (device,) if self._sources is None else self._sources(device)

    def rank_of(self, device: int) -> int:
        """A device's own rank."""
        return self.ranks[device % len(self.ranks)]

    def rank_keep(self, device: int) -> np.ndarray | None:
        """(size,) bool of the entries inside a device's own rank; None = all."""
        rank = self.rank_of(device)
        if rank == self.layout.rank:
            return None
        keep = np.zeros(self.layout.size, bool)
        for s in self.layout.segments:
            inside = keep[s.start : s.stop].reshape(s.shape)
            inside[(slice(rank), slice(None)) if s.factor == "a" else (slice(None), slice(rank))] = True
        return keep

    def start(self, device: int) -> torch.Tensor:
        """A ~ U(-1/sqrt(d), 1/sqrt(d)) (PEFT's Kaiming start), the same on every device; B = 0."""
        return self.fresh(device)

    def fresh(self, device: int, *key: int) -> torch.Tensor:
        """A start of its own for each `key`, (1, size)."""
        flat = torch.zeros(1, self.layout.size)
        if "a" in self.layout.trains:
            for view, a in zip(self.layout.views(flat, "a"), self._common_a(*key), strict=True):
                view.copy_(torch.from_numpy(a))
        keep = self.rank_keep(device)
        if keep is not None:
            flat[:, torch.from_numpy(~keep)] = 0
        return flat

    def _common_a(self, *key: int) -> list[np.ndarray]:
        return common_factors(self.context.seed, self.context.layers, self.layout.rank, *key)

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """The common A where it is not trained."""
        if "a" in self.layout.trains:
            return None
        return [torch.from_numpy(a).float().expand(len(owners), -1, -1) for a in self._common_a()]

    def frozen(self, devices: Sequence[Device]) -> list[Factors] | None:
        """The dense updates devices have merged into their own base, if any (`methods.flora`)."""
        if not any(MERGED in d.memory for d in devices):
            return None
        pairs = [merged_factors(self.layout, d.memory.get(MERGED), self._scale) for d in devices]
        return [
            (torch.stack([p[i][0] for p in pairs]), torch.stack([p[i][1] for p in pairs]))
            for i in range(len(self.context.layers))
        ]

    @property
    def _scale(self) -> float:
        return self.context.config.alpha / self.context.config.rank

    @abstractmethod
    def begin(self, device: Device, round_index: int) -> None:
        """See `Method.begin`."""

    @abstractmethod
    def keep(self, device: Device, round_index: int) -> torch.Tensor | None:
        """See `Method.keep`."""

    @abstractmethod
    def outgoing(self, device: Device, round_index: int) -> list[Outgoing]:
        """See `Method.outgoing`."""

    @abstractmethod
    def incoming(
        self,
        device: Device,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """See `Method.incoming`."""

    def neighbours(self, device: Device) -> tuple[int, ...]:
        """The device's neighbours on the whole graph."""
        return tuple(sorted(self.context.graph.weights.get(device.index, {})))

    def expert(self, device: Device, task: int) -> Expert | None:
        """The one adapter answers everything."""
        merged = device.memory.get(MERGED)
        frozen = None if merged is None else merged_factors(self.layout, merged, self._scale)
        return Expert(("own", device.index, 0), device.state.theta[0], frozen)

    def sketches(self, device: Device) -> tuple[tuple[object, ...], np.ndarray] | None:
        """No router."""
        return None

    def density(self, device: Device) -> float:
        """Share of the adapter inside the device's rank."""
        keep = self.rank_keep(device.index)
        return 1.0 if keep is None else float(keep.mean())

    def masks(self, device: Device) -> dict[int, np.ndarray]:
        """No masks."""
        return {}


def merged_factors(layout: Layout, merged: np.ndarray | None, scale: float) -> list[Factors]:
    """The merged update as a frozen pair a layer: A0 = I, B0 = update / s where d <= m, else the other way."""
    out: list[Factors] = []
    start = 0
    for layer in layout.layers:
        m, d = layer.out_features, layer.in_features
        dense = torch.zeros(m, d)
        if merged is not None:
            dense = torch.from_numpy(merged[start : start + m * d].reshape(m, d) / scale).float()
        start += m * d
        out.append((torch.eye(d), dense) if d <= m else (dense, torch.eye(m)))
    return out


def reset_moments(device: Device) -> None:
    """A fresh optimiser, for adapters whose values have been replaced by others."""
    for values in (device.state.exp_avg, device.state.exp_avg_sq, device.state.steps):
        values.zero_()


def factor_keep(layout: Layout, factor: Factor) -> np.ndarray:
    """(size,) bool of one factor's entries."""
    keep = np.zeros(layout.size, bool)
    for s in layout.of(factor):
        keep[s.start : s.stop] = True
    return keep
