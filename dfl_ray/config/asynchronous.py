"""What `schedule: async` refuses: settings that mean something only where all devices wait for each other."""

from __future__ import annotations

from collections.abc import Iterable

from dfl_ray.config.problems import Problem
from dfl_ray.config.schema import Config
from dfl_ray.config.training import GossipConfig
from dfl_ray.methods.spec import method_spec
from dfl_ray.methods.table import METHODS

RULES = ("gossip", "push_sum")
"""Aggregation rules that have a form without a barrier."""


def asynchronous_problems(config: Config) -> Iterable[Problem]:
    """Find what contradicts `schedule: async`.

    Args:
        config: A configuration whose types and ranges are right.

    Yields:
        One problem for each contradiction; none under `schedule: sync`.
    """
    section, method = config.asynchrony, config.method
    if section is None:
        return
    barrier = method_spec(method).barrier
    if barrier:
        able = ", ".join(name for name, entry in METHODS.usable().items() if not entry.spec.barrier)
        yield Problem(
            f"`schedule: async` is not for the method `{method.name}`: {barrier}",
            expected=f"one of {able}",
            change="Set schedule=sync, or choose another method.",
        )
    deadline_s = config.radio.model_dump()["deadline_s"]  # the section, which may be wrong elsewhere
    if deadline_s is not None:
        yield Problem(
            "`radio.deadline_s` limits a round that all devices share, and `schedule: async` has none",
            got=f"{deadline_s:g}",
            expected="null",
            change="Set radio.deadline_s=null: nobody waits for late devices there.",
        )
    yield from _of_shared_rounds(config)
    if isinstance(method, GossipConfig):
        yield from _aggregation(config, method, section.staleness)


def _of_shared_rounds(config: Config) -> Iterable[Problem]:
    if config.devices.availability.path is not None:
        yield Problem(
            "`devices.availability` acts between rounds that all share, and `schedule: async` has none",
            got=config.devices.availability.path,
            expected="null",
            change="Set devices.availability.path=null, or schedule=sync.",
        )
    if config.devices.faults.share:
        yield Problem(
            "`devices.faults` begin in a round that all devices share, and `schedule: async` has none",
            got=f"devices.faults.share: {config.devices.faults.share:g}",
            expected="0",
            change="Set devices.faults.share=0, or schedule=sync.",
        )
    if config.privacy.mechanism != "none":
        yield Problem(
            "`privacy` accounts for rounds that all devices share, and `schedule: async` has none",
            got=f"privacy.mechanism: {config.privacy.mechanism}",
            expected="none",
            change="Set privacy.mechanism=none, or schedule=sync.",
        )


def _aggregation(config: Config, method: GossipConfig, staleness: str) -> Iterable[Problem]:
    if method.aggregation not in RULES:
        yield Problem(
            "`method.aggregation` has no form without a barrier",
            got=method.aggregation,
            expected=" or ".join(RULES),
        )
    if method.aggregation != "push_sum":
        return
    if staleness != "constant":
        yield Problem(
            "`method.aggregation: push_sum` keeps the average, and a weight that depends on a message's age would not",
            got=f"async.staleness: {staleness}",
            expected="async.staleness: constant",
            change="Set async.staleness=constant, or method.aggregation=gossip.",
        )
    if config.devices.mobility.type != "static":
        yield Problem(
            "`method.aggregation: push_sum` without a barrier needs shares that both ends of a link agree on",
            got=f"devices.mobility: {config.devices.mobility.type}",
            expected="devices.mobility: static, since shares follow from the graph and a message may outlive it",
            change="Set devices.mobility=static, or method.aggregation=gossip.",
        )
