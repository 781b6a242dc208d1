"""Snapshots of devices: dataclasses of arrays and numbers as flat names, independent of how devices are packed.

A method declares the state it keeps as a dataclass (`methods.base.MethodState`); `flatten` and `rebuild` are written
once for all of them. A field may be an array, a number, a dataclass, a dictionary of any of these, or None. A
dictionary of whole numbers becomes one int64 table, a row an entry, since a device can hold thousands of them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from dfl_ray.devices.records import Snapshot
from dfl_ray.devices.slots import arrays_of
from dfl_ray.errors import InputError, RunError, paragraph
from dfl_ray.methods.base import Device
from dfl_ray.methods.waiting import Waiting
from dfl_ray.packing.store import PART_MB

_STATE = ("theta", "exp_avg", "exp_avg_sq", "steps")
PART_BYTES = round(PART_MB * 2**20)
"""Bytes from which a part of devices' state is passed on; a single device may be larger."""
_KEYS = "#"
"""Last part of the name of a table of dictionary entries that are whole numbers."""

Numbers = dict[str, int | float | bool]


def flatten(state: object, name: str, arrays: dict[str, np.ndarray], numbers: Numbers) -> None:
    """Write a dataclass under a name.

    Args:
        state: The dataclass.
        name: Its name; fields stand behind it, separated by `/`.
        arrays: Name -> array, added to.
        numbers: Name -> number, added to.

    Raises:
        TypeError: A field holds something else than arrays, numbers, dataclasses, dictionaries and None.
    """
    for field in fields(state):  # type: ignore[arg-type]
        _put(f"{name}/{field.name}", getattr(state, field.name), arrays, numbers)


def _put(name: str, value: Any, arrays: dict[str, np.ndarray], numbers: Numbers) -> None:
    if value is None:
        return
    if isinstance(value, np.ndarray):
        arrays[name] = value
    elif isinstance(value, bool | int | float):
        numbers[name] = value
    elif is_dataclass(value):
        flatten(value, name, arrays, numbers)
    elif not isinstance(value, dict):
        raise TypeError(f"{name} is a {type(value).__name__}")
    elif value and all(type(v) is int for v in value.values()):
        rows = [(*(k if isinstance(k, tuple) else (k,)), v) for k, v in value.items()]
        arrays[f"{name}/{_KEYS}"] = np.array(rows, np.int64)
    else:
        for key, inner in value.items():
            shown = ".".join(str(int(k)) for k in key) if isinstance(key, tuple) else str(key)
            _put(f"{name}/{shown}", inner, arrays, numbers)


def rebuild(kind: type, name: str, tree: Mapping[str, Any], like: object = None) -> Any:
    """The dataclass that `flatten` wrote.

    Args:
        kind: Its class.
        name: For the error's text.
        tree: Its fields: nested dictionaries by part of the name, arrays and numbers at the leaves (`as_tree`).
        like: An instance, whose values give the classes of fields that are declared as `Any`.

    Returns:
        The instance; its arrays are copies, and a field that was None takes its default.

    Raises:
        TypeError: A field without a default is missing.
    """
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for field in fields(kind):
        hint = hints[field.name]
        kind_of = type(getattr(like, field.name)) if hint is Any else hint
        found[field.name] = _take(kind_of, f"{name}/{field.name}", tree.get(field.name))
    return kind(**{k: v for k, v in found.items() if v is not None})


