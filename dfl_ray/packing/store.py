"""How large the object store of a Ray that a run starts is made: what does not fit lies on disk, by Ray's own means."""

from __future__ import annotations

from pathlib import Path

from dfl_ray.config.schema import Config
from dfl_ray.packing.actors import actors_wanted
from dfl_ray.packing.machine import usable_cpus

FLOOR_MB = 256.0
"""For set-up and tables."""
PART_MB = 64.0
"""Part of the devices' state that passes from an actor to a checkpoint at once (`devices.snapshots.PART_BYTES`)."""
DEVICE_MB = 0.02
"""For the messages of a device in a round and its next, where they are as small as the embedded model's."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def object_store_mb(config: Config) -> float | None:
    """Size that suits a run: its base model twice, and messages.

    256 MB + 2 · base + 64 MB · actors + 0.02 MB · devices. A store that is larger than what a run uses at a time fills
    up all the same, since each round's messages are kept for replays until the next checkpoint; from a smaller one Ray
    writes them to disk.

    Args:
        config: The experiment.

    Returns:
        Units of 2^20 bytes; None where the base model's size is not known beforehand, as of one on a hub.
    """
    if config.runtime.object_store_mb is not None:
        return config.runtime.object_store_mb
    base = base_file_mb(config.model.name)
    if base is None:
        return None
    count = config.devices.count
    actors = actors_wanted(config.runtime, count, {"CPU": float(usable_cpus())})
    return FLOOR_MB + 2.0 * base + PART_MB * actors + DEVICE_MB * count


def base_file_mb(name: str) -> float | None:
    """Size of a base model's weights on disk.

    Args:
        name: `model.name`.

    Returns:
        Units of 2^20 bytes; None where they are not on this machine.
    """
    from dfl_ray.models.paths import embedded_path, packaged_file

    path = embedded_path() if name == "embedded" else packaged_file(name) or Path(name).expanduser()
    files = [path] if path.is_file() else [f for kind in _WEIGHTS for f in path.glob(kind)]
    return sum(f.stat().st_size for f in files) / 2**20 if files else None
