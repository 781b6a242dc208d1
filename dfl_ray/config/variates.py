"""What control variates cannot be combined with."""

from __future__ import annotations

from collections.abc import Iterable

from dfl_ray.config.problems import Problem
from dfl_ray.config.schema import Config
from dfl_ray.config.training import AveragedConfig
from dfl_ray.methods.fault_table import FAULTS


def variates_problems(config: Config) -> Iterable[Problem]:
    """Refuse what the second half of a message, which is no adapter, has no form for.

    Args:
        config: The configuration.

    Returns:
        One problem for each key that stands against `method.control_variates`.
    """
    method, faults = config.method, config.devices.faults
    if not (isinstance(method, AveragedConfig) and method.control_variates):
        return
    against = (
        ("method.aggregation", method.aggregation, "gossip", method.aggregation != "gossip"),
        ("schedule", config.schedule, "sync", config.schedule != "sync"),
        ("privacy.mechanism", config.privacy.mechanism, "none", config.privacy.mechanism != "none"),
        ("devices.faults.kind", faults.kind, "one that leaves messages as they are",
         faults.share > 0 and FAULTS[faults.kind].values is not None),
    )  # fmt: skip
    for key, got, expected, wrong in against:
        if wrong:
            yield Problem(
                f"`method.control_variates` is not there with `{key}`",
                got=got,
                expected=expected,
                change=f"Set method.control_variates=false, or change {key}.",
            )
