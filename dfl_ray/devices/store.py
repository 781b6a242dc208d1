"""Where the state of a group's devices lies: in memory, or beyond a budget in a memory-mapped file.

Adapters and moments are rows of four tensors, and what a method keeps besides are arrays in its dataclass. In a file,
the tensors map one region each, and the large arrays of a device lie side by side in slots of further regions. The
group takes its devices part by part (`parts`): the next part is read ahead, and of those behind as many stay mapped
as the budget holds. The same arrays are read and written by the same code, so that records are equal bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import torch

from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.devices.mapped_file import BLOCK_BYTES, MappedFile, Span
from dfl_ray.devices.records import GroupSetup
from dfl_ray.devices.slots import Slots
from dfl_ray.lora.layout import dense_values
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Device
from dfl_ray.methods.spec import kept_arrays, method_spec
from dfl_ray.packing.actors import device_state_mb

PART_BYTES = 2**24
"""State of devices that are taken together where nothing else divides them; less under a small budget."""

T = TypeVar("T")
Start = Callable[[Sequence[int]], torch.Tensor]


def bytes_kept(setup: GroupSetup, size: int, adapters: int, devices: int) -> int:
    """Bytes of what some devices of a run keep.

    Args:
        setup: The run.
        size: Values of an adapter.
        adapters: Adapters of the devices together.
        devices: Number of devices.
    """
    method = setup.config.method
    dense = dense_values(setup.layers) if method_spec(method).own_base else 0
    arrays = kept_arrays(method, setup.graph.mean_neighbours)
    return int(device_state_mb(size, adapters, arrays, devices * dense) * 2**20)


def make_store(runtime: RuntimeConfig, share: float, state_bytes: int, torch_device: str) -> DeviceStore:
    """Choose where the state of a group lies.

    Args:
        runtime: Holds the budget of all groups together, and the folder of the file.
        share: Its share of all devices, in (0, 1].
        state_bytes: State of its devices.
        torch_device: "cpu" or a CUDA device.

    Returns:
        Memory, or a file where the group's state is larger than its share of the budget.
    """
    if runtime.state_memory_mb is None or state_bytes <= share * runtime.state_memory_mb * 2**20:
        return InMemory(torch_device)
    return InFile(runtime.state_dir, int(share * runtime.state_memory_mb * 2**20))


class DeviceStore(Protocol):
    """Holds the state of a group's devices."""

    def adapters(self, counts: Mapping[int, int], size: int, start: Start) -> AdapterState:
        """Make the adapters and moments.

        Args:
            counts: Device -> its adapters, in the order of the rows.
            size: Values of one adapter.
            start: Some of the devices -> (adapters, size) their first values.

        Returns:
            The state of all adapters.
        """
        ...

    def parts(self, parts: Sequence[T], devices: Callable[[T], Sequence[Device[Any]]]) -> Iterator[T]:
        """Go through parts whose devices are read and changed while each is at hand.

        Args:
            parts: The parts.
            devices: The devices of one.

        Yields:
            Each part.
        """
        ...

    def walked(self, devices: Sequence[Device[Any]]) -> Sequence[Device[Any]]:
        """The same devices, to be gone through any number of times in this order."""
        ...

    def read(self) -> None:
        """Say that an adapter was read out of order."""
        ...


class InMemory:
    """All state in memory."""

    def __init__(self, torch_device: str) -> None:
        self._torch_device = torch_device

    def adapters(self, counts: Mapping[int, int], size: int, start: Start) -> AdapterState:
        """See `DeviceStore.adapters`."""
        return AdapterState.from_theta(start(list(counts)).to(self._torch_device))

    def parts(self, parts: Sequence[T], devices: Callable[[T], Sequence[Device[Any]]]) -> Iterator[T]:
        """See `DeviceStore.parts`."""
        return iter(parts)

    def walked(self, devices: Sequence[Device[Any]]) -> Sequence[Device[Any]]:
        """See `DeviceStore.walked`."""
        return devices

    def read(self) -> None:
        """Nothing is to be let go of."""


