"""On what devices train that have merged something into their base: beside it, or as a frozen adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfl_ray.engines.gpu.own_base import with_own_base
from dfl_ray.engines.memory import MERGED_BYTES
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.layout import dense_values
from dfl_ray.methods.base import Device, Factors, Method
from dfl_ray.methods.merged import OwnBase


def take_turns(method: Method, model: ScoredModel) -> bool:
    """Whether devices are trained one after the other, since each has a base of its own.

    Beside the base an update costs a second product; as a frozen adapter, whose rank is the layer's own, two. On a GPU
    small ones are frozen adapters, so that devices are trained together.

    Args:
        method: The learning method.
        model: The shared base.
    """
    if not isinstance(method, OwnBase) or model.large is None:
        return False
    return model.device.type == "cpu" or 4 * dense_values(method.layout.layers) > MERGED_BYTES


def base_and_frozen(
    method: Method, model: ScoredModel, devices: Sequence[Device[Any]]
) -> tuple[ScoredModel, list[Factors] | None]:
    """Give what some devices train on.

    Args:
        method: The learning method.
        model: The shared base.
        devices: Devices that are trained together, their round begun; one where they `take_turns`.

    Returns:
        The base, and what is added to each adapter without being trained.
    """
    if isinstance(method, OwnBase) and take_turns(method, model):
        (device,) = devices
        assert device.memory.merged is not None, "begin has not been called"
        return with_own_base(model, method.layout.layers, device.memory.merged), None
    return model, method.frozen(devices)
