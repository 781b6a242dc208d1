"""What a round wants to send, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

    from channels.control_cost import ControlCost

TABLE_COLUMNS: tuple[str, ...] = (
    "slot", "source", "destination", "sinr_db", "rate_bps", "start_s", "end_s", "payload_bytes", "attempts",
    "delivered", "energy_j", "transfer", "transmission", "subchannel", "power_w", "decoded",
)  # fmt: skip
"""Columns of a schedule's table, in order; the first eleven are the stable ones."""

OUTCOMES: tuple[str, ...] = ("delivered", "failed", "late", "dead", "unserved", "upstream", "off")
"""Names of the outcome codes: delivered; attempts used up; deadline; dead battery; never scheduled; the
transfer it was to forward (`Transfers.after`) was lost, so it was not sent; one of its ends was off."""

DELIVERED, FAILED, LATE, DEAD, UNSERVED, UPSTREAM, OFF = range(7)


@dataclass(frozen=True)
class Transfers:
    """Wanted transfers, as a struct of arrays of equal length M.

    Attributes:
        source: (M,) sending device.
        destination: (M,) receiving device, different from the source.
        payload_bytes: (M,) encoded length in bytes, >= 0.
        message: (M,) message id: transfers of one source with the same id carry the same bytes, so a
            broadcast may serve them with one transmission.
        after: (M,) index of the transfer this one forwards, or -1: store and forward. It is sent once that
            transfer was decoded, from the device that decoded it, and not at all if that transfer was lost.
        change: (M,) how much of what it carries is new to its receiver, >= 0 and finite; nan where it is not known,
            which counts as 1 (all of it is new). What `priority: information` goes by.
    """

    source: IntArray
    destination: IntArray
    payload_bytes: IntArray
    message: IntArray
    after: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    change: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Check lengths, self-transfers, sizes, changes and precedences; an empty `after` becomes all -1, `change` nan.

        Raises:
            ValueError: If the arrays differ in length, a device sends to itself, a size or change is negative, or a
                predecessor does not exist, ends elsewhere than the transfer starts, or forms a circle.
        """
        if not self.after.size:
            object.__setattr__(self, "after", np.full(self.source.shape, -1, dtype=np.int64))
        if not self.change.size:
            object.__setattr__(self, "change", np.full(self.source.shape, np.nan))
        shapes = {array.shape for array in (self.source, self.destination, self.payload_bytes, self.message)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(
                f"transfer arrays have shapes {sorted(shapes)}; expected four arrays of one length"
            )
        loops = np.flatnonzero(self.source == self.destination)
        if loops.size:
            raise ValueError(
                f"transfer {loops[0]} goes from device {self.source[loops[0]]} to itself; drop it"
            )
        if np.any(self.payload_bytes < 0):
            raise ValueError(f"payload_bytes holds {int(self.payload_bytes.min())}; expected sizes >= 0")
        if self.after.shape != self.source.shape:
            raise ValueError(f"after has shape {self.after.shape}; expected {self.source.shape}")
        if self.change.shape != self.source.shape or np.any(self.change < 0) or np.any(np.isinf(self.change)):
            raise ValueError(
                f"change has shape {self.change.shape} and runs from {np.min(self.change, initial=np.inf)} to"
                f" {np.max(self.change, initial=0.0)}; expected {self.source.shape} sizes >= 0, or nan"
            )
        self._check_precedences()

    def _check_precedences(self) -> None:
        later = np.flatnonzero(self.after != -1)
        if not later.size:
            return
        before = self.after[later]
        if before.min() < 0 or before.max() >= len(self):
            raise ValueError(
                f"after holds {before.min()} to {before.max()}; expected transfers 0 to {len(self) - 1}, or -1"
            )
        wrong = later[self.destination[before] != self.source[later]]
        if wrong.size:
            one = int(wrong[0])
            raise ValueError(
                f"transfer {one} starts at device {self.source[one]} but the transfer before it, "
                f"{self.after[one]}, ends at device {self.destination[self.after[one]]}; a hop is forwarded by "
                "the device that received it"
            )
        self.hops_before()

    def hops_before(self) -> IntArray:
        """(M,) number of transfers that must have been decoded before each one.

        Raises:
            ValueError: If precedences form a circle.
        """
        hops = np.zeros(len(self), dtype=np.int64)
        reached = self.after.copy()
        for _ in range(len(self) + 1):
            on_the_way = reached >= 0
            if not on_the_way.any():
                return hops
            hops += on_the_way
            reached = np.where(on_the_way, self.after[reached], -1)
        raise ValueError("the precedences in `after` form a circle; a transfer cannot wait for itself")

    def hops_after(self) -> IntArray:
        """(M,) length of the longest chain of transfers that waits for each one."""
        left = np.zeros(len(self), dtype=np.int64)
        if not np.any(self.after >= 0):
            return left
        # Deepest first, so that each transfer is complete before it is handed to its predecessor.
        for one in np.argsort(-self.hops_before(), kind="stable"):
            if self.after[one] >= 0:
                left[self.after[one]] = max(left[self.after[one]], left[one] + 1)
        return left

    def worth(self) -> FloatArray:
        """(M,) `change` over the largest of it, in [0, 1], 1 where none is known or all are alike (0 too)."""
        known = np.where(np.isnan(self.change), 1.0, self.change)
        largest = float(known.max(initial=0.0))
        return known / largest if largest > 0 else np.ones_like(known)

    def permuted(self, order: IntArray) -> Transfers:
        """The transfers in another order.

        Args:
            order: (M,) index of the transfer at each new place.
        """
        place = np.empty(len(self) + 1, dtype=np.int64)
        place[order] = np.arange(len(self), dtype=np.int64)
        place[-1] = -1
        return Transfers(
            self.source[order],
            self.destination[order],
            self.payload_bytes[order],
            self.message[order],
            place[self.after[order]],
            self.change[order],
        )

    def __len__(self) -> int:
        """Number of transfers."""
        return self.source.shape[0]

    @classmethod
    def build(
        cls, source: Any, destination: Any, payload_bytes: Any, message: Any = None, after: Any = None,
        change: Any = None,
    ) -> Transfers:  # fmt: skip
        """Make transfers from anything array-like.

        Args:
            source: (M,) sending devices.
            destination: (M,) receiving devices.
            payload_bytes: (M,) sizes in bytes, or one size for all.
            message: (M,) message ids; None makes every transfer a message of its own.
            after: (M,) predecessors, -1 for none; None for none at all.
            change: (M,) sizes of change, nan where not known; None where none is.

        Returns:
            The transfers, as int64 arrays and float64 `change`.
        """
        src = np.atleast_1d(np.asarray(source, dtype=np.int64))
        dst = np.atleast_1d(np.asarray(destination, dtype=np.int64))
        size = np.broadcast_to(np.asarray(payload_bytes, dtype=np.int64), src.shape).copy()
        given = np.arange(src.shape[0], dtype=np.int64) if message is None else message
        before = np.full(src.shape, -1) if after is None else after
        return cls(
            src,
            dst,
            size,
            np.atleast_1d(np.asarray(given, dtype=np.int64)),
            np.atleast_1d(np.asarray(before, dtype=np.int64)),
            np.zeros(0) if change is None else np.atleast_1d(np.asarray(change, dtype=np.float64)),
        )


@dataclass(frozen=True)
class Schedule:
    """A planned set of transmissions.

    Attributes:
        table: One row per (transmission, receiver), in slot order, with `TABLE_COLUMNS`: `slot` number;
            `sinr_db` at the receiver in that slot; `rate_bps`; `start_s` and `end_s`; `payload_bytes`
            carried; `attempts` so far of this transfer, this row included; `delivered` on the row that
            completes the transfer; `energy_j` of this row (sender's share and receiver's, which is
            divided by length among what the receiver hears at once); `transfer` index; `transmission` id (the
            rows of one broadcast share it); `subchannel`; `power_w`;
            `decoded`, whether the receiver decoded the transmission before the deadline (a decoded part of
            a message is not yet `delivered`).
        delivered: (M,) whether each transfer arrived.
        finished_s: (M,) when it arrived, nan if it did not.
        attempts: (M,) failed attempts, and one more for a delivered transfer; the decoded parts of a message
            that a scheduler sends in segments are not among them.
        outcome: (M,) codes into `OUTCOMES`.
        end_s: When the last transmission ended.
        airtime_s: Sum over transmissions of their duration times the share of the band they occupy, a
            broadcast counted once, failed ones too.
    """

    table: pd.DataFrame
    delivered: BoolArray
    finished_s: FloatArray
    attempts: IntArray
    outcome: IntArray
    end_s: float
    airtime_s: float


@dataclass(frozen=True)
class RoundPlan:
    """What the radio did in one round.

    Attributes:
        table: As in `Schedule`; times are on the channel's virtual clock.
        delivered: (M,) whether each transfer arrived within the round.
        finished_s: (M,) when it arrived, on the virtual clock; nan if lost.
        attempts: (M,) failed attempts, and one more for a delivered transfer; the decoded parts of a message
            that a scheduler sends in segments are not among them.
        outcome: (M,) codes into `OUTCOMES`: why a transfer was lost.
        start_s: Clock at the start of the round.
        end_s: Clock at its end: the later of the last transmission and the slowest living device's
            training, or the deadline.
        airtime_s: Sum over transmissions of their duration times the share of the band they occupy, a
            broadcast counted once, failed ones too: the cost axis on which methods are compared.
        occupied_s: Span from the first transmission's start to the last one's end.
        radio_energy_j: (N,) energy of sending and receiving of each device in J; 0 for a device whose battery
            was empty when the radio phase began.
        compute_energy_j: (N,) energy of local training of each device in J; 0 for a device whose battery was
            empty before the round.
        alive: (N,) devices whose battery is not empty after the round.
        idle_energy_j: (N,) part of `energy_j` spent listening and idle.
        late: (N,) devices whose training was not done by the deadline: they sent nothing.
        starved_fraction: Share of the links wanted so far in the run that have never delivered anything.
        on: (N,) devices that were on when the round began; None where devices always are.
        training_s: (N,) from beginning to end of each device's training in s, with its speed and its pauses; where it
            never ends, until the device goes off. None where devices are always on at their class's speed.
        state_energy_j: (7, N) the radio's energy by state in J, in the order of `channels.power_states.STATES`, which
            adds up to `radio_energy_j`; None where radios have no states.
        control: What control cost before the first transfer; its energy is part of `radio_energy_j`, its bytes and
            airtime are not in `table` and `airtime_s`. None where it is free.
    """

    table: pd.DataFrame
    delivered: BoolArray
    finished_s: FloatArray
    attempts: IntArray
    outcome: IntArray
    start_s: float
    end_s: float
    airtime_s: float
    occupied_s: float
    radio_energy_j: FloatArray
    compute_energy_j: FloatArray
    alive: BoolArray
    idle_energy_j: FloatArray
    late: BoolArray
    starved_fraction: float
    on: BoolArray | None = None
    training_s: FloatArray | None = None
    state_energy_j: FloatArray | None = None
    control: ControlCost | None = None

    @property
    def present(self) -> BoolArray:
        """(N,) devices that were on when the round began."""
        return np.ones_like(self.alive) if self.on is None else self.on

    @property
    def energy_j(self) -> FloatArray:
        """(N,) computing and radio energy of each device in this round, in J."""
        return self.compute_energy_j + self.radio_energy_j


def as_transfers(transfers: Any) -> Transfers:
    """Accept transfers in any of the forms `channels.scheduling.plan` takes.

    Args:
        transfers: A `Transfers`; a mapping or DataFrame with `source`, `destination`, `payload_bytes`
            and optionally `message`, `after` and `change`; or a sequence of (source, destination, payload_bytes) where
            `destination` may also be a set, list or tuple of devices (one message to all of them).

    Returns:
        The transfers.

    Raises:
        ValueError: If a column is missing or an entry has no three parts.
    """
    if isinstance(transfers, Transfers):
        return transfers
    if isinstance(transfers, Mapping) or hasattr(transfers, "columns"):
        return _from_columns(transfers)
    names = getattr(getattr(transfers, "dtype", None), "names", None)
    if names:
        return _from_columns({name: transfers[name] for name in names})
    return _from_entries(transfers)


def _from_columns(columns: Any) -> Transfers:
    missing = [name for name in ("source", "destination", "payload_bytes") if name not in columns]
    if missing:
        raise ValueError(f"transfers lack the columns {missing}; expected source, destination, payload_bytes")
    more = (columns.get(name) for name in ("message", "after", "change"))
    return Transfers.build(columns["source"], columns["destination"], columns["payload_bytes"], *more)


def _from_entries(entries: Sequence[Any]) -> Transfers:
    rows: list[tuple[int, int, int, int]] = []
    for index, entry in enumerate(entries):
        parts = tuple(entry)
        if len(parts) != 3:
            raise ValueError(
                f"transfer {index} is {entry!r};"
                " expected (source, destination or destinations, payload_bytes)"
            )
        source, target, size = parts
        several = isinstance(target, set | frozenset | list | tuple | np.ndarray)
        targets: list[int] = (
            sorted(int(one) for one in cast("Sequence[int]", target)) if several else [int(target)]
        )
        rows.extend((int(source), one, int(size), index) for one in targets)
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 4)
    return Transfers.build(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])