def _take(hint: Any, name: str, held: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
        if held is None:
            return None
    origin = get_origin(hint)
    if isinstance(origin, type) and is_dataclass(origin):
        hint = origin  # of a generic dataclass with its type given
    if origin is dict:
        key, value = get_args(hint)
        return {} if held is None else _take_dict(key, value, name, held)
    if is_dataclass(hint) and isinstance(hint, type):
        return rebuild(hint, name, held or {})
    return np.array(held) if isinstance(held, np.ndarray) else held


def _take_dict(key: Any, value: Any, name: str, held: Mapping[str, Any]) -> dict[Any, Any]:
    if _KEYS in held:
        rows = held[_KEYS].tolist()
        plain = key is int
        return {row[0] if plain else tuple(row[:-1]): row[-1] for row in rows}

    def read(text: str) -> Any:
        if key is str:
            return text
        return int(text) if key is int else tuple(int(part) for part in text.split("."))

    return {read(text): _take(value, f"{name}/{text}", inner) for text, inner in held.items()}


def as_tree(names: Mapping[str, Any]) -> dict[str, Any]:
    """Make nested dictionaries of names with `/` between their parts.

    Args:
        names: Name -> value; no name is the beginning of another up to a `/`.

    Returns:
        First part -> second part -> ... -> value.
    """
    tree: dict[str, Any] = {}
    for name, value in names.items():
        *parents, last = name.split("/")
        inside = tree
        for part in parents:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return tree


_SAVED = "a dataclass of arrays, numbers, dataclasses and dictionaries of them (`dfl_ray.methods.base.MethodState`)"


def check_memory(method: str, memory: object) -> None:
    """Refuse a method whose state cannot be saved, before the first round.

    Args:
        method: Its name.
        memory: What it keeps of a device.

    Raises:
        InputError: It is no dataclass, or a field holds what `flatten` does not take.
    """
    try:
        if not is_dataclass(memory):
            raise TypeError(f"memory is a {type(memory).__name__}")
        flatten(memory, "memory", {}, {})
    except TypeError as error:
        what = f"What the method `{method}` keeps of a device cannot be saved"
        raise InputError(what, got=str(error), expected=_SAVED) from error


def _flatten_memory(memory: object, name: str, arrays: dict[str, np.ndarray], numbers: Numbers) -> None:
    """See `flatten`; what was there at the start has been checked, and fields may have been set since.

    Raises:
        RunError: A field holds what cannot be saved.
    """
    try:
        flatten(memory, name, arrays, numbers)
    except TypeError as error:
        what = f"`{type(memory).__qualname__}`, which the method keeps of a device, cannot be saved"
        raise RunError(paragraph(what, got=str(error), expected=_SAVED)) from error


def in_parts(devices: Mapping[int, Device[Any]]) -> list[tuple[int, ...]]:
    """Divide devices into parts whose state is copied, sent and written at once.

    Args:
        devices: Device number -> device.

    Returns:
        Device numbers of each part, in the order given; a part ends with the device that fills `PART_BYTES`.
    """
    parts: list[list[int]] = [[]]
    held = 0
    for index, device in devices.items():
        if held >= PART_BYTES:
            parts.append([])
            held = 0
        parts[-1].append(index)
        held += _state_bytes(device)
    return [tuple(part) for part in parts]


def _state_bytes(device: Device[Any]) -> int:
    arrays: dict[str, np.ndarray] = {}
    _flatten_memory(device.memory, "memory", arrays, {})
    flatten(device.waiting, "waiting", arrays, {})
    return sum(a.nbytes for a in arrays.values()) + sum(getattr(device.state, name).nbytes for name in _STATE)


def collect_snapshot(devices: Iterable[Device[Any]]) -> Snapshot:
    """Copy adapters, moments, step counts, the method's memory and what is under way of some devices.

    Args:
        devices: The devices; each is read while it is at hand (`DeviceStore.walked`), and not later.

    Returns:
        The snapshot; adapters and moments are copied to the CPU. Arrays of the method's memory are shared, but for
        views, which may lie in a file: whoever wrote them later would map it again.
    """
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Numbers] = {}
    for device in devices:
        index, kept = device.index, {}
        for name in _STATE:
            arrays[f"{index}/state/{name}"] = getattr(device.state, name).detach().cpu().numpy().copy()
        numbers[str(index)] = {}
        _flatten_memory(device.memory, f"{index}/memory", kept, numbers[str(index)])
        own = {id(array) for _, array, _ in arrays_of(device.memory) if not array.flags.owndata}
        arrays.update({name: a.copy() if id(a) in own else a for name, a in kept.items()})
        flatten(device.waiting, f"{index}/waiting", arrays, numbers[str(index)])
    return Snapshot(arrays, numbers)


def restore_snapshot(
    devices: Mapping[int, Device[Any]], snapshots: Iterable[Snapshot],
    walked: Callable[[Sequence[Device[Any]]], Iterable[Device[Any]]] = list,
) -> None:  # fmt: skip
    """Put saved state back, in place.

    Args:
        devices: The devices.
        snapshots: Snapshots of any devices, of which others are passed over; each is let go before the next is taken.
        walked: Goes through some of the devices; see `DeviceStore.walked`.
    """
    for snapshot in snapshots:
        here = [device for index, device in devices.items() if str(index) in snapshot.numbers]
        mine = {str(device.index) for device in here}
        names: dict[str, Any] = {n: a for n, a in snapshot.arrays.items() if n.partition("/")[0] in mine}
        for index in mine:
            names.update(snapshot.numbers[index])
        tree = as_tree(names) if here else {}
        for device in walked(here):
            _restore(device, tree[str(device.index)])


def _restore(device: Device[Any], saved: Mapping[str, Any]) -> None:
    for name in _STATE:
        getattr(device.state, name).copy_(torch.from_numpy(np.array(saved["state"][name])))
    kept = device.memory
    device.memory = rebuild(type(kept), f"{device.index}/memory", saved.get("memory", {}), kept)
    device.waiting = rebuild(Waiting, f"{device.index}/waiting", saved.get("waiting", {}))
