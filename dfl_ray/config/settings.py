"""Checks of a method's server, of uneven data and of the tasks' keys: what must be there for them to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from dfl_ray.config.devices import DevicesConfig
from dfl_ray.config.fields import default
from dfl_ray.config.problems import Problem
from dfl_ray.config.schema import Config
from dfl_ray.config.section import named_keys
from dfl_ray.config.yamlio import dump
from dfl_ray.tasks.sources import TASK_SOURCES

TASK_READERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cue": ("synthetic",),
        "prompt_field": ("files",),
        "answer_field": ("files",),
        "fields": ("files",),
        "test_share": ("files", "hub"),
        "on_bad_rows": ("files", "hub"),
        "max_choices": ("files", "hub"),
    }
)
"""Keys of `tasks` that not every source reads, and which of ours do; those of installed packages read none of them but
`READ_BY_INSTALLED`, and options of their own."""
READ_BY_INSTALLED = ("max_choices",)
"""Keys of `TASK_READERS` that sources of installed packages read: `tasks.assemble`, of which they make tasks, does."""
SKEW_READERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "skew_alpha": ("skew", "label_dirichlet"),
        "shards_per_device": ("skew", "label_shards"),
        "lognormal_sigma": ("sizes", "lognormal"),
    }
)
"""Keys of `devices` that one value of another key reads: that key and the value."""


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


def task_problems(config: Config) -> Iterable[Problem]:
    """Find keys of `tasks` that the chosen source does not read.

    Args:
        config: A configuration whose types and ranges are right.

    Yields:
        One problem for each that is not at its default.
    """
    tasks, fields = config.tasks, type(config.tasks).model_fields
    installed = tasks.source not in TASK_SOURCES.own
    for key, sources in TASK_READERS.items():
        usual = default(fields[key])
        reads = key in READ_BY_INSTALLED if installed else tasks.source in sources
        if not reads and getattr(tasks, key) != usual:
            yield Problem(
                f"`tasks.{key}` is set but nothing would read it",
                got=f"tasks.source: {tasks.source}",
                expected=" or ".join(f"tasks.source: {source}" for source in sources),
                change=f"Leave `tasks.{key}` out; its default is {dump(usual, flow=True).strip()}.",
            )


def skew_notes(devices: DevicesConfig) -> tuple[str, ...]:
    """Say which settings of uneven data do nothing, since nothing asks for them.

    Args:
        devices: The section `devices`.

    Returns:
        One sentence for each.
    """
    named = named_keys(devices)
    return tuple(
        f"`devices.{key}` without effect: `devices.{chooser}` is {getattr(devices, chooser)}, not {reads}."
        for key, (chooser, reads) in SKEW_READERS.items()
        if key in named and getattr(devices, chooser) != reads
    )
