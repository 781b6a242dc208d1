"""What the radio did in one round, as rows of `transfers` and `attempts`, bytes by device, and figures of the round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.network.traffic import TransferRequests
from dfl_ray.wire.message import Kind

if TYPE_CHECKING:
    import pandas as pd

    from channels.transfers import RoundPlan, Transfers


@dataclass(frozen=True)
class Hops:
    """The wanted transfers as single radio hops.

    Attributes:
        transfers: What the channel is asked to carry, one entry a hop; a hop is sent once the one before it
            on the message's way (`Transfers.after`) was decoded.
        owner: (hops,) index of the wanted transfer each hop belongs to: the one that ends with it, else the first that
            goes over it, since a message that a device relays to several others comes to it once.
        hop: (hops,) place of the hop on the way from the message's origin to its receiver, from 1.
        last: (wanted,) last hop of each wanted transfer.
    """

    transfers: Transfers
    owner: np.ndarray
    hop: np.ndarray
    last: np.ndarray

    def arrived(self, delivered: np.ndarray, wanted: int) -> np.ndarray:
        """Tell which wanted transfers arrived: those whose last hop, and so every hop before it, was delivered.

        Args:
            delivered: (hops,) whether each hop was delivered.
            wanted: Number of wanted transfers.

        Returns:
            (wanted,) bool.
        """
        return delivered[self.last] if wanted else np.zeros(0, dtype=bool)


def expand_hops(wanted: TransferRequests, relays: Mapping[tuple[int, int], tuple[int, ...]]) -> Hops:
    """Replace transfers over relayed links by their radio hops, each charged with the whole message.

    Store and forward: a hop is sent once the hop before it was decoded, and not at all if that one was lost. A
    message that a relay forwards gets a number of its own among the relay's messages: one for each (relay, origin,
    message), above all numbers in use, so that a relay that forwards one message to several neighbours may broadcast
    it. Hops without relays keep the wanted transfer's number. A hop that the ways to several receivers share is sent
    once, and counts by the largest change that it carries to one of them; it belongs to the one that it ends at.

    Args:
        wanted: What devices want sent, in the order of the result.
        relays: (a, b) -> devices on the way from a to b, both ends included, for links of several hops; all other
            links are one hop.

    Returns:
        The hops, those of one wanted transfer in the order of the way.
    """
    from channels.transfers import Transfers

    count = len(wanted)
    if not relays:
        columns = (wanted.source, wanted.destination, wanted.payload_bytes, wanted.message)
        transfers = Transfers.build(*columns, change=wanted.change)
        return Hops(transfers, np.arange(count), np.ones(count, np.int64), np.arange(count))
    rows: list[tuple[int, ...]] = []
    placed: dict[tuple[int, int, int, int, int], int] = {}
    last, changes = np.zeros(count, np.int64), list[float]()
    forwarded: dict[tuple[int, int, int], int] = {}
    first_free = int(wanted.message.max(initial=0)) + 1
    for i in range(count):
        source, to, message = int(wanted.source[i]), int(wanted.destination[i]), int(wanted.message[i])
        before = -1
        for hop, (a, b) in enumerate(pairwise(relays.get((source, to), (source, to))), start=1):
            number = message
            if a != source:
                number = forwarded.setdefault((a, source, message), first_free + len(forwarded))
            place = placed.setdefault((a, b, source, message, before), len(rows))
            if place == len(rows):
                rows.append((a, b, int(wanted.payload_bytes[i]), number, before, i, hop))
                changes.append(np.nan)
            changes[place] = float(np.fmax(changes[place], wanted.change[i]))
            before = place
        last[i] = before
    table = np.array(rows, np.int64).reshape(-1, 7)
    # Every receiver has the row in which a message comes to it, though others' ways go on from there.
    table[last[::-1], 5] = np.arange(count)[::-1]
    transfers = Transfers.build(*(table[:, k] for k in range(5)), change=changes)
    return Hops(transfers, table[:, 5], table[:, 6], last)


def radio_phase_start_s(plan: RoundPlan) -> float:
    """Clock at which the round's first transmission began, in s: the origin of recorded times; 0 when none did."""
    return float(plan.table["start_s"].to_numpy().min()) if len(plan.table) else 0.0


