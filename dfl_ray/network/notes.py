"""What the user should know of graph and radio before they are used, and of deadlines that were missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.variants import TopologyConfig
from dfl_ray.network.parts import Root, partition_notes

if TYPE_CHECKING:
    from channels.transfers import RoundPlan
    from dfl_ray.config.devices import DevicesConfig
    from dfl_ray.experts.similarity import SharedSketches
    from dfl_ray.network.deployment import ChannelSetup
    from topology import Topology


def graph_notes(
    section: TopologyConfig,
    topology: Topology,
    channel: ChannelSetup | None = None,
    root: Root | None = None,
) -> tuple[str, ...]:
    """What the user should know of the graph, in words.

    Args:
        section: The configuration's `topology`.
        topology: The graph.
        channel: The radio and who is on; None: all are, and a partition is told without what would mend it.
        root: The device that all must reach, of methods with one.

    Returns:
        A sentence each if it falls into parts or has no link, if it has devices with more neighbours than asked, links
        out of reach, or keys that were changed and have no effect.
    """
    notes = [f"`topology.{note}." for note in _idle_keys(section)]
    notes += partition_notes(section, topology, channel, root)
    most = section.options().get("max_degree")
    over = 0 if most is None else int((topology.degree > most).sum())
    if over:
        notes.append(
            f"{over} devices have more than `topology.max_degree` ({most}) neighbours, at most "
            f"{int(topology.degree.max())}: without those links the holders of a task, or the graph, would fall "
            "apart. Raise `topology.max_degree`, let a device hold fewer tasks, or set `topology.strict` to refuse."
        )
    blind = int(np.isnan(topology.mean_snr_db).sum())
    if blind:
        notes.append(
            f"{blind} of {len(topology.edges)} links are below `topology.min_snr_db` ({section.min_snr_db:g} dB) and "
            "used all the same, since `topology.reach` is `ignore`: their airtime and energy may be spent for nothing. "
            "Set `topology.reach` to `respect` or `relay`."
        )
    return tuple(notes)


def undecodable_notes(section: TopologyConfig, left_out: int, *, parted: bool) -> tuple[str, ...]:
    """Say that links which the graph may have are of no use to the radio.

    Args:
        section: The configuration's `topology`.
        left_out: Number of links that reach `topology.min_snr_db` and practically never decode.
        parted: Whether the graph falls into parts, which fewer links would not join.

    Returns:
        At most one sentence.
    """
    if not left_out:
        return ()
    mend = (
        "Lower `radio.sinr_min_db`, or raise `radio.tx_power_dbm`."
        if parted
        else "Raise `topology.min_snr_db`, or lower `radio.sinr_min_db` if the radio is to decode less."
    )
    return (
        f"{left_out:,} links reach `topology.min_snr_db` ({section.min_snr_db:g} dB) but practically never decode, and "
        f"are left out of the graph. {mend}",
    )


def unheld_notes(topology: Topology, names: Sequence[str]) -> tuple[str, ...]:
    """Say which tasks no device holds, so that nobody trains on them though all are asked.

    Args:
        topology: The graph; its mixture says who holds what.
        names: The tasks' names.

    Returns:
        At most one sentence.
    """
    held = np.flatnonzero((topology.mixture > 0).sum(axis=0))
    nobody = [name for task, name in enumerate(names) if task not in held]
    if not nobody:
        return ()
    return (
        f"No device holds {', '.join(nobody)}: nobody trains on it, and all devices are asked it. Raise "
        "`devices.min_holders` or `devices.count`, or leave it out of `tasks.names`.",
    )


def _idle_keys(section: TopologyConfig) -> list[str]:
    """Keys that differ from their default in vain, since another one keeps them out of use."""
    own, fields = section.options(), type(section).model_fields
    changed = {name for name in own if own[name] != fields[name].get_default(call_default_factory=True)}
    notes: list[str] = []
    if section.type == "clustered":
        if section.reach != "respect":
            notes.append(f"reach` is {section.reach} and has no effect: clustered respects reach, and relays")
        weights = own["energy_weight"] or own["collision_weight"]
        reasons = {
            "interference_factor": "" if own["collision_weight"] else "`topology.collision_weight` is 0",
            "airtime_weight": "" if weights or not own["airtime_weight"] else "no other weight is set",
            "clusters": "`topology.by` is tasks" if own["by"] == "tasks" else "",
            "features_path": "`topology.by` is tasks" if own["by"] == "tasks" else "",
        }
    elif section.type == "erdos_renyi":
        reasons = {"mean_degree": "" if own["probability"] is None else "`topology.probability` is set"}
    elif section.type == "d_cliques":
        reasons = {
            "far": "" if own["between"] == "small_world" else f"`topology.between` is {own['between']}"
        }
    else:
        reasons = {}
    notes += [f"{name}` has no effect: {why}" for name, why in reasons.items() if why and name in changed]
    return notes


def movement_notes(section: DevicesConfig) -> tuple[str, ...]:
    """Say which settings of movement were changed and change nothing, since devices stand still.

    Args:
        section: The configuration's `devices`.

    Returns:
        A sentence for each.
    """
    mobility, fields = section.mobility, type(section.mobility).model_fields
    idle = ["hysteresis_db"] if mobility.type == "static" else []
    idle += ["rebuild_share"] if section.keep_graph else []
    return tuple(
        f"`devices.mobility.{name}` is {value:g} and has no effect: `devices.mobility` is static."
        for name in idle
        for value in [mobility.model_dump()[name]]
        if value != fields[name].default
    )


def cluster_notes(section: TopologyConfig, sketches: SharedSketches | None) -> tuple[str, ...]:
    """How well the groups found from what devices share are the declared tasks.

    Args:
        section: The configuration's `topology`.
        sketches: What devices share; None where groups are not found from it.

    Returns:
        At most one sentence, with the adjusted Rand index.
    """
    from topology.clustering import adjusted_rand_index, by_similarity

    if sketches is None:
        return ()
    label = by_similarity(sketches.values, section.options()["clusters"], kind="features")
    index = adjusted_rand_index(label, sketches.task)
    return (
        f"The graph's groups are {int(label.max()) + 1} clusters of the sketches of {len(label)} local data sets, "
        f"found without task names: adjusted Rand index {index:.3f} against the declared tasks",
    )


def parts_note(round_index: int, before: int, now: int) -> str | None:
    """Say that a graph has fallen into parts, or that it is whole again.

    Args:
        round_index: The round, from 1.
        before: Number of parts in the round before.
        now: Number of parts now.

    Returns:
        A sentence, or None where the number is the same.
    """
    if now == before:
        return None
    if now == 1:
        return f"Round {round_index}: the graph is whole again"
    change = "falls into" if now > before else "still falls into"
    return (
        f"Round {round_index}: the graph {change} {now} parts that cannot reach each other (before: {before})"
    )


def radio_notes(channel: ChannelSetup, topology: Topology) -> tuple[str, ...]:
    """What of the radio lies outside its path-loss model's range, or has no effect.

    Args:
        channel: What the channel is made from.
        topology: The graph; its links are what the radio has to carry.

    Returns:
        A sentence each for the carrier, the antenna heights and the lengths of links outside the range, and for
        settings that were changed and have no effect.
    """
    from channels.largescale import settings_model
    from channels.validity import distance_notes, idle_notes, setting_notes

    model = settings_model(channel.settings)
    ends = np.asarray(channel.positions_m)[topology.edges]
    lengths_m = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    said = (
        *setting_notes(channel.settings, model),
        *idle_notes(channel.settings, model, len(channel.positions_m)),
    )
    settings = (f"`radio.{note}." for note in said)
    return (
        *(note.replace(" is ", "` is ", 1) for note in settings),
        *(note + "." for note in distance_notes(model, lengths_m)),
    )


def deadline_note(
    round_index: int, plan: RoundPlan, compute_s: np.ndarray, deadline_s: float | None
) -> str | None:
    """Say that a round's deadline came before the training of some devices was done, or before control was.

    Args:
        round_index: The round, from 1.
        plan: What the radio did.
        compute_s: (devices,) simulated time of this round's training in s.
        deadline_s: `radio.deadline_s`.

    Returns:
        A sentence, or None where it did not.
    """
    late = late_note(round_index, plan.late, compute_s, deadline_s)
    if late or plan.control is None or not plan.control.cut:
        return late
    return (
        f"In round {round_index} `radio.deadline_s` ({deadline_s:g} s) came before control was done: beacons, reports "
        "and grants of `radio.control=charged` take longer than a round, so no message was sent. Raise "
        "`radio.deadline_s`, or lower what control takes: raise `radio.control_every_rounds`, or take a "
        "`radio.scheduler` that is told less, such as tdma or csma."
    )


def late_note(
    round_index: int, late: np.ndarray, compute_s: np.ndarray, deadline_s: float | None
) -> str | None:
    """Say that devices were not done with their training by the round's deadline.

    Args:
        round_index: The round, from 1.
        late: (devices,) whether each was late.
        compute_s: (devices,) simulated time of this round's training in s.
        deadline_s: `radio.deadline_s`.

    Returns:
        A sentence, or None where nobody was late.
    """
    if deadline_s is None or not late.any():
        return None
    return (
        f"In round {round_index} {int(late.sum())} of {late.size} devices had not finished training by "
        f"`radio.deadline_s` ({deadline_s:g} s) and sent nothing: a round's training takes up to "
        f"{float(compute_s[late].max()):.3g} s, and what is left of it delays the next round's. Raise "
        "`radio.deadline_s`, lower `method.local_steps`, or give the devices faster classes."
    )


def emptied_note(round_index: int, emptied: Sequence[int]) -> str:
    """Say which devices leave a run.

    Args:
        round_index: The round, from 1.
        emptied: Devices whose battery ran empty in it, at least one.
    """
    return f"Round {round_index}: battery empty, out of the run: device {first_of(emptied)}"


def unusable_note(devices: Sequence[int], count: int) -> str:
    """Say which devices end a run with adapters that cannot be used.

    Args:
        devices: These devices, at least one.
        count: Number of devices.
    """
    return (
        f"{len(devices)} of {count} devices end with adapters that hold NaN, infinite or values beyond float16, so "
        f"their accuracy says nothing: device {first_of(devices)}"
    )


def first_of(devices: Sequence[int]) -> str:
    """The first ten of some devices, for a sentence."""
    return ", ".join(map(str, devices[:10])) + (" ..." if len(devices) > 10 else "")
