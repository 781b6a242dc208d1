"""The record tables and the two of the topology: columns, units, meanings and the schema version.

Every column carries its meaning in the Arrow field's metadata (key `doc`) and the schema version that brought it
(key `since`), so that a Parquet file explains itself, `docs/records.md` can be checked against the code, and records of
an older version stay readable. Units are in the names; a name without one is a count, a share in [0, 1] or an index.

Versions: 1, the first. 2: table `attempts`; columns `message`, `hop`, `origin`, `receiver` and `outcome` of
`transfers`; `devices.sent_bytes` counts a broadcast once and not once for each receiver; `transfers.attempts` counts
the decoded segments of a message too; the SINR percentiles of `rounds` are over all attempts and not over the last
attempt of each transfer. 3: `late_devices`, `idle_energy_j` and `starved_fraction` of `rounds`, `idle_energy_j` and
`late` of `devices`; radio energy holds listening and idling; the outcome `upstream`; a transmission that was cut counts
the bytes really sent, and airtime the share of the band. 4: tables `experts` and `routing`. 5: table `local_rounds`;
`off_devices`, `on` and the outcome `off`. 6: the radio's energy by state in `rounds` and `devices`, null unless
`radio.energy` is `states`. 7: control in `rounds` and `devices`, null unless `radio.control` is `charged`. 8:
`change` of `transfers`, null unless `radio.priority` is `information`. 9: `straggler_wall_s` of `rounds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from dfl_ray.records.conforming import conform as conform
from dfl_ray.records.conforming import upgrade as upgrade

if TYPE_CHECKING:
    from dfl_ray.records.conforming import TableLike as TableLike

SCHEMA_VERSION = 9

_KINDS = {
    "i": pa.int64(),
    "j": pa.int32(),
    "h": pa.int16(),
    "f": pa.float64(),
    "g": pa.float32(),
    "s": pa.string(),
    "b": pa.bool_(),
}


def _schema(
    table: str, columns: Iterable[tuple[str, str, str]], *, since: Mapping[str, int] | int = 1
) -> pa.Schema:
    """Build a schema from (name, kind, meaning); an upper-case kind must not be null.

    Args:
        table: Name of the table.
        columns: Its columns in order.
        since: Schema version that brought the table, or column -> version for those that came later than it.
    """
    came = {} if isinstance(since, int) else since
    first = since if isinstance(since, int) else 1
    fields = [
        pa.field(
            name,
            _KINDS[kind.lower()],
            nullable=kind.islower(),
            metadata={"doc": doc, "since": str(came.get(name, first))},
        )
        for name, kind, doc in columns
    ]
    return pa.schema(fields, metadata={"dfl_ray.table": table, "dfl_ray.schema_version": str(SCHEMA_VERSION)})


_STATE_ENERGY = [
    (f"{state}_energy_j", "f", f"the part of radio_energy_j spent {what}; null without `radio.energy=states`")
    for state, what in (
        ("transmit", "sending"),
        ("receive", "receiving"),
        ("listen", "awake, since something was still awaited"),
        ("micro_sleep", "in micro sleep"),
        ("light_sleep", "in light sleep"),
        ("deep_sleep", "in deep sleep"),
        ("transition", "on the ways to a sleep and back"),
    )
]
STATE_ENERGY_COLUMNS: tuple[str, ...] = tuple(name for name, _, _ in _STATE_ENERGY)
"""Columns of `rounds` and `devices` that add up to `radio_energy_j` where radios have states."""

_CONTROL = [
    ("control_bytes", "i", "bytes of beacons, reports and grants; none of them in payload_bytes"),
    ("control_airtime_s", "f", "their time on air, none of it in airtime_s"),
    ("control_s", "f", "how long they kept the round's transfers waiting"),
    ("control_energy_j", "f", "the part of radio_energy_j spent on them"),
]
CONTROL_COLUMNS: tuple[str, ...] = tuple(name for name, _, _ in _CONTROL)
"""Columns of `rounds` that hold what control cost where it is charged."""

ROUNDS = _schema(
    "rounds",
    [
        ("round", "I", "communication round, from 1"),
        ("simulated_s", "F", "virtual clock at the round's end, cumulative"),
        ("payload_bytes", "I", "bytes put on air in the round, every attempt counted, a broadcast once"),
        ("airtime_s", "F", "sum of the transmissions' times on air in the round"),
        ("energy_j", "F", "energy of radio and computing in the round, all devices"),
        ("delivered_fraction", "f", "delivered transfers over all transfers; null when none was wanted"),
        ("accuracy_mean", "f", "mean over devices and tasks by the method's rule; null when not evaluated"),
        ("wall_s", "F", "real time the round took"),
        ("accuracy_worst_task", "f", "least of the tasks' mean accuracies; null when not evaluated"),
        ("forgetting_mean", "f", "mean over tasks of best accuracy so far - now; null when not evaluated"),
        ("interference_gap", "f", "accuracy by the oracle rule - by the method's; null when unknown"),
        ("train_loss", "f", "mean training loss of the devices that trained"),
        (
            "consensus_distance",
            "f",
            "sum of |D_i - mean D|^2 over n |mean D|^2, D = s B A and what is merged, mean over tasks",
        ),
        ("collision_b", "f", "share of entries of B kept by two tasks, mean over task pairs"),
        ("collision_delta_w", "f", "share of entries of B A touched by two tasks, mean over task pairs"),
        ("spectral_gap", "f", "1 - second largest |eigenvalue| of the mixing matrix, least over tasks"),
        ("density", "f", "share of B that is kept and travels"),
        ("sinr_db_p05", "f", "5th percentile of the SINR over all attempts of the round"),
        ("sinr_db_p50", "f", "median of the SINR over all attempts of the round"),
        ("sinr_db_p95", "f", "95th percentile of the SINR over all attempts of the round"),
        ("transfers", "i", "transfers wanted in the round"),
        ("delivered", "i", "transfers that arrived inside the deadline"),
        ("lost", "i", "transfers that did not arrive"),
        ("refused", "i", "messages that arrived and were refused (checksum, mask, version)"),
        ("skipped_devices", "i", "devices left out of the round (non-finite loss or adapters, late)"),
        ("late_devices", "i", "devices whose training was not done by the deadline: they sent nothing"),
        ("off_devices", "i", "devices that were off when the round began: they took no part in it"),
        ("alive_devices", "i", "devices with charge left at the round's end"),
        ("replica_staleness_rounds", "f", "mean age of the foreign experts the devices hold"),
        (
            "radio_energy_j",
            "f",
            "energy of sending, receiving, listening and idling in the round, all devices",
        ),
        ("compute_energy_j", "f", "energy of training in the round, all devices"),
        ("idle_energy_j", "f", "the part of radio_energy_j spent listening and idle"),
        *_STATE_ENERGY,
        *((name, kind, f"{doc}; null unless `radio.control=charged`") for name, kind, doc in _CONTROL),
        ("starved_fraction", "f", "share of the links wanted so far in the run that never delivered"),
        ("object_store_bytes", "i", "bytes put into the object store in the round"),
        (
            "message_bytes",
            "i",
            "bytes of the messages that arrived, once for each receiver, however many hops",
        ),
        ("node_crossing_bytes", "i", "those of them whose sender and receiver lie on different nodes"),
        ("train_wall_s", "f", "real time of training"),
        ("straggler_wall_s", "f", "of it, what the slowest actor took longer than the mean; null with one"),
        ("plan_wall_s", "f", "real time of planning the radio"),
        ("exchange_wall_s", "f", "real time of delivering, decoding and mixing"),
        ("evaluate_wall_s", "f", "real time of evaluating"),
        ("record_wall_s", "f", "real time of writing records and tracking"),
        ("overhead_fraction", "f", "share of wall_s outside training and evaluation"),
    ],
    since={**dict.fromkeys(("late_devices", "idle_energy_j", "starved_fraction"), 3), "off_devices": 5}
    | dict.fromkeys(STATE_ENERGY_COLUMNS, 6)
    | dict.fromkeys(CONTROL_COLUMNS, 7)
    | {"straggler_wall_s": 9},
)

DEVICES = _schema(
    "devices",
    [
        ("round", "I", "communication round, from 1"),
        ("device", "I", "device index, from 0"),
        ("loss", "f", "mean training loss of the round; null when the device did not train"),
        ("gradient_norm", "f", "mean gradient norm before clipping"),
        ("compute_s", "f", "virtual time of the device's training"),
        ("energy_j", "f", "energy of the device in the round, radio and computing"),
        (
            "radio_energy_j",
            "f",
            "energy of the device's radio, listening and idling included; 0 without charge",
        ),
        ("compute_energy_j", "f", "energy of the device's training; 0 without charge"),
        ("idle_energy_j", "f", "the part of radio_energy_j spent listening and idle"),
        *_STATE_ENERGY,
        (
            "control_energy_j",
            "f",
            "the part of radio_energy_j spent on beacons, reports and grants; null unless `radio.control=charged`",
        ),
        (
            "sent_bytes",
            "i",
            "bytes the device put on air, every attempt counted, a broadcast once, forwarded messages too",
        ),
        (
            "received_bytes",
            "i",
            "bytes of the messages that reached the device as their receiver, the refused ones too",
        ),
        ("refused", "i", "messages the device refused"),
        ("alive", "b", "whether the device has charge left at the round's end"),
        ("late", "b", "whether its training was not done by the deadline, so that it sent nothing"),
        ("on", "b", "whether the device was on when the round began; one that was off took no part in it"),
        ("x_m", "f", "position"),
        ("y_m", "f", "position"),
        ("tasks", "s", "names of the tasks it holds, comma separated"),
        ("actor", "s", "name of the actor that hosts it"),
    ],
    since={**dict.fromkeys(("idle_energy_j", "late"), 3), "on": 5}
    | dict.fromkeys(STATE_ENERGY_COLUMNS, 6)
    | {"control_energy_j": 7},
)

TRANSFERS = _schema(
    "transfers",
    [
        ("round", "I", "communication round, from 1"),
        ("transfer", "I", "index of the transfer inside the round: one hop of one message to one receiver"),
        ("slot", "i", "slot of the schedule in which it ran last; null when it never ran"),
        ("source", "I", "device that sends on this hop"),
        ("destination", "I", "device that receives on this hop"),
        ("kind", "s", "adapter, expert, sketch, mask, projection or bid"),
        ("task", "s", "task the message belongs to; null when to none"),
        ("sinr_db", "f", "SINR of the last attempt"),
        ("rate_bps", "f", "rate of the last attempt"),
        ("start_s", "f", "start of the first attempt, from the start of the round's radio phase"),
        ("end_s", "f", "end of the last attempt, from the start of the round's radio phase"),
        ("payload_bytes", "I", "length of the whole encoded message, counted once however often it was sent"),
        ("attempts", "i", "attempts made: its rows in `attempts`"),
        ("delivered", "B", "whether it arrived inside the deadline"),
        ("energy_j", "f", "energy of sender and receiver, all attempts"),
        ("message", "j", "number of the message, unique for its origin in the round"),
        ("hop", "h", "place of this hop on the message's way to the receiver, from 1"),
        ("origin", "j", "device that made the message"),
        ("receiver", "j", "device for which the message is meant"),
        (
            "outcome",
            "s",
            "delivered, or why not: failed, late, dead, unserved, upstream (an earlier hop was lost), off (an end was)",
        ),
        (
            "change",
            "f",
            "how much of it is new to its receivers, 0 to 2, the largest; null unless `radio.priority=information`",
        ),
    ],
    since=dict.fromkeys(("message", "hop", "origin", "receiver", "outcome"), 2) | {"change": 8},
)

ATTEMPTS = _schema(
    "attempts",
    [
        ("round", "J", "communication round, from 1"),
        ("transfer", "J", "transfer that it serves, as in `transfers`"),
        ("attempt", "H", "number of the attempt of this transfer, from 1"),
        ("transmission", "J", "transmission inside the round; the rows of one broadcast share it"),
        ("slot", "J", "slot of the schedule"),
        ("subchannel", "H", "sub-channel, from 0"),
        ("source", "J", "sending device"),
        ("destination", "J", "receiving device"),
        ("sinr_db", "g", "SINR at the receiver"),
        ("rate_bps", "g", "rate at which it was sent"),
        ("start_s", "F", "start of the transmission, from the start of the round's radio phase"),
        ("end_s", "F", "end of the transmission, from the start of the round's radio phase"),
        (
            "payload_bytes",
            "I",
            "bytes the transmission carried; a part of the message if it was cut",
        ),
        ("decoded", "B", "whether the receiver decoded it before the deadline"),
        ("delivered", "B", "whether it completed the transfer"),
        (
            "energy_j",
            "F",
            "energy of the receiver, divided by length among what it hears at once, and that of the sender divided by "
            "the number of receivers",
        ),
        ("power_w", "g", "radiated power of the sender"),
    ],
    since=2,
)

EVALUATION = _schema(
    "evaluation",
    [
        ("round", "I", "round after which it was measured; 0 = before tuning"),
        ("device", "I", "device that answered"),
        ("task", "S", "task of the held-out rows"),
        ("rule", "S", "inference rule"),
        ("accuracy", "F", "share of rows answered right"),
        ("rows", "i", "held-out rows asked"),
        ("chance", "f", "accuracy of the best constant answer; null for F1 and ROUGE-L"),
        ("routed_right", "f", "share of rows sent to the expert of their own task; null unless a router"),
    ],
)

EXPERTS = _schema(
    "experts",
    [
        ("round", "J", "round after which it was looked at, as in `evaluation`"),
        ("device", "J", "device that answers with it"),
        ("task", "S", "task that it answers"),
        ("holding", "S", "own = trained by the device; replica = received; none = it never arrived"),
        ("author", "j", "device that trained it; null when none"),
        ("version", "j", "round in which the author published it; null unless a replica"),
        ("age_rounds", "j", "round - version; 0 for an own one, null when none"),
    ],
    since=4,
)

ROUTING = _schema(
    "routing",
    [
        ("round", "J", "round after which it was measured, as in `evaluation`"),
        ("device", "J", "device that answered"),
        ("rule", "S", "inference rule, of those that choose one expert a row"),
        ("task", "S", "task of the held-out rows"),
        ("chosen", "S", "task of the expert that the router chose"),
        ("rows", "I", "held-out rows of `task` sent to it; pairs without rows are left out"),
    ],
    since=4,
)

LOCAL_ROUNDS = _schema(
    "local_rounds",
    [
        ("round", "J", "window of virtual time in which the local round ended, from 1"),
        ("device", "J", "device index, from 0"),
        ("local_round", "J", "the device's own count of its local rounds, from 1"),
        ("compute_s", "F", "virtual time of its training"),
        ("end_s", "F", "virtual clock at which the device sent, mixed and went on"),
        ("messages", "J", "messages that it took in then"),
        (
            "age_rounds",
            "f",
            "their mean age: local rounds it had ended since their senders began to train; null without any",
        ),
    ],
    since=5,
)

TOPOLOGY_NODES = _schema(
    "topology_nodes",
    [
        ("round", "I", "first round for which this topology holds"),
        ("device", "I", "device index, from 0"),
        ("x_m", "f", "position"),
        ("y_m", "f", "position"),
        ("tasks", "s", "names of the tasks it holds, comma separated"),
        ("cluster", "i", "cluster label"),
        ("gateway", "b", "whether one of its links is a gateway link"),
    ],
)

TOPOLOGY_EDGES = _schema(
    "topology_edges",
    [
        ("round", "I", "first round for which this topology holds"),
        ("source", "I", "one end, the smaller index"),
        ("destination", "I", "the other end"),
        ("length_m", "f", "2-D distance"),
        ("mean_snr_db", "f", "SNR without fading and interference"),
        ("airtime_s_per_mb", "f", "time on air per 10^6 bytes at the mean SNR"),
        ("kind", "s", "intra, gateway or relay"),
    ],
)

TABLES: dict[str, pa.Schema] = {
    "rounds": ROUNDS,
    "devices": DEVICES,
    "transfers": TRANSFERS,
    "attempts": ATTEMPTS,
    "evaluation": EVALUATION,
    "experts": EXPERTS,
    "routing": ROUTING,
    "local_rounds": LOCAL_ROUNDS,
}
TOPOLOGY_TABLES: dict[str, pa.Schema] = {"nodes": TOPOLOGY_NODES, "edges": TOPOLOGY_EDGES}

WALL_COLUMNS: tuple[str, ...] = (
    "wall_s",
    "train_wall_s",
    "straggler_wall_s",
    "plan_wall_s",
    "exchange_wall_s",
    "evaluate_wall_s",
    "record_wall_s",
    "overhead_fraction",
    "object_store_bytes",
    "node_crossing_bytes",
    "actor",
)
"""Columns that describe this machine and this layout, not the experiment: left out of comparisons."""


def came_with(field: pa.Field) -> int:
    """Schema version, from 1, that brought a column."""
    return int((field.metadata or {}).get(b"since", b"1"))
