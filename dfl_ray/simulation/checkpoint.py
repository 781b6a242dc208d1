"""Checkpoints: the whole state at a round boundary, written atomically, never pickled.

`checkpoints/round-000012/` holds one safetensors file for each group of devices, one for the channel, and
`manifest.json` with the driver's own state. The folder is written under another name, every file flushed to
disk, and renamed in one step, so a crash leaves either the whole checkpoint or none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from dfl_ray.devices.records import Snapshot
from dfl_ray.errors import RunError
from dfl_ray.simulation.backend import BackendState

FORMAT = 2
_PREFIX = "round-"


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        round_index: The last finished round.
        state: Devices and channel.
        driver: The driver's own JSON-able state.
    """

    round_index: int
    state: BackendState
    driver: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint atomically and drop the oldest ones.

    Args:
        folder: The run's `checkpoints` folder.
        checkpoint: What to save.
        keep: Newest checkpoints to keep, >= 1.

    Returns:
        Folder of the checkpoint written.
    """
    folder.mkdir(exist_ok=True)
    target = folder / f"{_PREFIX}{checkpoint.round_index:06d}"
    working = folder / f".{target.name}.tmp"
    for old in (working, target):
        shutil.rmtree(old, ignore_errors=True)
    working.mkdir()
    for number, snapshot in enumerate(checkpoint.state.devices):
        path = working / f"devices-{number:05d}.safetensors"
        save_file(_contiguous(snapshot.arrays), path, metadata={"numbers": json.dumps(snapshot.numbers)})
    arrays = {k: v for k, v in checkpoint.state.channel.items() if isinstance(v, np.ndarray)}
    save_file(_contiguous(arrays), working / "channel.safetensors")
    scalars = {k: _plain(v) for k, v in checkpoint.state.channel.items() if not isinstance(v, np.ndarray)}
    manifest = {
        "format": FORMAT,
        "round": checkpoint.round_index,
        "groups": len(checkpoint.state.devices),
        "channel": scalars,
        "driver": dict(checkpoint.driver),
    }
    (working / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in working.iterdir():
        _flush(path)
    _flush(working)
    working.rename(target)
    _flush(folder)
    for old in _existing(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run, or None.

    Args:
        folder: The run's `checkpoints` folder; it may be missing or empty.

    Returns:
        The checkpoint; None if there is none with a manifest.

    Raises:
        RunError: It was written in another format, or a file of it is damaged.
    """
    found = _existing(folder)
    if not found:
        return None
    path = found[-1]
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise RunError(
                f"The checkpoint {path} has format {manifest['format']}, this version reads format {FORMAT}. "
                "Resume with the dfl-ray version that wrote it (see run.json)."
            )
        devices = [_load_snapshot(path / f"devices-{n:05d}.safetensors") for n in range(manifest["groups"])]
        channel = {**load_file(path / "channel.safetensors"), **manifest["channel"]}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"The checkpoint {path} is damaged ({error}). Remove that folder and resume from the one before it."
        ) from error
    return Checkpoint(int(manifest["round"]), BackendState(devices, channel), manifest["driver"])


def _existing(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{_PREFIX}*") if (p / "manifest.json").is_file())


def _load_snapshot(path: Path) -> Snapshot:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        numbers = json.loads(file.metadata()["numbers"])
    return Snapshot(load_file(path), numbers)


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