def transfer_table(
    plan: RoundPlan, hops: Hops, wanted: TransferRequests, tasks: Sequence[str]
) -> pd.DataFrame:
    """One row a hop: when it ran, at what SINR, whether it arrived and to which message it belongs.

    Args:
        plan: What the radio did with `hops.transfers`.
        hops: The hops, M of them.
        wanted: The transfers they belong to.
        tasks: Names of the tasks.

    Returns:
        M rows with the columns of `dfl_ray.records.TRANSFERS` but `round`. What the radio never tried has null in
        `slot`, `sinr_db`, `rate_bps`, `start_s` and `end_s`, and zero attempts and energy.
    """
    import pandas as pd

    from channels.transfers import OUTCOMES

    t, owner, tries = hops.transfers, hops.owner, plan.table
    carried = tries["transfer"].to_numpy()
    first, last = _first_and_last_row(carried, len(t))
    begin = radio_phase_start_s(plan)
    kinds = {int(k): k.name.lower() for k in Kind}
    return pd.DataFrame(
        {
            "transfer": np.arange(len(t)),
            "slot": pd.Series(_taken(tries, "slot", last)).astype("Int64"),
            "source": t.source,
            "destination": t.destination,
            "kind": [kinds[int(k)] for k in wanted.kind[owner]],
            "task": [None if k < 0 else tasks[k] for k in wanted.task[owner]],
            "sinr_db": _taken(tries, "sinr_db", last),
            "rate_bps": _taken(tries, "rate_bps", last),
            "start_s": _taken(tries, "start_s", first) - begin,
            "end_s": _taken(tries, "end_s", last) - begin,
            "payload_bytes": t.payload_bytes,
            "attempts": np.bincount(carried, minlength=len(t)),
            "delivered": plan.delivered,
            "energy_j": np.bincount(carried, weights=tries["energy_j"].to_numpy(), minlength=len(t)),
            "message": wanted.message[owner],
            "hop": hops.hop,
            "origin": wanted.source[owner],
            "receiver": wanted.destination[owner],
            "outcome": np.array(OUTCOMES, dtype=object)[plan.outcome],
            "change": t.change,
        }
    )


