"""Checkpoints: the whole state at a round boundary, written atomically, never pickled.

`checkpoints/round-000012/` holds safetensors files of some devices each, one for the channel, and `manifest.json` with
the driver's own state and the checksums of all files and of itself. Devices are written and read part by part
(`dfl_ray.simulation.saved_parts`): never are all of them in one process. The folder is written under another name,
every file flushed to disk, and renamed in one step: a crash leaves either the whole checkpoint or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dfl_ray.devices.records import contiguous
from dfl_ray.errors import InputError
from dfl_ray.records.checksums import checksum
from dfl_ray.simulation.backend import BackendState, SavedState
from dfl_ray.simulation.saved_parts import SavedParts, write_part

FORMAT = 4
MANIFEST = "manifest.json"
_PREFIX, _PART = "round-", "devices-{:05d}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        round_index: The last finished round.
        state: Devices and channel.
        driver: The driver's own JSON-able state.
    """

    round_index: int
    state: SavedState
    driver: Mapping[str, Any]


def save_checkpoint(
    folder: Path, round_index: int, state: BackendState, driver: Mapping[str, Any], *, keep: int
) -> Checkpoint:
    """Write a checkpoint atomically and drop the oldest ones.

    Args:
        folder: The run's `checkpoints` folder.
        round_index: The round just finished.
        state: Devices, which are taken part by part, once, and channel.
        driver: The driver's own JSON-able state.
        keep: Newest checkpoints to keep, >= 1.

    Returns:
        What was written.

    Raises:
        OSError: It cannot be written; the older ones are untouched.
    """
    folder.mkdir(exist_ok=True)
    target = checkpoint_path(folder, round_index)
    working = folder / f".{target.name}.tmp"
    shutil.rmtree(working, ignore_errors=True)
    try:
        _write(working, round_index, state, driver)
        # One of the same round stays until then: lost actors are restored from it.
        shutil.rmtree(target, ignore_errors=True)
        working.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(working, ignore_errors=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise OSError(errno.EIO, str(error), str(target)) from error
    except BaseException:  # a device's state could not be had
        shutil.rmtree(working, ignore_errors=True)
        raise
    _flush(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(round_index, SavedState(_parts(target), state.channel), driver)


def _write(working: Path, round_index: int, state: BackendState, driver: Mapping[str, Any]) -> None:
    """Write all files of a checkpoint into a new folder and flush them to the disk."""
    working.mkdir()
    number = 0
    for snapshot in state.devices:  # `enumerate` would hold it until the next one is there
        write_part(working / _PART.format(number), snapshot)
        number += 1
        del snapshot
    arrays = {k: v for k, v in state.channel.items() if isinstance(v, np.ndarray)}
    save_file(contiguous(arrays), working / "channel.safetensors")
    scalars = {k: _plain(v) for k, v in state.channel.items() if not isinstance(v, np.ndarray)}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "round": round_index,
        "groups": number,
        "channel": scalars,
        "driver": dict(driver),
        "files": {path.name: checksum(path) for path in sorted(working.iterdir())},
    }
    manifest["sha256"] = _own_checksum(manifest)
    (working / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in working.iterdir():
        _flush(path)
    _flush(working)


def load_checkpoint(folder: Path, say: Callable[[str], None] = lambda _text: None) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None.

    Every file is compared with its checksum. A damaged checkpoint is passed over for the one before it.

    Args:
        folder: The run's `checkpoints` folder; it may be missing or empty.
        say: Told of each damaged checkpoint that is passed over.

    Returns:
        The checkpoint; None if there is none.

    Raises:
        InputError: All of them are damaged, or the newest whole one was written in another format.
    """
    damage: list[InputError] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            found = read_checkpoint(path)
        except OtherFormatError:
            raise
        except InputError as error:
            damage.append(error)
            continue
        for error in damage:
            say(f"{error.what} ({error.got}); the one of round {found.round_index} is used")
        return found
    if damage:
        raise InputError(
            f"No checkpoint in {folder} can be used. {damage[0].what}",
            got=damage[0].got,
            expected="a whole checkpoint",
            change="Restore the folder from a copy, or run the experiment anew.",
        )
    return None


def drop_later(folder: Path, round_index: int) -> None:
    """Remove checkpoints of later rounds than the one a run goes on from: they would be taken for newer ones.

    Args:
        folder: The run's `checkpoints` folder.
        round_index: The round that the run goes on from.
    """
    for path in list_checkpoints(folder):
        if path.name > _name(round_index):
            shutil.rmtree(path, ignore_errors=True)


class OtherFormatError(InputError):
    """A checkpoint that another version of this project reads."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and compare every file with its checksum.

    Args:
        path: Its folder.

    Returns:
        The checkpoint.

    Raises:
        OtherFormatError: It was written in another format.
        InputError: A file of it is missing or damaged.
    """
    file = path / MANIFEST
    try:
        manifest = _readable(path, json.loads(file.read_text(encoding="utf-8")))
        expected = manifest.pop("sha256")
        if _own_checksum(manifest) != expected or path.name != _name(manifest["round"]):
            raise ValueError("its checksum or its round disagrees")
        for name, entry in manifest["files"].items():
            file = path / name
            if checksum(file) != entry:
                raise ValueError("size or checksum is not the manifest's")
        devices = SavedParts([path / _PART.format(number) for number in range(manifest["groups"])])
        file = path / "channel.safetensors"
        channel = {**load_file(file), **manifest["channel"]}
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        reason = (
            "it is missing" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        )
        raise InputError(
            f"The checkpoint {path} is damaged",
            got=f"{file.name}: {reason}",
            expected="files as they were written",
            change="Remove that folder; the checkpoint before it is used then.",
        ) from error
    return Checkpoint(int(manifest["round"]), SavedState(devices, channel), manifest["driver"])


def _readable(path: Path, manifest: Any) -> Any:
    """Refuse the manifest of an older format; give back any other."""
    if isinstance(manifest, dict) and manifest.get("format") in range(FORMAT):
        raise OtherFormatError(
            f"The checkpoint {path} is of another version",
            got=f"format {manifest['format']}",
            expected=f"format {FORMAT}",
            change="Resume with the dfl-ray version that wrote it (see run.json).",
        )
    return manifest


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content, whatever its layout on disk."""
    text = json.dumps(json.loads(json.dumps(manifest)), sort_keys=True)  # keys as they are read back
    return hashlib.sha256(text.encode()).hexdigest()


def _name(round_index: int) -> str:
    return f"{_PREFIX}{round_index:06d}"


def checkpoint_path(folder: Path, round_index: int) -> Path:
    """Where the checkpoint of a round lies.

    Args:
        folder: The run's `checkpoints` folder.
        round_index: The round.
    """
    return folder / _name(round_index)


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run.

    Args:
        folder: The run's `checkpoints` folder; it may be missing.

    Returns:
        Their folders, oldest first. Each was whole once, since a checkpoint gets its name last.
    """
    return sorted(p for p in folder.glob(f"{_PREFIX}*") if p.is_dir())


def _parts(folder: Path) -> SavedParts:
    return SavedParts(sorted(folder.glob(_PART.format(0).replace("00000", "*"))))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