class InFile:
    """State in a memory-mapped file of which no more than a budget is mapped at a time.

    Args:
        folder: Where the file lies; None = the system's folder for temporary files.
        budget: Bytes of it that may stay in this process's memory.
    """

    def __init__(self, folder: str | None, budget: int) -> None:
        self._file = MappedFile(folder)
        self._slots = Slots(self._file)
        self._budget = budget
        self._held: deque[tuple[list[Span], int]] = deque()
        self._held_bytes = 0
        self._rows: dict[int, tuple[int, int]] = {}
        self._row_bytes, self._firsts = 0, (0, 0, 0)
        self._read_bytes = 0

    def adapters(self, counts: Mapping[int, int], size: int, start: Start) -> AdapterState:
        """See `DeviceStore.adapters`; first values that are 0 are not written, since the file begins with them."""
        devices, ends = list(counts), np.cumsum([0, *counts.values()]).tolist()
        self._rows = {d: (ends[k], ends[k + 1]) for k, d in enumerate(devices)}
        self._row_bytes = 4 * size
        theta, first, second = (self._tensor(ends[-1], size) for _ in range(3))
        step = self.devices_together(max(counts.values(), default=1))
        for at in range(0, len(devices), step):
            values = start(devices[at : at + step])
            if bool(values.any()):
                low, high = ends[at], ends[min(at + step, len(devices))]
                theta[low:high] = values
                self._file.write_behind(self._of_rows(low, high)[:1])
        return AdapterState(theta, first, second, torch.zeros(ends[-1], dtype=torch.int64))

    def _tensor(self, count: int, size: int) -> torch.Tensor:
        self._firsts = (*self._firsts[1:], self._file.size)
        bytes_ = self._file.grow(max(1, 4 * count * size))
        return torch.from_numpy(bytes_[: 4 * count * size].view(np.float32).reshape(count, size))

    def _of_rows(self, low: int, high: int) -> list[Span]:
        return [(f + low * self._row_bytes, f + high * self._row_bytes) for f in self._firsts]

    def devices_together(self, adapters: int) -> int:
        """How many devices are taken together where nothing else divides them: a quarter of the budget, at most.

        Args:
            adapters: Adapters of a device.
        """
        most = min(PART_BYTES, self._budget // 4)
        return max(1, most // max(1, 4 * adapters * self._row_bytes))

    def parts(self, parts: Sequence[T], devices: Callable[[T], Sequence[Device[Any]]]) -> Iterator[T]:
        """See `DeviceStore.parts`; large arrays that a method has made meanwhile are moved into the file behind it.

        What stands behind the `yield` is done when the next part is asked for: the loop must be run to its end.
        """
        if self._read_bytes:
            self._let_all_go()
        ahead = self._spans(devices(parts[0])) if parts else []
        self._file.read_ahead(ahead)
        for number, part in enumerate(parts):
            self._make_room(_bytes(ahead))
            if number + 1 < len(parts):
                ahead = self._spans(devices(parts[number + 1]))
                self._file.read_ahead(ahead)
            yield part
            mine = devices(part)
            for device in mine:
                self._slots.settle(device)
            self._behind(self._spans(mine))

    def _spans(self, devices: Sequence[Device[Any]]) -> list[Span]:
        rows: list[Span] = []
        for device in devices:
            first, stop = self._rows[device.index]
            if rows and rows[-1][1] == first:
                rows[-1] = (rows[-1][0], stop)
            else:
                rows.append((first, stop))
        return [s for first, stop in rows for s in self._of_rows(first, stop)] + self._slots.spans(devices)

    def _behind(self, spans: list[Span]) -> None:
        """Keep what was used last mapped, within the budget."""
        size = _bytes(spans)
        self._held.append((spans, size))
        self._held_bytes += size
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        """Let go of what was used longest ago, until so many bytes fit beside what is mapped."""
        while self._held and self._held_bytes + size > self._budget:
            oldest, freed = self._held.popleft()
            self._held_bytes -= freed
            self._file.write_behind(oldest)

    def walked(self, devices: Sequence[Device[Any]]) -> Sequence[Device[Any]]:
        """See `DeviceStore.walked`."""
        return Walked(self, devices)

    def read(self) -> None:
        """See `DeviceStore.read`; all is let go of where the budget is filled."""
        self._read_bytes += self._row_bytes + BLOCK_BYTES
        if self._held_bytes + self._read_bytes > self._budget:
            self._let_all_go()

    def _let_all_go(self) -> None:
        self._read_bytes = self._held_bytes = 0
        self._held.clear()
        self._file.write_behind([(0, self._file.size)])


def _bytes(spans: Sequence[Span]) -> int:
    return sum(stop - first for first, stop in spans)


class Walked(Sequence[Device[Any]]):
    """Devices whose state is read ahead and let go of behind whoever goes through them.

    Args:
        store: Holds their state.
        devices: The devices.
    """

    def __init__(self, store: InFile, devices: Sequence[Device[Any]]) -> None:
        self._store, self._devices = store, devices

    def __len__(self) -> int:
        """How many there are."""
        return len(self._devices)

    @overload
    def __getitem__(self, index: int) -> Device[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Device[Any]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        """One of them, or some."""
        return self._devices[index]

    def __iter__(self) -> Iterator[Device[Any]]:
        """All of them, in order."""
        for part in self._store.parts(self.together(), list):
            yield from part

    def together(self) -> list[Sequence[Device[Any]]]:
        """The devices in the parts that are read at once."""
        most = max((len(d.adapter_tasks) for d in self._devices), default=1)
        step = self._store.devices_together(most)
        return [self._devices[at : at + step] for at in range(0, len(self._devices), step)]
