"""Where devices stand, which tasks they hold, what the radio carries between them, and the graph made of it.

Needs neither rows nor a model, so that `dfl-ray plan` can use it at 100,000 devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from channels.energy import DeviceClass, draw_classes
from channels.tables import DEVICE_MIXES
from dfl_ray.config.radio import radio_settings
from dfl_ray.config.schema import Config, DevicesConfig, TopologyConfig
from dfl_ray.errors import InputError
from dfl_ray.seeds import Stream, generator, integer

if TYPE_CHECKING:
    from channels.channel import Channel
    from channels.energy import DeviceClasses
    from channels.settings import RadioSettings
    from topology import Topology


@dataclass(frozen=True)
class ChannelSetup:
    """What a channel is made from, wherever it runs.

    Attributes:
        settings: The radio.
        positions_m: (devices, 2).
        seed: Seed of all its draws.
        classes: Device classes.
    """

    settings: RadioSettings
    positions_m: np.ndarray
    seed: int
    classes: DeviceClasses

    def make(self) -> Channel:
        """Make the channel; the same setup gives the same channel in every process."""
        from channels.channel import Channel

        return Channel(self.settings, self.positions_m, seed=self.seed, device_classes=self.classes)


@dataclass(frozen=True)
class Deployment:
    """Where devices stand and what the radio and the graph make of it; needs neither tasks' rows nor a model.

    Attributes:
        mixture: (devices, tasks) shares, rows sum to 1.
        channel: What the channel is made from.
        topology: The graph.
    """

    mixture: np.ndarray
    channel: ChannelSetup
    topology: Topology


def build_deployment(config: Config, tasks: int) -> Deployment:
    """Place the devices, deal the tasks, make the channel and build the graph.

    Args:
        config: The experiment.
        tasks: Number of tasks.

    Returns:
        The deployment; the same seed gives the same one.

    Raises:
        InputError: The wanted layout is impossible.
    """
    import topology

    d = config.devices
    try:
        positions = topology.placement.place(
            d.placement.type, d.count, area_m=d.area_m, rng=generator(config.seed, Stream.PLACEMENT),
            **d.placement.options(),
        )  # fmt: skip
        mixture = topology.partition.task_mixture(
            d.partition.type, d.count, tasks, rng=generator(config.seed, Stream.PARTITION),
            **d.partition.options(),
        )  # fmt: skip
        classes = draw_classes(device_classes(d), d.count, seed=integer(config.seed, Stream.DEVICE_CLASSES))
        settings = radio_settings(config.radio)
        channel = ChannelSetup(settings, positions, integer(config.seed, Stream.CHANNEL), classes)
        graph = _topology(config.topology, config.seed, channel, mixture)
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from error
    return Deployment(mixture, channel, graph)


def device_classes(section: DevicesConfig) -> tuple[DeviceClass, ...]:
    """List the classes that devices are drawn from, with the battery in J that the section gives them, if it does.

    Args:
        section: The configuration's `devices`.

    Returns:
        The classes of the mix `section.classes`.
    """
    classes = DEVICE_MIXES[section.classes]
    return (
        classes
        if section.battery_j is None
        else tuple(replace(c, battery_j=section.battery_j) for c in classes)
    )


def _topology(section: TopologyConfig, seed: int, setup: ChannelSetup, mixture: np.ndarray) -> Topology:
    import topology

    channel = setup.make()
    pairs, snr_db = channel.candidate_links(section.min_snr_db)
    return topology.build(
        section.type,
        positions_m=setup.positions_m,
        mixture=mixture,
        candidate_pairs=pairs,
        airtime_s_per_mb=channel.airtime_s_per_mb(pairs[:, 0], pairs[:, 1]),
        mean_snr_db=snr_db,
        rng=generator(seed, Stream.TOPOLOGY),
        reach=section.reach,
        **section.options(),
    )
