"""A graph in parts in words: who cannot reach whom, or a method's server, and what would join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.radio import RADIO_RANGES
from dfl_ray.config.variants import LEAST_SNR_DB, TopologyConfig
from dfl_ray.network.reach import MOST_DEVICES, Remedy, remedy, rounded_up

if TYPE_CHECKING:
    from dfl_ray.network.deployment import ChannelSetup
    from topology import Topology

MOST_TOLD = 5
"""Most parts, devices of a part, or links that a note names."""


@dataclass(frozen=True)
class Root:
    """The device that all others must reach under a method: its server, or that at which a walk begins.

    Attributes:
        device: The device.
        name: The subject of a sentence.
        unreached: What devices do that it does not reach, as a sentence of its own.
        key: The key that names the device; empty where it cannot be chosen.
    """

    device: int
    name: str
    unreached: str
    key: str = ""


def partition_notes(
    section: TopologyConfig, topology: Topology, channel: ChannelSetup | None, root: Root | None
) -> list[str]:
    """Say which devices of a graph in parts are out of reach of which, and what joins them.

    Args:
        section: The configuration's `topology`.
        topology: The graph.
        channel: The radio and who is on; None: all are, and what would mend it is told in general.
        root: The device that all must reach, of methods with one.

    Returns:
        At most one note.
    """
    here = np.ones(topology.nodes, dtype=bool) if channel is None else channel.here(0.0)
    labels = topology.components[here]
    parts = [np.flatnonzero(here)[labels == label] for label in np.unique(labels)]
    if len(parts) < 2:
        return []
    mend = _mending(section, channel, here)
    parts.sort(key=lambda part: part.size)
    if root is not None and here[root.device]:
        return [_root_words(root, parts, mend)]
    if not len(topology.edges):
        return [f"No device has a link: nothing will be sent, and each device trains alone. {mend}"]
    told = f"The graph falls into {len(parts)} parts that cannot reach each other; each goes on by itself"
    return [f"{told}. Out of the others' reach: devices {_named(parts[:-1])}. {mend}"]


def _root_words(root: Root, parts: Sequence[np.ndarray], mend: str) -> str:
    """Of parts, the largest last: whom a method's server or walk does not reach, and what becomes of them."""
    (own,) = (part for part in parts if root.device in part)
    away = [part for part in parts if part is not own]
    total = sum(part.size for part in parts) - 1
    told = f"{root.name} reaches {own.size - 1} of {total} other devices: {root.unreached}"
    moved = ""
    if root.key and own.size < parts[-1].size:
        moved = f" Or set `{root.key}` to a device of the largest part, such as {parts[-1][0]}."
    return f"{told}. Out of its reach: devices {_named(away)}. {mend}{moved}"


def _named(parts: Sequence[np.ndarray]) -> str:
    """Devices of some parts of a graph, as far as a note names them."""
    names = (
        ", ".join(map(str, p[:MOST_TOLD])) + (" ..." if len(p) > MOST_TOLD else "") for p in parts[:MOST_TOLD]
    )
    return "; ".join(names) + (" and more" if len(parts) > MOST_TOLD else "")


def _mending(section: TopologyConfig, channel: ChannelSetup | None, here: np.ndarray) -> str:
    """What joins a graph's parts: better links where the radio lacks them, more links where the graph does."""
    found = None if channel is None else remedy(channel, section.min_snr_db, here)
    listed = section.type == "file"
    if found is not None:
        words = _remedy_words(found, section.min_snr_db, channel)
        return words + (" `topology.path` has to list links between the parts too." if listed else "")
    if channel is not None and here.sum() <= MOST_DEVICES:
        return "The radio could join them, the graph lacks the links: " + (
            "add links between the parts to the file of `topology.path`."
            if listed
            else "ask for more of them by the keys of `topology`, or take another `topology.type`."
        )
    if listed:
        return (
            "Add links between the parts to the file of `topology.path`, of lengths that the radio can carry."
        )
    return (
        "Raise `radio.tx_power_dbm`, make `devices.area_m` smaller or, where links decode below it, lower "
        "`topology.min_snr_db` to join them."
    )


def _remedy_words(found: Remedy, min_snr_db: float, channel: ChannelSetup | None) -> str:
    """Say which pairs come closest to reaching each other, and which values join all, in steps of 0.1 dB."""
    pairs = [
        f"{a} and {b} ({gap.length_m:.0f} m, {gap.mean_snr_db:.1f} dB, {gap.missing_db:.1f} dB too low)"
        for gap in found.gaps[:MOST_TOLD]
        for a, b in [gap.ends]
    ]
    more = f" and {len(found.gaps) - MOST_TOLD} more" if len(found.gaps) > MOST_TOLD else ""
    ways = []
    if channel is not None and np.isfinite(found.power_db):
        rise_db = rounded_up(found.power_db)
        power_dbm = channel.settings.tx_power_dbm + rise_db
        if power_dbm <= RADIO_RANGES["tx_power_dbm"][1]:
            ways.append(f"`radio.tx_power_dbm={power_dbm:g}` ({rise_db:g} dB more)")
    elif channel is not None:
        ways.append("more power for the classes of devices that set `tx_power_dbm` themselves")
    if found.sinr_min_db is not None:
        ways.append(f"`radio.sinr_min_db={found.sinr_min_db:g}`")
    least_db = min_snr_db - rounded_up(found.missing_db)
    if found.decodes and least_db >= LEAST_SNR_DB:
        ways.append(f"`topology.min_snr_db={least_db:g}`")
    ways.append(f"a range of {found.longest_m:.0f} m")
    return f"The links nearest to use are {'; '.join(pairs)}{more}. What joins all: {' or '.join(ways)}."
