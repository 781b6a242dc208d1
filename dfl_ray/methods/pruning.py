"""Masks of one task, agreed by its holders: the author chooses, a published update announces, all switch in one round.

The author of a task ranks the entries of its own mixed |B| (a gossip average over its neighbourhood), keeps the
largest under a cubic density schedule, and announces the mask with the round in which it comes into force, late
enough for the published update to reach every holder. Masks are nested, so an old message still fits a newer mask.

Departure: the design averages |B| over the whole cluster; an exact average would cost a tree aggregation of
dense values each time, and after gossip mixing the author's own B is already close to that average.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import choose_mask, cubic_density
from dfl_ray.methods import published
from dfl_ray.methods.base import Context, Device
from dfl_ray.methods.bidding import Bidding
from dfl_ray.wire.codec import CodecError, decode_mask, encode_mask
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal, mask_hash

_BODY = struct.Struct("<I")
KEPT_PAST_VERSIONS = 2


def update_rounds(config: SparseOrthogonalConfig, rounds: int) -> dict[int, float]:
    """Round -> density of the mask announced in it, by the cubic schedule; empty when nothing is pruned."""
    if config.density >= 1.0:
        return {}
    start, end = config.prune_start * rounds, config.prune_end * rounds
    steps = max(1, min(config.prune_steps, int(end - start)))
    at = {step: max(1, round(start + (end - start) * step / steps)) for step in range(1, steps + 1)}
    return {r: cubic_density(step, steps, config.density) for step, r in at.items() if r <= rounds}


class Pruning:
    """Masks of the tasks a device holds.

    Args:
        context: The run.
        layout: Where the layers' B lie.
    """

    def __init__(self, context: Context, layout: Layout) -> None:
        assert isinstance(context.config, SparseOrthogonalConfig)
        self.context = context
        self.config = context.config
        self.layout = layout
        self.schedule = update_rounds(self.config, context.rounds)
        self.bidding = Bidding(context, layout) if self.config.disjoint else None

    def current(self, device: Device, task: int) -> np.ndarray | None:
        """The mask in force, (size,) bool, or None while dense."""
        version = device.marks.get(f"mask/{task}", 0)
        return self._stored(device, task, version) if version else None

    def by_hash(self, device: Device, task: int, wanted: int) -> np.ndarray | None:
        """The mask with a hash, among those the device knows; None while dense.

        Raises:
            MessageError: The device does not know it.
        """
        if wanted == 0:
            return None
        prefix = f"mask/{task}/"
        for name, packed in device.memory.items():
            if name.startswith(prefix):
                mask = np.unpackbits(packed, count=self.layout.size).astype(bool)
                if mask_hash(mask) == wanted:
                    return mask
        raise MessageError(Refusal.UNKNOWN_MASK, f"mask {wanted:#x} of task {task}")

    def activate(self, device: Device, task: int, adapter_index: int, round_index: int) -> None:
        """Put the newest mask whose round has come into force: clear what it drops, moments included."""
        current = device.marks.get(f"mask/{task}", 0)
        due = [
            version
            for version in self._versions(device, task)
            if version > current and device.marks[f"mask_round/{task}/{version}"] <= round_index
        ]
        if not due:
            return
        device.marks[f"mask/{task}"] = max(due)
        mask = self._stored(device, task, max(due))
        for values in (device.state.theta, device.state.exp_avg, device.state.exp_avg_sq):
            values[adapter_index, ~mask] = 0
        residual = device.memory.get(f"residual/{task}")
        if residual is not None:
            device.memory.pop(f"residual/{task}")
        past = [version for version in self._versions(device, task) if version < max(due)]
        for old in past[:-KEPT_PAST_VERSIONS]:
            device.memory.pop(f"mask/{task}/{old}")
            device.marks.pop(f"mask_round/{task}/{old}")

    def announce(
        self, device: Device, task: int, adapter_index: int, round_index: int, scores: Sequence[float] | None
    ) -> None:
        """If an update is due and this device is the task's author: choose the next mask and publish it."""
        author = self.context.graph.authority[task, device.index]
        if author != device.index:
            return
        allowed = self._newest(device, task)
        density = self.schedule.get(round_index)
        if self.bidding is not None:
            density, allowed = self._inside_own_rows(device, task, adapter_index, round_index, allowed)
        if density is None:
            return
        mask = choose_mask(
            device.state.theta[adapter_index].abs().cpu().numpy(), allowed, self.layout, density, kind=self.config.mask,
            budget=self.config.budget, scores=scores, exponent=self.config.budget_exponent,
            least=self.config.budget_min,
        )  # fmt: skip
        depth = self.context.graph.holders[task, author].depth
        in_force = round_index + depth + 1
        body = _BODY.pack(in_force) + encode_mask(mask)
        message = Message(
            Kind.MASK, task, device.index, round_index, self.context.run, mask_hash(mask), "float32", body
        )
        published.publish(device, message)
        self._store(device, task, round_index, mask, in_force)

    def _inside_own_rows(
        self, device: Device, task: int, adapter_index: int, round_index: int, allowed: np.ndarray
    ) -> tuple[float | None, np.ndarray]:
        """`disjoint`: bid in time; a mask that is due waits until the task knows its rows."""
        assert self.bidding is not None
        depth = max(tree.depth for tree in self.context.graph.everyone.values())
        if self.schedule and round_index >= min(self.schedule) - depth:
            self.bidding.publish(device, task, adapter_index, round_index)
        due = [r for r in self.schedule if device.marks.get(f"mask_due/{task}", 0) < r <= round_index]
        if not due:
            return None, allowed
        owned = self.bidding.owned(device, task)
        if owned is None:
            return None, allowed
        device.marks[f"mask_due/{task}"] = max(due)
        return self.schedule[max(due)], allowed & owned

    def take_in(self, device: Device, message: Message) -> None:
        """Keep an announced mask; a relay that does not hold the task only passes it on.

        Raises:
            MessageError: It does not decode.
        """
        task = message.task
        try:
            (in_force,) = _BODY.unpack(message.body[: _BODY.size])
            mask = decode_mask(message.body[_BODY.size :], self.layout.size)
        except (CodecError, struct.error) as error:
            raise MessageError(Refusal.CORRUPTED, str(error)) from error
        if mask_hash(mask) != message.mask_hash:
            raise MessageError(Refusal.CORRUPTED, "mask hash differs")
        if published.accept(device, message) and task in device.adapter_tasks:
            self._store(device, task, message.version, mask, in_force)

    def _versions(self, device: Device, task: int) -> list[int]:
        prefix = f"mask/{task}/"
        return sorted(int(name[len(prefix) :]) for name in device.memory if name.startswith(prefix))

    def _stored(self, device: Device, task: int, version: int) -> np.ndarray:
        return np.unpackbits(device.memory[f"mask/{task}/{version}"], count=self.layout.size).astype(bool)

    def _newest(self, device: Device, task: int) -> np.ndarray:
        versions = self._versions(device, task)
        return self._stored(device, task, versions[-1]) if versions else np.ones(self.layout.size, bool)

    def _store(self, device: Device, task: int, version: int, mask: np.ndarray, in_force: int) -> None:
        device.memory[f"mask/{task}/{version}"] = np.packbits(mask)
        device.marks[f"mask_round/{task}/{version}"] = in_force
