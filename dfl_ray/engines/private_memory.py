"""What DP-SGD holds in memory beyond an ordinary step, from sizes alone; no torch is imported."""

from __future__ import annotations

from math import sqrt

from dfl_ray.config.schema import Config
from dfl_ray.engines.memory import VALUES_AT_ONCE, merged_mb, value_bytes
from dfl_ray.models.decoder import DecoderShape

ROW_VALUES = VALUES_AT_ONCE
"""Most values of the adapters' copies, one a row, that are differentiated at once on a CPU, or one row's."""

GPU_ROW_VALUES = 2**26
"""The same on a GPU, which has room for more and is faster with it."""

ROW_COPIES = 5
"""Arrays of so many values at once: copy, gradient, what autograd gives, its finite part, its clipped part."""


def private_mb(
    config: Config, shape: DecoderShape | None, values: int, row: float, adapters: int, devices: int
) -> float:
    """Memory that an actor on a CPU needs for DP-SGD beyond an ordinary step; 0 without it.

    `ROW_COPIES` float32 arrays of the rows' adapters with A, B and static factors, `ROW_VALUES` values at most or one
    row's; the sums of an actor's devices; and of the merged path, which merges an adapter a row in place of one a
    device, what `engines.memory.merged_mb` counts more. A step's rows are its mean number and three deviations.

    Args:
        config: The run.
        shape: The base model's shape; None of one that is none of the project's own decoders.
        values: Values of one adapter.
        row: Mean tokens of a training row.
        adapters: Adapters of a device.
        devices: Devices of the actor.

    Returns:
        Units of 2^20 bytes.
    """
    if config.privacy.mechanism != "examples":
        return 0.0
    method = config.method
    drawn = method.batch_rows + 3 * sqrt(method.batch_rows)
    layers = () if shape is None else shape.linear_layers()
    one = 2 * values + method.rank * sum(layer.in_features + layer.out_features for layer in layers)
    copies = ROW_COPIES * 4 * max(one, min(ROW_VALUES, int(drawn * devices * one)))
    given = {
        "rank": method.rank, "width_bytes": value_bytes(config.model.dtype), "device_tokens": drawn * row,
        "devices": devices, "asked_tokens": 0.0,
    }  # fmt: skip
    split, whole = (merged_mb(shape, adapters=n, **given) for n in (int(drawn), adapters))
    return (copies + 4 * devices * adapters * values) / 2**20 + max(0.0, split - whole)
