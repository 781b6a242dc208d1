"""Where devices stand, which tasks they hold, what the radio carries between them, and the graph made of it.

Needs neither rows nor a model, so that `dfl-ray plan` can use it at 100,000 devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from channels.energy import DeviceClass, draw_classes, with_figures
from dfl_ray.config.class_table import classes_of
from dfl_ray.config.devices import DevicesConfig
from dfl_ray.config.radio import radio_settings
from dfl_ray.config.schema import Config
from dfl_ray.config.variants import TopologyConfig
from dfl_ray.errors import InputError
from dfl_ray.network.availability import presence_of
from dfl_ray.network.comm_graph import CommGraph, comm_graph
from dfl_ray.seeds import Stream, generator, integer

if TYPE_CHECKING:
    from channels.channel import Channel
    from channels.energy import DeviceClasses
    from channels.presence import Presence
    from channels.settings import RadioSettings
    from dfl_ray.experts.similarity import SharedSketches
    from topology import Topology
    from topology.mobility.base import Mobility


Links = tuple[np.ndarray, np.ndarray]
"""(E, 2) pairs of devices, and a figure of each, (E,)."""


@dataclass(frozen=True)
class ChannelSetup:
    """What a channel is made from, wherever it runs.

    Attributes:
        settings: The radio.
        positions_m: (devices, 2).
        seed: Seed of all its draws.
        classes: Device classes.
        presence: When devices are on and how fast they are; None where they always are.
        patience_s: How long a device may be off before its links are given up, in s.
    """

    settings: RadioSettings
    positions_m: np.ndarray
    seed: int
    classes: DeviceClasses
    presence: Presence | None = None
    patience_s: float = 0.0

    def make(self) -> Channel:
        """Make the channel; the same setup gives the same channel in every process."""
        from channels.channel import Channel

        return Channel(
            self.settings,
            self.positions_m,
            seed=self.seed,
            device_classes=self.classes,
            presence=self.presence,
        )

    def linked(self, links: Links, time_s: float) -> Links:
        """Leave out the links of devices that have been off for longer than `patience_s`.

        Args:
            links: (E, 2) pairs, and a figure of each.
            time_s: Virtual time in s.
        """
        if self.presence is None:
            return links
        here = self.here(time_s)
        kept = here[links[0]].all(axis=1)
        return links[0][kept], links[1][kept]

    def here(self, time_s: float) -> np.ndarray:
        """(devices,) bool, who is on at a virtual time or has been off for no longer than `patience_s`."""
        if self.presence is None:
            return np.ones(len(self.positions_m), dtype=bool)
        off_s = self.presence.off_for(time_s)
        return self.presence.on_at(time_s) | (off_s < self.patience_s)


@dataclass(frozen=True)
class Deployment:
    """Where devices stand and what the radio and the graph make of it; needs neither tasks' rows nor a model.

    Attributes:
        mixture: (devices, tasks) shares, rows sum to 1.
        channel: What the channel is made from.
        topology: The graph.
        sketches: What the graph's groups are found from; None where they are the declared tasks, or a file's.
        undecodable: Number of links that reach `topology.min_snr_db` and yet practically never decode: left out.
    """

    mixture: np.ndarray
    channel: ChannelSetup
    topology: Topology
    sketches: SharedSketches | None = None
    undecodable: int = 0


def decodable(channel: Channel, links: Links) -> Links:
    """Leave out the links over which practically nothing is ever decoded, whatever their mean SNR is allowed to be.

    Args:
        channel: The channel, with the devices where they are.
        links: Pairs that may be linked.
    """
    pairs, figure = links
    able = np.isfinite(channel.airtime_s_per_mb(pairs[:, 0], pairs[:, 1]))
    return pairs[able], figure[able]


def needs_sketches(section: TopologyConfig) -> bool:
    """Whether a graph's groups are to be found from the devices' data, by sketches that no file gives."""
    own = section.options()
    return own.get("by") == "similarity" and own.get("features_path") is None


def dealt_tasks(config: Config, tasks: int, names: Sequence[str] | None = None) -> np.ndarray:
    """Deal the tasks to the devices.

    Args:
        config: The experiment; `devices.partition` says how.
        tasks: Number of tasks.
        names: Their names in order, by which a file is read.

    Returns:
        (devices, tasks) shares, rows sum to 1; the same seed gives the same ones.

    Raises:
        InputError: The partition is impossible.
    """
    import topology

    d = config.devices
    try:
        return topology.partition.task_mixture(
            d.partition.type, d.count, tasks, rng=generator(config.seed, Stream.PARTITION), names=names,
            **d.partition.options(),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"`devices.partition` cannot be carried out: {error}") from error


def build_deployment(
    config: Config,
    tasks: int,
    sketches: SharedSketches | None = None,
    names: Sequence[str] | None = None,
) -> Deployment:
    """Place the devices, deal the tasks, make the channel and build the graph.

    Args:
        config: The experiment.
        tasks: Number of tasks.
        sketches: What devices share of their data, where `needs_sketches`.
        names: Names of the tasks in their order, by which a file of a partition is read.

    Returns:
        The deployment; the same seed gives the same one.

    Raises:
        InputError: The wanted layout is impossible.
    """
    d = config.devices
    try:
        positions = placed(config) if d.mobility.type == "static" else mobility_model(config).positions_m
        mixture = dealt_tasks(config, tasks, names)
        channel = channel_setup(config, positions)
        air = channel.make()
        links = channel.linked(air.candidate_links(config.topology.min_snr_db), 0.0)
        able = decodable(air, links)
        graph = graph_on(config.topology, config.seed, air, positions, mixture, able, sketches)
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from error
    return Deployment(mixture, channel, graph, sketches, len(links[0]) - len(able[0]))


def channel_setup(config: Config, positions_m: np.ndarray) -> ChannelSetup:
    """What the channel of an experiment is made from.

    Args:
        config: The experiment.
        positions_m: (devices, 2) where the devices stand when it starts, metres.

    Returns:
        Radio, seed, device classes and presence, as the configuration has them.

    Raises:
        ValueError: A class's figure is out of range, or no class has a share.
        InputError: The file that says when devices are on is no such file.
    """
    d = config.devices
    classes = draw_classes(device_classes(d), d.count, seed=integer(config.seed, Stream.DEVICE_CLASSES))
    return ChannelSetup(
        radio_settings(config.radio), positions_m, integer(config.seed, Stream.CHANNEL), classes,
        presence=presence_of(d.availability, d.count), patience_s=d.availability.patience_s,
    )  # fmt: skip


def device_classes(section: DevicesConfig) -> tuple[DeviceClass, ...]:
    """List the classes that devices are drawn from, with the battery in J that the section gives them, if it does.

    Args:
        section: The configuration's `devices`.

    Returns:
        The classes of the mix `section.classes`, with the figures that `section.class_figures` sets.
    """
    classes = classes_of(section.classes)
    if section.battery_j is not None:
        classes = tuple(replace(c, battery_j=section.battery_j) for c in classes)
    return with_figures(classes, section.class_figures)


def placed(config: Config) -> np.ndarray:
    """Place the devices.

    Args:
        config: The experiment; `devices.placement` says where.

    Returns:
        (devices, 2) positions, metres; the same seed gives the same ones.

    Raises:
        InputError: The placement is impossible.
    """
    import topology

    d = config.devices
    try:
        return topology.placement.place(
            d.placement.type, d.count, area_m=d.area_m, rng=generator(config.seed, Stream.PLACEMENT),
            **d.placement.options(),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"`devices.placement` cannot be carried out: {error}") from error


def mobility_model(config: Config) -> Mobility:
    """Make the devices' mobility model as it is when a run starts.

    Args:
        config: The experiment; `devices.mobility` says how they move.

    Returns:
        The model at virtual time 0; the same seed gives the same one.

    Raises:
        InputError: The placement is impossible, an option is out of range, a trace cannot be read, or the model does
            not say where every device is.
    """
    from topology import mobility
    from topology.answers import positions
    from topology.registry import ask

    d, start = config.devices, placed(config)
    what = f"mobility model {d.mobility.type!r}"
    try:
        model = ask(
            what, mobility.create, d.mobility.type, start, area_m=d.area_m,
            rng=generator(config.seed, Stream.MOBILITY), **d.mobility.options(),
        )  # fmt: skip
        positions(what, ask(what, lambda: model.positions_m), d.count)
    except ValueError as error:
        raise InputError(f"`devices.mobility` cannot be carried out: {error}") from error
    return model


def graph_on(
    section: TopologyConfig,
    seed: int,
    channel: Channel,
    positions_m: np.ndarray,
    mixture: np.ndarray,
    links: Links,
    sketches: SharedSketches | None = None,
) -> Topology:
    """Build the graph on the links that the radio can serve.

    Args:
        section: The configuration's `topology`.
        seed: The run's seed.
        channel: The channel, with the devices where they are.
        positions_m: (devices, 2) where they are, metres.
        mixture: (devices, tasks) shares.
        links: (E, 2) pairs that may be linked, and their (E,) mean SNR in dB.
        sketches: What the groups are found from, where `needs_sketches`.

    Returns:
        The graph; the same arguments give the same one.

    Raises:
        InputError: The graph cannot be built from these links, or from so many devices.
    """
    import topology

    pairs, snr_db = links
    shared = {} if sketches is None else {"features": sketches.values, "feature_devices": sketches.device}
    try:
        return topology.build(
            section.type,
            positions_m=positions_m,
            mixture=mixture,
            candidate_pairs=pairs,
            airtime_s_per_mb=channel.airtime_s_per_mb(pairs[:, 0], pairs[:, 1]),
            energy_j_per_mb=channel.energy_j_per_mb(pairs[:, 0], pairs[:, 1]),
            mean_snr_db=snr_db,
            rng=generator(seed, Stream.TOPOLOGY),
            reach=section.reach,
            options={**shared, **section.options()},
        )
    except ValueError as error:
        raise InputError(f"`topology` cannot be carried out: {error}") from error


def graph_for(config: Config, topology: Topology) -> CommGraph:
    """Digest a topology for a run; see `comm_graph`.

    Args:
        config: The run.
        topology: The built topology with its mixture.
    """
    method = config.method
    return comm_graph(topology, mixing=config.topology.mixing, hub=method.hub, through=method.through)
