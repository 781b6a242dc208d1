"""What an actor's error means, and in which words the user is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from dfl_ray.errors import InputError, LostError, RunError, first_line


def is_loss(error: RayError) -> bool:
    """Whether an answer that a call needs was lost with a node.

    Args:
        error: How the call ended.

    Returns:
        True if so; the call may then be repeated.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, ObjectLostError)


def as_run_error(name: str, method: str, args: Sequence[Any], error: RayError) -> Exception:
    """What ends the run after a call that failed.

    Args:
        name: The actor's name.
        method: The method that was called.
        args: Its arguments, of which a first whole number is the round.
        error: How the call ended.

    Returns:
        The actor's own `InputError` or `RunError`; else a `RunError` in its words, or a `LostError` if Ray failed.
    """
    if not isinstance(error, RayTaskError):
        return LostError(f"Actor `{name}`, `{method}`: {first_line(error)}")
    cause = error.cause if isinstance(error.cause, BaseException) else error
    if isinstance(cause, InputError | RunError):
        return cause
    where = f", round {args[0]}" if args and isinstance(args[0], int) else ""
    return RunError(
        f"Actor `{name}` failed in `{method}`{where}: {type(cause).__name__}: {first_line(cause)}"
    )


def refuse_unmade(name: str, error: RayError) -> None:
    """End the run where an actor could not be made: another one would fail alike.

    Args:
        name: The actor's name.
        error: How its death showed; nothing happens if it has died of something else.

    Raises:
        RunError: In the words of what was raised in its creation.
    """
    if not (isinstance(error, RayActorError) and error.actor_init_failed):
        return
    # Ray gives the cause as text alone: a traceback, whose lines are indented, and behind it the error.
    lines = str(error).strip().splitlines()
    ends = max((number for number, line in enumerate(lines) if line.startswith((" ", "\t"))), default=-1)
    kind, _, said = " ".join(lines[ends + 1 :]).partition(": ")
    own = kind.rpartition(".")[2] in (InputError.__name__, RunError.__name__)
    raise RunError(said if own else f"Actor `{name}` could not be made: {kind}: {said}") from error


def silent(name: str, method: str, timeout_s: float) -> LostError:
    """What ends the run where an actor does not answer in time.

    Args:
        name: The actor's name.
        method: The method that was called.
        timeout_s: How long its answer was waited for.
    """
    return LostError(
        f"Actor `{name}` did not answer `{method}` within {timeout_s:.0f} s. "
        "If it only needs longer, raise `runtime.actor_timeout_s`."
    )


def waits_for_room(name: str, capacity_s: float, shared: bool) -> str:
    """What is said while a replacement does not start.

    Args:
        name: The actor's name.
        capacity_s: Longest wait.
        shared: Whether others use the cluster too.
    """
    if shared:
        return (
            f"Actor `{name}` was lost and waits for room on the cluster, up to {capacity_s:.0f} s "
            "(`runtime.wait_for_capacity_s`); a node that joins now is used."
        )
    return (
        f"The replacement of actor `{name}` has not started yet; waiting up to {capacity_s:.0f} s "
        "(`runtime.actor_timeout_s`)."
    )


def without_room(name: str, capacity_s: float, shared: bool) -> str:
    """What is said once that wait is given up; see `waits_for_room`."""
    if shared:
        return (
            f"Actor `{name}` was lost and found no room on the cluster within {capacity_s:.0f} s "
            "(`runtime.wait_for_capacity_s`). Add a node, or lower `runtime.cpus_per_actor` or "
            "`runtime.gpus_per_actor`."
        )
    return (
        f"The replacement of actor `{name}` did not start within {capacity_s:.0f} s "
        "(`runtime.actor_timeout_s`)."
    )
