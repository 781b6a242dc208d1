"""A device's own base: what FLoRA and FedEx-LoRA have merged into the frozen weights, which nobody sends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dfl_ray.lora.layout import dense_of, dense_values
from dfl_ray.methods.base import Device, Expert, Factors, MethodState
from dfl_ray.methods.shared import SharedAdapter, contents_digest, merged_factors, values_of


@dataclass
class MergedState(MethodState):
    """What a device keeps.

    Attributes:
        merged: The update merged into its base: all layers' (m, d), one after the other; None before the first round.
    """

    merged: np.ndarray | None = None


class OwnBase(SharedAdapter[MergedState]):
    """One adapter a device beside a dense update of the size of its adapted layers, which it keeps to itself.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> MergedState:
        """An empty merged update at the start."""
        return MergedState(self.law.start(device))

    def begin(self, device: Device[MergedState], round_index: int) -> None:
        """Make room for the merged update, zeros of all layers' m d entries, in the first round."""
        if device.memory.merged is None:
            device.memory.merged = np.zeros(dense_values(self.context.layers), np.float32)

    def frozen(self, devices: Sequence[Device[MergedState]]) -> list[Factors] | None:
        """Give the dense updates that devices have merged into their own base.

        Args:
            devices: The devices of a group.

        Returns:
            One pair a layer of stacks (devices, R, d) and (devices, m, R), R = min(m, d); see
            `shared.merged_factors`.
        """
        pairs = [merged_factors(self.layout, d.memory.merged, self.scale) for d in devices]
        return [
            (torch.stack([p[i][0] for p in pairs]), torch.stack([p[i][1] for p in pairs]))
            for i in range(len(self.context.layers))
        ]

    def expert(self, device: Device[MergedState], task: int) -> Expert | None:
        """The one adapter and the merged update answer everything."""
        frozen = partial(merged_factors, self.layout, device.memory.merged, self.scale)
        digest = contents_digest(values_of(device), device.memory.merged)
        return Expert(("own", device.index, 0), device.state.theta[0], frozen, digest)

    def merge(self, device: Device[MergedState], update: Iterable[np.ndarray]) -> None:
        """Add an update to the device's base: M <- M + update, in float64 before it is rounded to float32.

        Args:
            device: The device.
            update: (m, d) of every layer, the scale s included; taken one after the other, since all of them together
                are of the size of the base.
        """
        before = device.memory.merged
        assert before is not None, "begin has not been called"
        total, layers = np.empty_like(before), self.context.layers
        for into, own, layer in zip(dense_of(layers, total), dense_of(layers, before), update, strict=True):
            into[...] = own + layer
        device.memory.merged = total


def weighed_product(modules: Sequence[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute sum_j w_j B_j A_j as the one product [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...].

    Args:
        modules: Weight, B (m, r) and A (r, d) of each.

    Returns:
        (m, d) float64.
    """
    b = np.concatenate([w * np.asarray(b, np.float64) for w, b, _ in modules], axis=1)
    return b @ np.concatenate([np.asarray(a, np.float64) for _, _, a in modules])
