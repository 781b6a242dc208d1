"""What devices wanted sent in a recorded round, read back from the rows of `transfers`.

A row is one radio hop. Hops lie in the order in which the run asked the channel for them, so that the rows give the
channel the same question again: who sends what to whom, after which other hop, and which hops carry the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from channels.transfers import Transfers
from dfl_ray.errors import InputError
from dfl_ray.network.traffic import TransferRequests
from dfl_ray.simulation.radio_tables import Hops
from dfl_ray.wire.message import Kind

Link = tuple[bool, str, int, int]
"""Whether adapters are meant or published updates, the task ("" for all tasks together), origin and receiver."""
COLUMNS = (
    "round", "transfer", "source", "destination", "kind", "task", "payload_bytes", "message", "hop", "origin",
    "receiver", "delivered", "change",
)  # fmt: skip
"""What is read of `transfers`."""


@dataclass(frozen=True)
class RecordedRequests:
    """A round's requests, and what the run made of them.

    Attributes:
        wanted: The requests.
        hops: The same as radio hops.
        tasks: Names of the tasks, by the numbers in `wanted`.
        arrived: (wanted,) whether each arrived in the run.
        unknown: Requests whose whole way is part of others' ways, so that no row tells them from relayed hops.
    """

    wanted: TransferRequests
    hops: Hops
    tasks: tuple[str, ...]
    arrived: np.ndarray
    unknown: int


def recorded_requests(
    rows: pd.DataFrame, wanted: int, linked: Callable[[], Container[Link]] = frozenset
) -> RecordedRequests:
    """Read a round's requests back.

    Args:
        rows: The round's rows of `transfers` in their order, with `COLUMNS`.
        wanted: Number of requests of the round (`rounds.transfers`).
        linked: Gives the pairs that exchange messages; asked only where they are needed.

    Returns:
        The requests. In records of before 29 November 2026 a request has no row of its own where a message to a farther
        device passes its receiver; it is known where the number of requests, or who is linked with whom, leaves one
        reading; else it is counted in `unknown`.

    Raises:
        InputError: The rows are from before schema version 2, or two ways of one message meet in a relay.
    """
    if len(rows) and rows["message"].isna().any():
        raise InputError(
            "The run's records do not say which message a transfer belongs to",
            expected="records of schema version 2 or later",
            change="Run it again with this dfl-ray.",
        )
    column = {
        name: rows[name].to_numpy(np.int64)
        for name in COLUMNS
        if name not in ("kind", "task", "delivered", "change")
    }
    change = rows["change"].to_numpy(np.float64)
    tasks = tuple(dict.fromkeys(rows["task"].dropna()))
    key = np.stack([column["origin"], column["message"], column["receiver"]], axis=1)
    _, first, owner = np.unique(key, axis=0, return_index=True, return_inverse=True)
    # Requests are numbered in the order of their rows.
    place = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    first, owner = np.sort(first), place[owner.reshape(-1)]
    ends = np.flatnonzero(column["destination"] == column["receiver"])
    last = np.full(len(first), -1, np.int64)
    last[owner[ends]] = ends
    implied, unknown = _implied(rows, column, wanted - len(first), linked)
    first, last = np.concatenate([first, implied]), np.concatenate([last, implied])
    numbers = {name: column[name][first] for name in ("origin", "receiver", "message", "payload_bytes")}
    numbers["receiver"][len(first) - len(implied) :] = column["destination"][implied]
    kinds, number_of = rows["kind"].to_numpy(object), {name: k for k, name in enumerate(tasks)}
    requests = TransferRequests(
        numbers["origin"], numbers["receiver"], numbers["message"], numbers["payload_bytes"],
        np.array([int(Kind[kinds[i].upper()]) for i in first], np.int64),
        np.array([number_of.get(rows["task"].iloc[i], -1) for i in first], np.int64),
        change[last] if len(last) else np.zeros(0),
    )  # fmt: skip
    hops = Hops(replace(_transfers(column), change=change), owner, column["hop"], last)
    arrived = rows["delivered"].to_numpy(bool)[last] if len(last) else np.zeros(0, bool)
    return RecordedRequests(requests, hops, tasks, arrived, unknown)


def _implied(
    rows: pd.DataFrame, column: dict[str, np.ndarray], missing: int, linked: Callable[[], Container[Link]]
) -> tuple[np.ndarray, int]:
    """Rows that end at a device which wanted the message too and has no row of its own, and how many are not known."""
    if missing == 0:
        return np.zeros(0, np.int64), 0
    names = ("origin", "message", "receiver")
    said = set(zip(*(column[name].tolist() for name in names), strict=True))
    found: dict[tuple[int, int, int], int] = {}
    for row in np.flatnonzero(column["destination"] != column["receiver"]).tolist():
        one = (int(column["origin"][row]), int(column["message"][row]), int(column["destination"][row]))
        if one not in said:
            found.setdefault(one, row)
    if len(found) > missing:
        pairs, tasks = linked(), rows["task"].fillna("")
        adapter = (rows["kind"] == Kind.ADAPTER.name.lower()).tolist()
        found = {
            one: row for one, row in found.items() if (adapter[row], tasks.iloc[row], one[0], one[2]) in pairs
        }
    if len(found) == missing:
        return np.array(list(found.values()), np.int64), 0
    return np.zeros(0, np.int64), missing


def _transfers(column: dict[str, np.ndarray]) -> Transfers:
    """The hops with their precedences and the relays' own message numbers, as `radio_tables.expand_hops` gives them."""
    source, destination, origin = column["source"], column["destination"], column["origin"]
    message, hop = column["message"].copy(), column["hop"]
    after = np.full(len(source), -1, np.int64)
    free = int(message.max(initial=0)) + 1
    numbers: dict[tuple[int, int, int], int] = {}
    reached: dict[tuple[int, int, int, int], list[int]] = {}
    # Rows without relays are ready as they are: the loop below is only for those that forward.
    for row in range(len(source)) if (hop > 1).any() else ():
        at = (int(origin[row]), int(column["message"][row]), int(hop[row]))
        if hop[row] > 1:
            before = reached.get((*at[:2], at[2] - 1, int(source[row])), [])
            if not before or (len(before) > 1 and before[-1] != row - 1):
                raise _unclear(column, row)
            after[row] = before[-1]
            relay = (int(source[row]), at[0], at[1])
            message[row] = numbers.setdefault(relay, free + len(numbers))
        reached.setdefault((*at, int(destination[row])), []).append(row)
    return Transfers.build(source, destination, column["payload_bytes"], message, after)


def _unclear(column: dict[str, np.ndarray], row: int) -> InputError:
    return InputError(
        "The records do not say which hop another one forwards",
        got=f"round {column['round'][row]}, transfer {column['transfer'][row]} from device {column['source'][row]}",
        expected="one hop of its message that ends there",
        change="Plan the run's configuration with `dfl-ray plan` in its place.",
    )
