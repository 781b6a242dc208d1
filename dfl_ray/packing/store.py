"""How large the object store of a Ray that a run starts is made: what does not fit lies on disk, by Ray's own means."""

from __future__ import annotations

from dfl_ray.config.schema import Config, ModelConfig
from dfl_ray.engines.memory import value_bytes
from dfl_ray.packing import machine
from dfl_ray.packing.actors import actors_wanted

FLOOR_MB = 256.0
"""For set-up and tables."""
PART_MB = 64.0
"""Part of the devices' state from which it passes from an actor to a checkpoint; a single device may be larger."""
DEVICE_MB = 0.02
"""For the messages of a device in a round and its next, where they are as small as the embedded model's."""
RAYS_SHARE, RAYS_MOST_MB = 0.3, 10_000_000_000 / 2**20
"""Ray's own default: a share of the memory, and the most outside shared memory."""


def object_store_mb(config: Config) -> float | None:
    """Size that suits a run: its base model twice, and messages.

    256 MB + 2 · base + 64 MB · actors + 0.02 MB · devices, at most Ray's own default. A store that is larger than what
    a run uses at a time fills up all the same, since each round's messages are kept for replays until the next
    checkpoint; from a smaller one Ray writes them to disk.

    Args:
        config: The experiment.

    Returns:
        Units of 2^20 bytes; None where the base model's size is not known beforehand, as of one on a hub.

    Raises:
        InputError: The base model's file can't be read.
    """
    if config.runtime.object_store_mb is not None:
        return config.runtime.object_store_mb
    base = base_mb(config.model)
    if base is None:
        return None
    count = config.devices.count
    actors = actors_wanted(config.runtime, count, machine.local_resources())
    return min(FLOOR_MB + 2.0 * base + PART_MB * actors + DEVICE_MB * count, rays_own_mb())


def rays_own_mb() -> float:
    """Size that Ray gives its object store by itself, in units of 2^20 bytes."""
    return min(RAYS_SHARE * machine.total_memory_bytes() / 2**20, RAYS_MOST_MB)


def base_mb(section: ModelConfig) -> float | None:
    """Memory of a base model's weights as they are read, whatever they are stored in; `auto` may be float32.

    Args:
        section: Names the model.

    Returns:
        Units of 2^20 bytes; None where the weights are not on this machine.

    Raises:
        InputError: Their file can't be read.
    """
    from dfl_ray.models.folder import stored_values
    from dfl_ray.models.gguf_header import is_gguf, read_gguf_header
    from dfl_ray.models.paths import local_path

    path = local_path(section.name)
    if path.is_dir():
        values = stored_values(path)
    else:
        values = read_gguf_header(path).values if path.is_file() and is_gguf(path) else None
    return None if values is None else value_bytes(section.dtype) * values / 2**20
