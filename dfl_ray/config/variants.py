"""Sections whose `type` names an entry of a registry of `topology`: placement, partition, graph and mobility model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from dfl_ray.config.choices import Choice
from dfl_ray.config.options import section_of
from dfl_ray.config.section import Section
from topology.tables import GRAPHS, MIXINGS, MOBILITY, PARTITIONS, PLACEMENTS

LEAST_SNR_DB = -200.0
"""Least value of `topology.min_snr_db`."""


def names_path(key: str) -> bool:
    """Whether a key of a variant names a file by its path: `path`, or one that ends with `_path`.

    Args:
        key: Name of the key, without its section.
    """
    return key == "path" or key.endswith("_path")


class Variant(Section):
    """A section whose `type` names an entry of a registry, which adds keys of its own to those of all entries."""

    type: str

    @classmethod
    def base(cls) -> type[Variant]:
        """The class of the section with the keys of all entries alone."""
        return next(c for c in cls.__mro__ if Variant in c.__bases__)

    def options(self) -> dict[str, Any]:
        """The keys that are the entry's own; `~` in a path is the user's home."""
        own = {name: value for name, value in self if name not in self.base().model_fields}
        return {
            name: str(Path(value).expanduser()) if names_path(name) and isinstance(value, str) else value
            for name, value in own.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the name of the entry: its class is made at run time, in every process anew."""
        return _again, (self.base(), self.type, dict(self))


def _again(base: type[Variant], name: str, values: dict[str, Any]) -> Variant:
    return _SECTIONS[base](name)(**values)


class PlacementConfig(Variant):
    """Where the devices stand; each placement adds its own keys."""

    type: str = Field(default="uniform", description="the placement")


class PartitionConfig(Variant):
    """Which tasks a device holds; each partition adds its own keys."""

    type: str = Field(default="balanced", description="the partition")


class MobilityConfig(Variant):
    """How the devices move; each model adds its own keys."""

    type: str = Field(default="static", description="the mobility model")
    hysteresis_db: float = Field(
        default=3.0,
        ge=0,
        le=100,
        description="a link in use is kept down to so many dB below `topology.min_snr_db`",
    )
    rebuild_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of usable links that must come or go before the graph is built anew; it also is when a "
        "link in use is lost, or when a new one joins parts",
    )


class TopologyConfig(Variant):
    """Who may talk to whom; each graph adds its own keys."""

    type: str = Field(default="clustered", description="the graph")
    mixing: Annotated[str, Choice(MIXINGS)] = Field(
        default="metropolis_hastings", description="gossip weights"
    )
    min_snr_db: float = Field(
        default=3.0, ge=LEAST_SNR_DB, le=200, description="least mean SNR of a link that may be used"
    )
    reach: Literal["respect", "relay", "ignore"] = Field(
        default="respect",
        description="`respect`: only links the radio can carry; `relay`: what is out of reach goes over several "
        "hops; `ignore`: the textbook graph. `clustered` always respects reach and relays where needed",
    )


@cache
def placement_section(name: str) -> type[PlacementConfig]:
    """The section of one placement."""
    return _made("placement", name, PLACEMENTS[name], ("count", "area_m", "rng"), PlacementConfig)


@cache
def partition_section(name: str) -> type[PartitionConfig]:
    """The section of one partition."""
    return _made("partition", name, PARTITIONS[name], ("devices", "tasks", "rng", "names"), PartitionConfig)


@cache
def topology_section(name: str) -> type[TopologyConfig]:
    """The section of one graph."""
    return _made("graph", name, GRAPHS[name], ("inputs",), TopologyConfig)


@cache
def mobility_section(name: str) -> type[MobilityConfig]:
    """The section of one mobility model."""
    return _made("mobility model", name, MOBILITY[name], ("positions_m", "area_m", "rng"), MobilityConfig)


S = TypeVar("S", bound=Variant)


def _made(
    kind: str, name: str, builder: Callable[..., Any], given: tuple[str, ...], base: type[S]
) -> type[S]:
    made = section_of(kind, name, builder, given, base)
    assert issubclass(made, base)
    return made


_SECTIONS: dict[type[Variant], Callable[[str], type[Variant]]] = {
    PlacementConfig: placement_section,
    PartitionConfig: partition_section,
    TopologyConfig: topology_section,
    MobilityConfig: mobility_section,
}
