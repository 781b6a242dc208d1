"""When devices are on and how fast: the section of the configuration."""

from __future__ import annotations

from pydantic import Field

from dfl_ray.config.section import Section


class AvailabilityConfig(Section):
    """When devices are on, and how fast they compute: a trace played back in virtual time."""

    path: str | None = Field(
        default=None,
        description="CSV or Parquet file of device, t_s, on (0 or 1), speed (factor); none = always on at full speed",
    )
    patience_s: float = Field(
        default=0.0,
        ge=0,
        description="a device that is off for less keeps its place in the graph; after that the graph goes round it",
    )
