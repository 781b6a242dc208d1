"""`alternate`: its config section and what dfl-ray must know of it; imports no torch."""

from typing import Literal

from pydantic import Field

from dfl_ray.config.training import GossipConfig
from dfl_ray.methods.entries import MethodEntry
from dfl_ray.methods.laws import NeighbourLaw
from dfl_ray.methods.spec import MethodSpec


class AlternateConfig(GossipConfig):
    """dlora that speaks to every so many-th neighbour only, to another share of them each round."""

    type: Literal["alternate"] = Field(default="alternate", description="the method's name")
    stride: int = Field(default=2, ge=1, description="one in so many neighbours is spoken to in a round")


def every_so_many(context):
    """The traffic law: who gets how many values in which round; the run and `dfl-ray plan` both ask it."""
    stride = context.config.stride
    return NeighbourLaw(
        context,
        values=lambda device, round_index: context.layout.size,
        choose=lambda neighbours, round_index: neighbours[round_index % stride :: stride],
    )


ALTERNATE = MethodEntry(AlternateConfig, "dfl_example.alternate:Alternate", MethodSpec(every_so_many))
