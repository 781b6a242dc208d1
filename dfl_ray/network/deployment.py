"""Where devices stand, which tasks they hold, what the radio carries between them, and the graph made of it.

Needs neither rows nor a model, so that `dfl-ray plan` can use it at 100,000 devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from channels.energy import DeviceClass, draw_classes
from dfl_ray.config.radio import radio_settings
from dfl_ray.config.schema import Config, DevicesConfig, TopologyConfig
from dfl_ray.errors import InputError
from dfl_ray.seeds import Stream, generator, integer

if TYPE_CHECKING:
    from channels.channel import Channel
    from channels.energy import DeviceClasses
    from channels.settings import RadioSettings
    from topology import Topology

DEVICE_CLASSES: Mapping[str, tuple[DeviceClass, ...]] = MappingProxyType(
    {
        "uniform": (DeviceClass(),),
        "mixed": (
            DeviceClass("phone", share=0.6),
            DeviceClass("tablet", share=0.2, frequency_hz=3e9),
            DeviceClass("sensor", share=0.2, frequency_hz=6e8, tx_power_dbm=17.0),
        ),
    }
)
"""Mixes of device classes by the name `devices.classes` takes."""

_OPTION_OF_KEY: Mapping[str, str] = MappingProxyType(
    {
        "max_degree": "max_degree",
        "min_gap": "min_gap",
        "gateways_per_pair": "gateways_per_pair",
        "airtime_weight": "alpha",
        "energy_weight": "beta",
        "collision_weight": "gamma",
        "degree": "k",
        "probability": "probability",
        "radius_m": "radius_m",
        "rewire": "rewire",
        "path": "path",
    }
)


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
        """The channel."""
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

    Raises:
        InputError: The wanted layout is impossible.
    """
    import topology

    d = config.devices
    try:
        positions = topology.placement.place(
            d.placement, d.count, area_m=d.area_m, rng=generator(config.seed, Stream.PLACEMENT),
            path=d.placement_path,
        )  # fmt: skip
        mixture = topology.partition.task_mixture(
            d.partition, d.count, tasks, rng=generator(config.seed, Stream.PARTITION), alpha=d.dirichlet_alpha,
            tasks_per_device=d.tasks_per_device, min_holders=d.min_holders, path=d.partition_path,
        )  # fmt: skip
        classes = draw_classes(device_classes(d), d.count, seed=integer(config.seed, Stream.DEVICE_CLASSES))
        settings = radio_settings(config.radio)
        channel = ChannelSetup(settings, positions, integer(config.seed, Stream.CHANNEL), classes)
        graph = _topology(config, channel, mixture)
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from error
    return Deployment(mixture, channel, graph)


def device_classes(section: DevicesConfig) -> tuple[DeviceClass, ...]:
    """The classes devices are drawn from, with the battery the section gives them."""
    classes = DEVICE_CLASSES[section.classes]
    return (
        classes
        if section.battery_j is None
        else tuple(replace(c, battery_j=section.battery_j) for c in classes)
    )


def _topology(config: Config, setup: ChannelSetup, mixture: np.ndarray) -> Topology:
    import topology

    channel = setup.make()
    pairs, snr_db = channel.candidate_links(config.topology.min_snr_db)
    return topology.build(
        config.topology.type,
        positions_m=setup.positions_m,
        mixture=mixture,
        candidate_pairs=pairs,
        airtime_s_per_mb=channel.airtime_s_per_mb(pairs[:, 0], pairs[:, 1]),
        mean_snr_db=snr_db,
        rng=generator(config.seed, Stream.TOPOLOGY),
        reach=config.topology.reach,
        **topology_options(config.topology),
    )


def topology_options(section: TopologyConfig) -> dict[str, Any]:
    """The options of the section that the chosen graph's builder takes, by the builder's names."""
    import inspect

    import topology

    taken = inspect.signature(topology.GRAPHS[section.type]).parameters
    values = {option: getattr(section, key) for key, option in _OPTION_OF_KEY.items()}
    return {option: value for option, value in values.items() if option in taken and value is not None}
