"""Checks of a method's server and of uneven data: what a run's devices must have for them."""

from __future__ import annotations

from collections.abc import Iterable

from dfl_ray.config.problems import Problem
from dfl_ray.config.schema import Config


def hub_problems(config: Config) -> Iterable[Problem]:
    """Find a server that is no device.

    Args:
        config: A configuration whose types and ranges are right.

    Yields:
        At most one problem.
    """
    hub, count = config.method.hub, config.devices.count
    if hub is not None and hub >= count:
        yield Problem("`method.server` is no device of the run", got=str(hub), expected=f"0 to {count - 1}")


def skew_problems(config: Config) -> Iterable[Problem]:
    """Find other settings that say which rows a device has, beside `devices.skew`.

    Args:
        config: A configuration whose types and ranges are right.

    Yields:
        One problem for each.
    """
    devices = config.devices
    if devices.skew == "none":
        return
    if devices.sizes != "equal":
        yield Problem(
            f"`devices.skew: {devices.skew}` says itself how many rows a holder has",
            got=f"devices.sizes: {devices.sizes}",
            expected="devices.sizes: equal",
        )
    if devices.partition.type == "file":
        yield Problem(
            f"`devices.skew: {devices.skew}` deals rows, and so may the partition's file",
            got="devices.partition.type: file",
            expected="another partition, or devices.skew: none",
        )
