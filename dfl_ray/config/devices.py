"""The section `devices`: how many there are, where they stand, what they hold, what they are and when they are on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from channels.tables import DEVICE_MIXES
from dfl_ray.config.availability import AvailabilityConfig
from dfl_ray.config.choices import Choice, Variants
from dfl_ray.config.class_table import SUFFIXES
from dfl_ray.config.faults import FaultsConfig
from dfl_ray.config.section import Section
from dfl_ray.config.variants import (
    MobilityConfig,
    PartitionConfig,
    PlacementConfig,
    mobility_section,
    partition_section,
    placement_section,
)
from topology.tables import MOBILITY, PARTITIONS, PLACEMENTS


class DevicesConfig(Section):
    """The devices, where they stand and which tasks they hold."""

    count: int = Field(default=10, ge=1, le=1_000_000, description="number of devices")
    area_m: tuple[float, float] = Field(
        default=(300.0, 300.0), description="width and height of the area in metres"
    )
    placement: Annotated[
        PlacementConfig, Variants(PLACEMENTS, "uniform", PlacementConfig, placement_section)
    ] = Field(default_factory=lambda: placement_section("uniform")(), description="where they stand")
    partition: Annotated[
        PartitionConfig, Variants(PARTITIONS, "balanced", PartitionConfig, partition_section)
    ] = Field(
        default_factory=lambda: partition_section("balanced")(),
        description="which tasks a device holds, and in which mixture",
    )
    mobility: Annotated[MobilityConfig, Variants(MOBILITY, "static", MobilityConfig, mobility_section)] = (
        Field(
            default_factory=lambda: mobility_section("static")(),
            description="how they move in virtual time; links and graph follow from round to round",
        )
    )
    availability: AvailabilityConfig = Field(
        default_factory=AvailabilityConfig, description="when they are on, and how fast"
    )
    sizes: Literal["equal", "lognormal"] = Field(
        default="equal", description="how a task's rows are split over holders"
    )
    lognormal_sigma: float = Field(
        default=0.5, ge=0, description="`lognormal`: standard deviation of the logarithm of a holder's size"
    )
    skew: Literal["none", "label_dirichlet", "label_shards", "length"] = Field(
        default="none",
        description="which of a task's rows a holder gets: drawn alike; each answer's rows by shares from a Dirichlet "
        "distribution; shards of rows sorted by answer; rows of one range of prompt lengths (a shift of features)",
    )
    skew_alpha: float = Field(
        default=0.5, gt=0, description="`label_dirichlet`: concentration; the smaller, the more uneven"
    )
    shards_per_device: int = Field(default=2, ge=1, description="`label_shards`: shards of a holder")
    battery_j: float | None = Field(
        default=None, gt=0, description="energy of each device at the start; none = mains power"
    )
    classes: Annotated[str, Choice(DEVICE_MIXES, files=SUFFIXES)] = Field(
        default="uniform",
        description="device classes: all phones (`uniform`), phones, tablets and sensors (`mixed`), `hardware`, or a "
        "CSV or YAML file of one's own (docs/devices.md)",
    )
    class_figures: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="figures of classes, `{sensor: {share: 0.3, frequency_hz: 4e8}}`: share, flops_per_s, "
        "joules_per_flop or watts (or frequency_hz, cycles_per_flop, capacitance), tx_power_dbm, battery_j, "
        "step_overhead_s; a class the mix does not have states its share",
    )
    faults: FaultsConfig = Field(default_factory=FaultsConfig, description="devices that fail or attack")

    @property
    def keep_graph(self) -> bool:
        """Whether the graph of the start is that of the whole run: nobody moves, everybody is always on."""
        return self.mobility.type == "static" and self.availability.path is None
