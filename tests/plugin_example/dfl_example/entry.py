"""`alternate`: its config section and what dfl-ray must know of it; imports no torch."""

from typing import Literal

from pydantic import Field

from dfl_ray.config.training import GossipConfig
from dfl_ray.methods.entries import MethodEntry


class AlternateConfig(GossipConfig):
    """dlora that speaks to every so many-th neighbour only, to another share of them each round."""

    type: Literal["alternate"] = Field(default="alternate", description="the method's name")
    stride: int = Field(default=2, ge=1, description="one in so many neighbours is spoken to in a round")


ALTERNATE = MethodEntry(AlternateConfig, "dfl_example.alternate:Alternate")
