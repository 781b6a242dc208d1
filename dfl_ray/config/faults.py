"""Devices that fail or attack: the section `devices.faults`, and what it cannot be combined with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from dfl_ray.config.choices import Choice
from dfl_ray.config.problems import Problem
from dfl_ray.config.section import Section
from dfl_ray.config.training import GossipConfig, TrainingConfig
from dfl_ray.methods.fault_table import FAULTS


class FaultsConfig(Section):
    """Devices that fail or attack; none unless `share` is above 0."""

    share: float = Field(default=0.0, ge=0, lt=1, description="share of the devices that are faulty")
    kind: Annotated[str, Choice(FAULTS)] = Field(
        default="sign_flip",
        description="what they do: `sign_flip`, `scaled_noise`, `stale_replay`, `nan_payload` in what they send, "
        "`sybil` likewise, all in one voice; `label_flip`, `backdoor` in what they learn; `silent` sends nothing, "
        "`crash` does nothing at all",
    )
    scale: float = Field(
        default=4.0,
        gt=0,
        description="`sign_flip`: times -1 and this; `scaled_noise`, `sybil`: noise over values, RMS",
    )
    from_round: int = Field(default=1, ge=1, description="the first round in which they are faulty")


def fault_problems(faults: FaultsConfig, method: TrainingConfig) -> Iterable[Problem]:
    """Find faults in what is sent under a method that has no such messages.

    Args:
        faults: The section `devices.faults`.
        method: The section `method`.

    Returns:
        At most one problem.
    """
    mixes = isinstance(method, GossipConfig) and method.mixes
    if not faults.share or mixes or FAULTS[faults.kind].values is None:
        return
    yield Problem(
        f"`devices.faults.kind` {faults.kind} is not there for the method {method.name}",
        expected="a method with the key `method.aggregation` that averages values with neighbours",
        change="Choose such a method, or `devices.faults.kind` label_flip, backdoor, silent or crash.",
    )


def mixing_problems(method: TrainingConfig) -> Iterable[Problem]:
    """Find a rule of mixing under a method that has the key and mixes nothing.

    Args:
        method: The section `method`.

    Returns:
        At most one problem.
    """
    if isinstance(method, GossipConfig) and not method.mixes and method.aggregation != "gossip":
        yield Problem(
            f"`method.aggregation` is not there for the method {method.name}, which averages nothing",
            got=method.aggregation,
            change="Leave the key out.",
        )
