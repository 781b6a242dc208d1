"""What all methods with one adapter for all tasks of a device have in common: everything but the exchange."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic

import numpy as np
import torch

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import Factor, Layout, dense_of, dense_values
from dfl_ray.lora.projection import common_factors
from dfl_ray.lora.stacks import tensors_of
from dfl_ray.methods.base import Context, Delivery, Device, Expert, Factors, Outgoing, S
from dfl_ray.methods.laws import Planned, rank_of
from dfl_ray.methods.spec import method_spec
from dfl_ray.wire.codec import Precision
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, pack


class SharedAdapter(ABC, Generic[S]):
    """One adapter a device, for all its tasks; a subclass says how it is filled into messages and mixed.

    Which factors the adapter stores and what is sent follow from the method's specification (`methods.spec`): without
    "a" a common A is drawn once and never changes.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        spec = method_spec(context.config)
        self.context = context
        self.layout = Layout(context.layers, context.config.rank, spec.trains, context.ups)
        self.law = spec.law(context.law_context(self.layout))
        self.ranks = context.config.device_ranks
        if max(self.ranks) > context.config.rank:
            raise InputError(
                f"`method.ranks` holds {max(self.ranks)}",
                expected=f"ranks of at most `method.rank` = {context.config.rank}",
                change="Raise `method.rank` or lower the ranks.",
            )

    def adapter_tasks(self, device: int) -> tuple[int, ...]:
        """One adapter for all tasks."""
        return (SHARED_TASK,)

    @abstractmethod
    def memory(self, device: int) -> S:
        """See `Method.memory`."""

    def planned(self, device: Device[S], round_index: int) -> list[Planned]:
        """The messages that the traffic law asks a device for."""
        return self.law.messages(device.index, device.memory.traffic, round_index)

    def message(
        self, device: Device[S], planned: Planned, body: bytes, precision: Precision | None = None
    ) -> Outgoing:
        """Put a body into a message that the traffic law asks for.

        Args:
            device: The sender.
            planned: What the law says of it.
            body: What it says, as many bytes as the law says.
            precision: Number format of the body's values; None: that of the run.

        Returns:
            The message with its bytes.
        """
        said, run = precision or self.context.config.precision, self.context.run
        message = Message(Kind.ADAPTER, SHARED_TASK, device.index, planned.version, run, 0, said, body)
        return Outgoing(planned, pack(message))

    def rank_of(self, device: int) -> int:
        """A device's own rank."""
        return rank_of(self.ranks, device)

    def rank_keep(self, device: int) -> np.ndarray | None:
        """Mark the entries inside a device's own rank r_i: the first r_i rows of A and columns of B.

        Args:
            device: The device.

        Returns:
            (size,) bool; None where r_i is the layout's rank.
        """
        rank = self.rank_of(device)
        if rank == self.layout.rank:
            return None
        keep = np.zeros(self.layout.size, bool)
        for s in self.layout.segments:
            inside = keep[s.start : s.stop].reshape(s.shape)
            inside[(slice(rank), slice(None)) if s.factor == "a" else (slice(None), slice(rank))] = True
        return keep

    def start(self, device: int) -> torch.Tensor:
        """Draw the first adapter: A ~ U(-1/sqrt(d), 1/sqrt(d)), the same on every device inside its rank; B = 0.

        Args:
            device: The device.

        Returns:
            (1, size) float32; see `lora.projection.common_factors`.
        """
        return self.fresh(device)

    def fresh(self, device: int, *key: int) -> torch.Tensor:
        """Draw a start of its own for each `key`, as `start` does.

        Args:
            device: The device, whose rank counts.
            key: Numbers that name the draw.

        Returns:
            (1, size) float32, 0 outside the device's rank.
        """
        flat = torch.zeros(1, self.layout.size)
        if "a" in self.layout.trains:
            drawn = common_factors(self.context.seed, self.context.layers, self.layout.rank, *key)
            for view, a in zip(self.layout.views(flat, "a"), drawn, strict=True):
                view.copy_(torch.from_numpy(a))
        keep = self.rank_keep(device)
        if keep is not None:
            flat[:, torch.from_numpy(~keep)] = 0
        return flat

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """Give the common A where it is not trained.

        Args:
            owners: (device, adapter task) of each adapter.

        Returns:
            One (owners, r, d) float32 stack a layer, without copies; None where A is trained.
        """
        if "a" in self.layout.trains:
            return None
        return [a.expand(len(owners), -1, -1) for a in tensors_of(self.context.projections)]

    def router_a(self, device: int) -> Sequence[torch.Tensor] | None:
        """No router."""
        return None

    def frozen(self, devices: Sequence[Device[S]]) -> list[Factors] | None:
        """Nothing is added to the adapter."""
        return None

    @property
    def scale(self) -> float:
        """Scale of the adapter's product, s = alpha / r (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""
        return self.context.config.alpha / self.context.config.rank

    def begin(self, device: Device[S], round_index: int) -> None:
        """Nothing to prepare."""
        return None

    def keep(self, device: Device[S], round_index: int) -> torch.Tensor | None:
        """All that is trained may change, where the traffic law has a device train at all."""
        return None

    @abstractmethod
    def outgoing(self, device: Device[S], round_index: int) -> list[Outgoing]:
        """See `Method.outgoing`."""

    @abstractmethod
    def incoming(
        self,
        device: Device[S],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """See `Method.incoming`."""

    def expert(self, device: Device[S], task: int) -> Expert | None:
        """The one adapter answers everything; devices may have equal ones, as those of a server have."""
        digest = contents_digest(values_of(device))
        return Expert(("own", device.index, 0), device.state.theta[0], digest=digest)

    def sketches(self, device: Device[S]) -> tuple[tuple[object, ...], Callable[[], np.ndarray]] | None:
        """No router."""
        return None

    def density(self, device: Device[S]) -> float:
        """Share of the adapter's entries inside the device's rank, in (0, 1]."""
        keep = self.rank_keep(device.index)
        return 1.0 if keep is None else float(keep.mean())

    def masks(self, device: Device[S]) -> dict[int, np.ndarray]:
        """No masks."""
        return {}


def merged_factors(layout: Layout, merged: np.ndarray | None, scale: float) -> list[Factors]:
    """Write a merged update M as a frozen pair a layer: A0 = I, B0 = M / s where d <= m, else A0 = M / s, B0 = I.

    Either way s B0 A0 = M, so that the update is added like an adapter.

    Args:
        layout: Says the layers' sizes.
        merged: All layers' (m, d) one after the other; None is 0.
        scale: s > 0.

    Returns:
        One (R, d) and (m, R) pair a layer, R = min(m, d).
    """
    flat = np.zeros(dense_values(layout.layers), np.float32) if merged is None else merged
    out: list[Factors] = []
    for update in dense_of(layout.layers, flat):
        dense, (m, d) = torch.from_numpy(update / scale).float(), update.shape
        out.append((torch.eye(d), dense) if d <= m else (dense, torch.eye(m)))
    return out


def values_of(device: Device[Any]) -> np.ndarray:
    """Read the one adapter of a device.

    Args:
        device: The device.

    Returns:
        (size,) float32, not to be written to, and of use until the adapter changes.
    """
    return device.state.theta[0].cpu().numpy()


def contents_digest(*parts: np.ndarray | None) -> bytes:
    """Name what a device answers with by its bits, so that equal adapters are asked once.

    Args:
        parts: Its arrays, contiguous; the same number from all devices of a run. None is an array of its own.

    Returns:
        BLAKE2b of 128 bits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"none" if part is None else np.int64(part.nbytes).tobytes())
        digest.update(b"" if part is None else part.reshape(-1).view(np.uint8).data)
    return digest.digest()


def put_values(device: Device[Any], values: np.ndarray) -> None:
    """Give a device other values of its one adapter, in place.

    Args:
        device: The device.
        values: (size,), rounded to float32.
    """
    device.state.theta[0].copy_(torch.from_numpy(np.asarray(values, np.float32)))


def reset_moments(device: Device[Any]) -> None:
    """Set both moments and the step counts to 0, for adapters whose values have been replaced by others.

    Args:
        device: The device; its optimiser state changes in place.
    """
    for values in (device.state.exp_avg, device.state.exp_avg_sq, device.state.steps):
        values.zero_()


def factor_keep(layout: Layout, factor: Factor) -> np.ndarray:
    """Mark the entries of one factor.

    Args:
        layout: Where the factors lie.
        factor: "a" or "b"; none is marked if it is not stored.

    Returns:
        (size,) bool.
    """
    keep = np.zeros(layout.size, bool)
    for s in layout.of(factor):
        keep[s.start : s.stop] = True
    return keep