def _first_and_last_row(number: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count,) first and last row of each transfer in a table in the order of time; -1 where it has none."""
    order = np.argsort(number, kind="stable")
    tried, starts, counts = np.unique(number[order], return_index=True, return_counts=True)
    first, last = np.full(count, -1), np.full(count, -1)
    first[tried], last[tried] = order[starts], order[starts + counts - 1]
    return first, last


def _taken(table: pd.DataFrame, column: str, rows: np.ndarray) -> np.ndarray:
    """One value a transfer, NaN where it has no row."""
    values = np.full(len(rows), np.nan)
    values[rows >= 0] = table[column].to_numpy()[rows[rows >= 0]]
    return values


ATTEMPT_COLUMNS = (
    "transfer", "transmission", "slot", "subchannel", "source", "destination", "sinr_db", "rate_bps", "start_s",
    "end_s", "payload_bytes", "decoded", "delivered", "energy_j", "power_w",
)  # fmt: skip
"""What an attempt is recorded with, as the channel's plan has it; times get the radio phase's origin."""


def attempt_table(plan: RoundPlan) -> pd.DataFrame:
    """One row a transmission and receiver, as the radio carried them out, in the order of time.

    Args:
        plan: What the radio did.

    Returns:
        The columns of `dfl_ray.records.ATTEMPTS` but `round`; `attempt` numbers the rows of each transfer from 1.
    """
    import pandas as pd

    table = {name: plan.table[name].to_numpy() for name in ATTEMPT_COLUMNS}
    begin = radio_phase_start_s(plan)
    table |= {name: table[name] - begin for name in ("start_s", "end_s")}
    return pd.DataFrame(
        {"transfer": table["transfer"], "attempt": _occurrence(table["transfer"]) + 1, **table}, copy=False
    )


def _occurrence(number: np.ndarray) -> np.ndarray:
    """(rows,) how many rows of the same number come before each row."""
    order = np.argsort(number, kind="stable")
    before = np.empty(len(number), np.int64)
    before[order] = np.arange(len(number)) - np.searchsorted(number[order], number[order])
    return before


def _transmissions(plan: RoundPlan, *columns: str) -> Iterator[np.ndarray]:
    """Columns of `plan.table` with one value a transmission, however many receivers it had: that of its first row."""
    first = np.unique(plan.table["transmission"].to_numpy(), return_index=True)[1]
    return (plan.table[name].to_numpy()[first] for name in columns)


def bytes_on_air(plan: RoundPlan) -> int:
    """Bytes put on air in the round: every attempt counted, a broadcast once, a cut one as far as it was sent.

    Args:
        plan: What the radio did.

    Returns:
        Payload bytes.
    """
    (once,) = _transmissions(plan, "payload_bytes")
    return int(once.sum())


def sent_bytes(plan: RoundPlan, count: int) -> np.ndarray:
    """(count,) bytes that each device put on air, counted as in `bytes_on_air`, of which it is the share.

    Args:
        plan: What the radio did.
        count: Number of devices.

    Returns:
        (count,) int64 payload bytes; they sum to `bytes_on_air`.
    """
    source, payload_bytes = _transmissions(plan, "source", "payload_bytes")
    return np.bincount(source, weights=payload_bytes, minlength=count).astype(np.int64)


def attempt_sinr_db(plan: RoundPlan) -> np.ndarray:
    """SINR of every attempt of the round.

    Args:
        plan: What the radio did.

    Returns:
        (attempts,) dB, one value a transmission and receiver; those without any signal (minus infinity) and
        those without a value are left out.
    """
    values = plan.table["sinr_db"].to_numpy(float)
    return values[np.isfinite(values)]


def state_energy(plan: RoundPlan) -> dict[str, np.ndarray]:
    """Energy of each device's radio by state.

    Args:
        plan: What the radio did.

    Returns:
        Column of `devices` -> (devices,) energy in J; nothing where radios have no states.
    """
    from channels.power_states import STATES

    if plan.state_energy_j is None:
        return {}
    return {f"{state}_energy_j": own for state, own in zip(STATES, plan.state_energy_j, strict=True)}


def control_costs(plan: RoundPlan) -> dict[str, float]:
    """What control cost in a round.

    Args:
        plan: What the radio did.

    Returns:
        Column of `rounds` -> value; nothing where control is free.
    """
    if plan.control is None:
        return {}
    return {
        "control_bytes": plan.control.sent_bytes,
        "control_airtime_s": plan.control.airtime_s,
        "control_s": plan.control.span_s,
        "control_energy_j": float(plan.control.energy_j.sum()),
    }


def radio_metrics(plan: RoundPlan, delivered: np.ndarray) -> dict[str, Any]:
    """Make the radio columns of a `rounds` row.

    Args:
        plan: What the radio did.
        delivered: (wanted,) whether each wanted transfer arrived, over all its hops.

    Returns:
        Column name -> value; shares and percentiles are None where there was nothing to measure.
    """
    sinr = attempt_sinr_db(plan)
    low, middle, high = np.percentile(sinr, [5, 50, 95]) if len(sinr) else (None, None, None)
    wanted = len(delivered)
    return {
        "simulated_s": plan.end_s,
        "payload_bytes": bytes_on_air(plan),
        "airtime_s": plan.airtime_s,
        "energy_j": float(plan.energy_j.sum()),
        "radio_energy_j": float(plan.radio_energy_j.sum()),
        "compute_energy_j": float(plan.compute_energy_j.sum()),
        "idle_energy_j": float(plan.idle_energy_j.sum()),
        **{name: float(values.sum()) for name, values in state_energy(plan).items()},
        **control_costs(plan),
        "starved_fraction": plan.starved_fraction,
        "delivered_fraction": float(delivered.mean()) if wanted else None,
        "sinr_db_p05": low,
        "sinr_db_p50": middle,
        "sinr_db_p95": high,
        "transfers": wanted,
        "delivered": int(delivered.sum()),
        "lost": int((~delivered).sum()),
        "alive_devices": int(plan.alive.sum()),
        "off_devices": int((~plan.present).sum()),
    }
