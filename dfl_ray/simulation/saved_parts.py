"""The state of devices as it lies in a checkpoint: read part by part, so that a run need not fit in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dfl_ray.devices.records import Snapshot, contiguous
from dfl_ray.errors import InputError


@dataclass(frozen=True)
class SavedParts:
    """Snapshots that together hold every device, each a file that is read when it is asked for.

    Attributes:
        files: Their paths.
    """

    files: Sequence[Path]

    def __iter__(self) -> Iterator[Snapshot]:
        """Read one part after the other; none is kept."""
        return map(read_part, self.files)

    def only(self, wanted: Callable[[str], bool]) -> Iterator[Snapshot]:
        """Read some arrays of every part, the others not even from disk.

        Args:
            wanted: Whether an array is wanted, by its name.

        Returns:
            The parts, one after the other, each with the wanted arrays.

        Raises:
            InputError: One cannot be read.
        """
        return (read_part(path, wanted) for path in self.files)

    def of(self, devices: Collection[int]) -> Iterator[Snapshot]:
        """Read the parts that hold some devices.

        Args:
            devices: Device numbers.

        Yields:
            Each such part, whole.

        Raises:
            KeyError: No part holds one of the devices.
        """
        missing = set(devices)
        for path in self.files:
            here = _devices(path)
            if not here.isdisjoint(devices):
                missing -= here
                yield read_part(path)
        if missing:
            raise KeyError(f"no part of the checkpoint holds device {min(missing)}")


def write_part(path: Path, snapshot: Snapshot) -> None:
    """Write a part.

    Args:
        path: The file.
        snapshot: State of some devices.

    Raises:
        OSError: It cannot be written.
        SafetensorError: The same, as safetensors tells it.
    """
    save_file(contiguous(snapshot.arrays), path, metadata={"numbers": json.dumps(snapshot.numbers)})


def read_part(path: Path, wanted: Callable[[str], bool] = lambda _name: True) -> Snapshot:
    """Read a part.

    Args:
        path: The file.
        wanted: Which arrays are read, by their names.

    Returns:
        State of some devices.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118 - no mapping
            return Snapshot(arrays, json.loads(file.metadata()["numbers"]))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"The state of devices in {path} cannot be read",
            got=str(error),
            expected="the file as it was written",
            change="Restore it from a copy, or remove the checkpoint's folder; the one before it is used then.",
        ) from error


def _numbers(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["numbers"])


def _devices(path: Path) -> set[int]:
    return {int(device) for device in _numbers(path)}
