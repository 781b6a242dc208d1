"""When devices are on, and how fast they compute, over virtual time.

Both are step functions of time: a row (device, t_s, on, speed) holds from its time to the device's next row. Before its
first row a device is on at speed 1; one without rows always is. A device that is off computes nothing, sends nothing
and receives nothing. Everything follows from the virtual time alone, so that a run that goes on needs no state of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Presence:
    """The rows of a trace, sorted by device, then time; see `build`.

    Attributes:
        devices: Number of devices N.
        device: (R,) device of each row.
        t_s: (R,) virtual time from which it holds, in s.
        on: (R,) whether the device is on.
        speed: (R,) its speed as a multiple of its class's, >= 0; 0 while it is off.
    """

    devices: int
    device: IntArray
    t_s: FloatArray
    on: BoolArray
    speed: FloatArray

    @classmethod
    def build(
        cls, devices: int, device: ArrayLike, t_s: ArrayLike, on: ArrayLike, speed: ArrayLike
    ) -> Presence:
        """Check and sort the rows of a trace.

        Args:
            devices: Number of devices N.
            device: (R,) whole numbers from 0 to N - 1.
            t_s: (R,) virtual times in s, finite and >= 0.
            on: (R,) 1 for on, 0 for off.
            speed: (R,) factors of speed, finite and > 0.

        Returns:
            The trace.

        Raises:
            ValueError: If a value is out of range, or a device has two rows at one time.
        """
        who, when, state, factor = (
            np.asarray(a, dtype=np.float64).reshape(-1) for a in (device, t_s, on, speed)
        )
        unknown = (who < 0) | (who >= devices) | (who != np.floor(who))
        if unknown.any():
            raise ValueError(f"device {who[unknown][0]:g} does not exist; there are 0..{devices - 1}")
        for name, bad, expected in (
            ("t_s", ~((when >= 0) & np.isfinite(when)), "a finite time >= 0"),
            ("on", ~np.isin(state, (0, 1)), "1 or 0"),
            (
                "speed",
                ~((factor > 0) & np.isfinite(factor)),
                "a finite factor > 0; a device that stands still is off",
            ),
        ):
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                value = {"t_s": when, "on": state, "speed": factor}[name][row]
                raise ValueError(f"{name} of device {who[row]:g} is {value:g}; expected {expected}")
        order = np.lexsort((when, who))
        who, when, state, factor = who[order], when[order], state[order] == 1, factor[order]
        if ((np.diff(who) == 0) & (np.diff(when) == 0)).any():
            raise ValueError("a device has two rows at the same time; remove one")
        return cls(devices, who.astype(np.int64), when, state, np.where(state, factor, 0.0))

    def on_at(self, time_s: float) -> BoolArray:
        """(N,) whether each device is on at a virtual time."""
        row = self._row_at(time_s)
        return (row < 0) | self.on[row]

    def off_for(self, time_s: float) -> FloatArray:
        """(N,) for how long each device has been off at a virtual time in s, 0 for one that is on."""
        row = self._row_at(time_s)
        return np.where((row < 0) | self.on[row], 0.0, time_s - self._since_s[row])

    def off_after(self, time_s: float) -> FloatArray:
        """(N,) when each device next is off at or after a virtual time, in s; inf for never."""
        return self._next_s(time_s, on=False)

    def on_after(self, time_s: float) -> FloatArray:
        """(N,) when each device next is on at or after a virtual time, in s; inf for never again."""
        return self._next_s(time_s, on=True)

    def next_change_s(self, time_s: float) -> float:
        """The first virtual time after one at which any device goes on or off, in s; inf for none."""
        place = int(np.searchsorted(self._changes, time_s, side="right"))
        return float(self._changes[place]) if place < self._changes.size else float("inf")

    def off_s(self, start_s: float, end_s: float) -> FloatArray:
        """(N,) seconds for which each device is off between two virtual times."""
        return self._off_until(end_s) - self._off_until(start_s)

    def done_s(self, start_s: ArrayLike, work_s: ArrayLike) -> FloatArray:
        """When work is done that a device begins at some time and does while it is on, at its speed.

        Args:
            start_s: (N,) virtual times of the beginning in s.
            work_s: (N,) seconds that the work takes at speed 1.

        Returns:
            (N,) first virtual times at which the integral of the speed since the beginning is the work, in s; inf
            where it never is.
        """
        start, work = (
            np.broadcast_to(np.asarray(a, dtype=np.float64), self.devices) for a in (start_s, work_s)
        )
        done = start + work
        for device in np.unique(self.device).tolist():
            if work[device] > 0 and np.isfinite(start[device]):
                done[device] = self._done_s(device, float(start[device]), float(work[device]))
        return done

    def _done_s(self, device: int, start_s: float, work_s: float) -> float:
        first, last = self._first[device], self._first[device + 1]
        # Before the first row, and from each row on: a time and the speed from then.
        times = np.concatenate(([min(start_s, float(self.t_s[first]))], self.t_s[first:last], [np.inf]))
        speeds = np.concatenate(([1.0], self.speed[first:last]))
        begin = np.maximum(times[:-1], start_s)
        with np.errstate(invalid="ignore"):
            worked = np.where(speeds > 0, speeds * np.maximum(times[1:] - begin, 0.0), 0.0)
        total = np.cumsum(worked)
        place = int(np.searchsorted(total, work_s))
        if place == total.size:
            return float("inf")
        before = total[place - 1] if place else 0.0
        return float(begin[place] + (work_s - before) / speeds[place])

    @cached_property
    def _times(self) -> FloatArray:
        return np.unique(self.t_s)

    @cached_property
    def _first(self) -> IntArray:
        """(N + 1,) place of each device's first row."""
        return np.searchsorted(self.device, np.arange(self.devices + 1)).astype(np.int64)

    @cached_property
    def _keys(self) -> IntArray:
        """(R,) rows as whole numbers that sort by device and time."""
        return self.device * (self._times.size + 1) + np.searchsorted(self._times, self.t_s) + 1

    def _row_at(self, time_s: float) -> IntArray:
        """(N,) row in force for each device, -1 before its first."""
        rank = int(np.searchsorted(self._times, time_s, side="right"))
        wanted = np.arange(self.devices) * (self._times.size + 1) + rank
        row = np.searchsorted(self._keys, wanted, side="right") - 1
        return np.where(row >= self._first[:-1], row, -1).astype(np.int64)

    def _next_s(self, time_s: float, *, on: bool) -> FloatArray:
        row = self._row_at(time_s)
        now = ((row < 0) | self.on[row]) == on
        following = np.where(row < 0, self._first[:-1], row + 1)
        found = (self._on_rows if on else self._off_rows)[following]
        inside = found < self._first[1:]
        later = np.full(self.devices, np.inf)
        later[inside] = self.t_s[found[inside]]
        return np.where(now, time_s, later)

    @cached_property
    def _on_rows(self) -> IntArray:
        return self._following_rows(on=True)

    @cached_property
    def _off_rows(self) -> IntArray:
        return self._following_rows(on=False)

    def _following_rows(self, *, on: bool) -> IntArray:
        """(R + 1,) first row at or behind each one that is on, or off; R for none."""
        rows = self.t_s.size
        at = np.where(self.on == on, np.arange(rows), rows)
        return np.concatenate((np.minimum.accumulate(at[::-1])[::-1], [rows])).astype(np.int64)

    @cached_property
    def _off_rows_s(self) -> FloatArray:
        """(R,) seconds for which the row's device has been off before it."""
        length = np.append(np.diff(self.t_s), 0.0)
        length[self._first[1:][np.diff(self._first) > 0] - 1] = 0.0
        total = np.concatenate(([0.0], np.cumsum(np.where(self.on, 0.0, length))[:-1]))
        return total - total[self._first[:-1][self.device]]

    def _off_until(self, time_s: float) -> FloatArray:
        row = self._row_at(time_s)
        spent = np.where(self.on[row], 0.0, time_s - self.t_s[row])
        return np.where(row < 0, 0.0, self._off_rows_s[row] + spent)

    @cached_property
    def _since_s(self) -> FloatArray:
        """(R,) since when a device has been off that is off in a row."""
        begins = ~self.on & np.concatenate(([True], self.on[:-1] | (np.diff(self.device) > 0)))
        at = np.maximum.accumulate(np.where(begins, np.arange(self.t_s.size), 0))
        return self.t_s[at]

    @cached_property
    def _changes(self) -> FloatArray:
        """Times at which some device goes on or off."""
        before = np.concatenate(([True], self.on[:-1]))
        before[self._first[:-1][np.diff(self._first) > 0]] = True
        return np.unique(self.t_s[self.on != before])
