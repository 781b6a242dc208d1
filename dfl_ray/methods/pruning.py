"""Masks of one task, agreed by its holders: the author chooses, a published update announces, all switch in one round.

The author of a task ranks the entries of its own mixed |B| (a gossip average over its neighbourhood), keeps the
largest under a cubic density schedule, and announces the mask with the round in which it comes into force, late
enough for the published update to reach every holder. Masks are nested, so an old message still fits a newer mask.
When masks are due and which is in force is the traffic law's (`methods.expert_law`); here are their bits.

Departure: the design averages |B| over the whole cluster; an exact average would cost a tree aggregation of
dense values each time, and after gossip mixing the author's own B is already close to that average.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import choose_mask
from dfl_ray.methods.base import Context, Device
from dfl_ray.methods.bidding import Bidding
from dfl_ray.methods.exchange import ExchangeState
from dfl_ray.methods.expert_law import ExpertTraffic
from dfl_ray.methods.laws import Planned
from dfl_ray.wire.codec import CodecError, decode_mask, encode_mask
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal, mask_hash

_BODY = struct.Struct("<I")


@dataclass
class ExpertState(ExchangeState):
    """What a device keeps under sparse-and-orthogonal LoRA besides exchanged parts and published updates.

    Attributes:
        masks: (task, version) -> (bytes,) uint8, the mask's bits packed.
    """

    masks: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @property
    def law(self) -> ExpertTraffic:
        """The traffic law's state, which says which masks are known and in force."""
        return self.traffic


class Pruning:
    """Masks of the tasks a device holds; none under methods that stay dense.

    Args:
        context: The run.
        layout: Where the layers' B lie.
    """

    def __init__(self, context: Context, layout: Layout) -> None:
        config = context.config
        self.context = context
        self.config = config if isinstance(config, SparseOrthogonalConfig) else None
        self.layout = layout
        disjoint = self.config is not None and self.config.disjoint
        self.bidding = Bidding(context, layout) if disjoint else None

    def current(self, device: Device[ExpertState], task: int) -> np.ndarray | None:
        """The mask in force, (size,) bool, or None while dense."""
        version = device.memory.law.masks[task].current
        return self._stored(device, task, version) if version else None

    def by_hash(self, device: Device[ExpertState], task: int, wanted: int) -> np.ndarray | None:
        """Find the mask with a hash, among those the device knows.

        Args:
            device: The device.
            task: The task.
            wanted: The hash, see `wire.message.mask_hash`.

        Returns:
            (size,) bool; None where the hash says that everything is kept.

        Raises:
            MessageError: The device does not know it.
        """
        if wanted == 0:
            return None
        for of, version in device.memory.masks:
            if of == task:
                mask = self._stored(device, task, version)
                if mask_hash(mask) == wanted:
                    return mask
        raise MessageError(Refusal.UNKNOWN_MASK, f"mask {wanted:#x} of task {task}")

    def apply(self, device: Device[ExpertState], task: int, adapter_index: int, version: int) -> None:
        """Clear what a mask that has come into force drops, moments included, and forget masks of the past.

        Args:
            device: A holder of the task; its residual of the task starts from zero again.
            task: The task.
            adapter_index: Row of the device's adapters that holds the task.
            version: The mask's version.
        """
        mask = self._stored(device, task, version)
        for values in (device.state.theta, device.state.exp_avg, device.state.exp_avg_sq):
            values[adapter_index, ~mask] = 0
        device.memory.part(str(task)).residual = None
        known = device.memory.law.masks[task].known
        for key in [k for k in device.memory.masks if k[0] == task and k[1] not in known]:
            del device.memory.masks[key]

    def message(
        self, device: Device[ExpertState], planned: Planned, density: float, scores: Sequence[float] | None
    ) -> tuple[Message, np.ndarray]:
        """Choose the mask that the traffic law has planned: the largest |B| among what the newest mask keeps.

        Args:
            device: The task's author.
            planned: The announcement.
            density: Share of all entries to keep, in (0, 1].
            scores: The layers' scores, where the budget goes by them.

        Returns:
            The announcement and the mask, (size,) bool.
        """
        config, task = self.config, planned.task
        assert config is not None, "the law plans masks for sparse-and-orthogonal LoRA alone"
        allowed = self._newest(device, task)
        if self.bidding is not None:
            owned = self.bidding.owned(device, task)
            assert owned is not None, "the law waits for all bids"
            allowed = allowed & owned
        magnitude = device.state.theta[device.adapter_tasks.index(task)].abs().cpu().numpy()
        mask = choose_mask(
            magnitude, allowed, self.layout, density, kind=config.mask, budget=config.budget, scores=scores,
            exponent=config.budget_exponent, least=config.budget_min,
        )  # fmt: skip
        body = _BODY.pack(planned.in_force) + encode_mask(mask)
        message = Message(
            Kind.MASK, task, device.index, planned.version, self.context.run, mask_hash(mask), "float32", body
        )
        return message, mask

    def read(self, message: Message) -> tuple[np.ndarray, int]:
        """Decode an announcement.

        Args:
            message: The announcement.

        Returns:
            The mask, (size,) bool, and the round in which it comes into force.

        Raises:
            MessageError: It does not decode, its hash is not the mask's, or the run has no masks.
        """
        if self.config is None:
            raise MessageError(Refusal.FOREIGN, "a mask, but the method keeps every entry")
        try:
            (in_force,) = _BODY.unpack(message.body[: _BODY.size])
            mask = decode_mask(message.body[_BODY.size :], self.layout.size)
        except (CodecError, struct.error) as error:
            raise MessageError(Refusal.CORRUPTED, str(error)) from error
        if mask_hash(mask) != message.mask_hash:
            raise MessageError(Refusal.CORRUPTED, "mask hash differs")
        return mask, in_force

    def check_bid(self, message: Message) -> None:
        """Refuse a bid that does not decode, or any bid where masks are not bid for.

        Args:
            message: The bid.

        Raises:
            MessageError: Masks of this run need not be disjoint, or the bid's values are of another number, negative,
                NaN or infinite.
        """
        if self.bidding is None:
            raise MessageError(Refusal.FOREIGN, "a bid, but masks need not be disjoint in this run")
        self.bidding.check(message)

    def store(self, device: Device[ExpertState], task: int, version: int, mask: np.ndarray) -> None:
        """Keep the bits of an announced mask of a held task."""
        device.memory.masks[task, version] = np.packbits(mask)

    def _stored(self, device: Device[ExpertState], task: int, version: int) -> np.ndarray:
        return np.unpackbits(device.memory.masks[task, version], count=self.layout.size).astype(bool)

    def _newest(self, device: Device[ExpertState], task: int) -> np.ndarray:
        versions = [version for of, version in device.memory.masks if of == task]
        return self._stored(device, task, max(versions)) if versions else np.ones(self.layout.size, bool)
