"""A scheduler by its name and options."""

from __future__ import annotations

from collections.abc import Mapping

from channels.registry import ask, check_options
from channels.scheduling.answers import checked
from channels.scheduling.rule import Scheduler
from channels.tables import SCHEDULERS


def get_scheduler(name: str, options: Mapping[str, object] | None = None) -> Scheduler:
    """Look a scheduler up.

    Args:
        name: A name in `channels.tables.SCHEDULERS`.
        options: Options of a scheduler that has some.

    Returns:
        The scheduler; that of an installed package with its answers checked.

    Raises:
        ValueError: If there is none of this name, an option is not known to it or out of its range, or what an
            installed package has under this name is no scheduler.
    """
    found, what = SCHEDULERS[name], f"scheduler {name!r}"
    if isinstance(found, Scheduler):
        if options:
            raise ValueError(f"the scheduler {name!r} has no options of its own; got {', '.join(options)}")
    elif callable(found):
        check_options(what, found, (), options or {})
        found = ask(what, found, **(options or {}))
    if name in SCHEDULERS.own:
        return found
    if not isinstance(found, Scheduler):
        raise ValueError(f"{what} is {type(found).__name__}; expected channels.scheduling.problem.Scheduler")
    return checked(name, found)
