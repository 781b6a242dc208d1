"""A scheduler by its name and options."""

from __future__ import annotations

from collections.abc import Mapping

from channels.registry import check_options
from channels.scheduling.rule import Scheduler
from channels.tables import SCHEDULERS


def get_scheduler(name: str, options: Mapping[str, object] | None = None) -> Scheduler:
    """Look a scheduler up.

    Args:
        name: A name in `channels.tables.SCHEDULERS`.
        options: Options of a scheduler that has some.

    Returns:
        The scheduler.

    Raises:
        ValueError: If there is none of this name, an option is not known to it or out of its range.
    """
    found = SCHEDULERS[name]
    if isinstance(found, Scheduler):
        if options:
            raise ValueError(f"the scheduler {name!r} has no options of its own; got {', '.join(options)}")
        return found
    check_options(f"scheduler {name!r}", found, (), options or {})
    return found(**(options or {}))
