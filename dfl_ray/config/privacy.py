"""Differential privacy of what devices send: the section `privacy`, and what it cannot be combined with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from dfl_ray.config.literature import FedSbConfig
from dfl_ray.config.problems import Problem
from dfl_ray.config.section import Section, named_keys
from dfl_ray.config.training import GossipConfig, TrainingConfig
from dfl_ray.config.variants import TopologyConfig
from dfl_ray.methods.spec import method_spec


class PrivacyConfig(Section):
    """Differential privacy; none unless `mechanism` says so."""

    mechanism: Literal["none", "updates", "examples"] = Field(
        default="none",
        description="`updates`: what a device learnt since it last sent is clipped and noise is added before it is "
        "sent, which hides a device's whole data; `examples`: DP-SGD, which hides one training row",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="largest norm of an update, or of one row's gradient"
    )
    noise_multiplier: float = Field(
        default=1.0, ge=1e-12, description="standard deviation of the noise over `privacy.clip_norm`"
    )
    delta: float = Field(default=1e-5, ge=1e-300, lt=1, description="delta at which epsilon is reported")


def privacy_notes(privacy: PrivacyConfig, topology: TopologyConfig) -> tuple[str, ...]:
    """Say which settings of privacy do nothing, since no mechanism is chosen, or what epsilon leaves out.

    Args:
        privacy: The section `privacy`.
        topology: The section `topology`.

    Returns:
        At most one sentence.
    """
    idle = named_keys(privacy) - {"mechanism"}
    if privacy.mechanism != "none" and _grouped_by_data(topology):
        return ("Epsilon does not count what `topology.features_path` tells of the devices' data.",)
    if privacy.mechanism != "none" or not idle:
        return ()
    named = ", ".join(f"`privacy.{key}`" for key in sorted(idle))
    return (f"{named} without effect: `privacy.mechanism` is none, the run is not private.",)


def _grouped_by_data(topology: TopologyConfig) -> bool:
    return topology.options().get("by") == "similarity"


def privacy_problems(
    privacy: PrivacyConfig, method: TrainingConfig, topology: TopologyConfig
) -> Iterable[Problem]:
    """Find what a private run cannot be.

    Args:
        privacy: The section `privacy`.
        method: The section `method`.
        topology: The section `topology`.

    Returns:
        One problem for a method whose messages say more than adapters do, one for bases and one for a graph that come
        from rows, one where the accountant is not installed.
    """
    if privacy.mechanism == "none":
        return
    if not isinstance(method, GossipConfig) or method_spec(method).per_task:
        yield Problem(
            f"`privacy.mechanism` {privacy.mechanism} is not there for the method {method.name}",
            expected="a method with one adapter a device whose parts are averaged, as dlora, ffa or rolora; others "
            "send sketches, masks or modules that the noise does not cover",
            change="Choose such a method, or `privacy.mechanism=none`.",
        )
    if isinstance(method, FedSbConfig) and method.bases == "gradient":
        yield Problem(
            "`privacy` is not there with `method.bases: gradient`",
            got="bases that come from rows of the devices as they are",
            expected="bases that say nothing of the rows",
            change="Set method.bases=random.",
        )
    if _grouped_by_data(topology) and topology.options().get("features_path") is None:
        yield Problem(
            "`privacy` is not there with `topology.by: similarity`",
            got="a graph made from sketches of the devices' rows, which they share as they are",
            expected="a graph that says nothing of the rows",
            change="Set topology.by=tasks, or give topology.features_path, which epsilon does not count.",
        )
    if privacy.mechanism == "examples" and find_spec("prv_accountant") is None:
        yield Problem(
            "`privacy.mechanism` examples needs the accountant that reports epsilon, which is not installed",
            got="no package prv-accountant",
            change="Run: pip install 'dfl-ray[privacy]'",
        )
