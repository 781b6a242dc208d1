"""What is checked before Ray is started here, and what is said where it does not start or dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dfl_ray.errors import InputError, RunError, first_line, resume_line

LEAST_HANDLES = 256
"""Open files that a run with Ray needs at least; Ray waits for ever where it has too few."""


@contextmanager
def explained() -> Iterator[None]:
    """Say what can be done where Ray does not start: Ray itself raises bare exceptions with a sentence of its own.

    Yields:
        Nothing.

    Raises:
        RunError: Ray did not start.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _not_started(error) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise _not_started(error) from error


def _not_started(error: Exception) -> RunError:
    return RunError(
        f"Ray did not start on this machine: {first_line(error)} A busy machine or one short of memory is the "
        "usual reason; how long Ray waits for its own services is fixed in it. Try again, or run without it: "
        "runtime.backend=local."
    )


def check_handles() -> None:
    """Refuse to start Ray where a process may open too few files: it would wait for ever.

    Raises:
        InputError: The limit is below `LEAST_HANDLES`.
    """
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_HANDLES:
        raise InputError(
            "This process may open too few files for Ray",
            got=f"{limit} (`ulimit -n`)",
            expected=f"at least {LEAST_HANDLES}, better 4096 or more",
            change="Raise it with `ulimit -n 4096`, or add runtime.backend=local.",
        )


def ended_silently(folder: Path) -> str:
    """What is said for a driver that has ended without a word: Ray does that to one whose raylet is shut down.

    Args:
        folder: The run folder.

    Returns:
        One paragraph, with its end of line.
    """
    return (
        "dfl-ray: The process of this run has ended without a word: it was killed, or Ray's own services on this "
        "machine were shut down, as by `ray stop`, and Ray ends a process that has lost them. What was saved stays; go "
        f"on with: {resume_line(folder)}\n"
    )


def lost_service(folder: Path | None, *, joined: bool = False) -> str:
    """What is said when Ray's raylet or control service dies, often for want of memory.

    Args:
        folder: The run folder; None before it is made.
        joined: Whether they are those of a cluster that was joined.

    Returns:
        One paragraph.
    """
    whose = (
        "The services of the Ray cluster are gone"
        if joined
        else "Ray's own services on this machine have died"
    )
    said = f"dfl-ray: {whose} (killed, for want of memory, or because the machine is too busy). "
    if folder is None:
        return said + "The run had not begun; start it again."
    return f"{said}What was saved stays; go on with: {resume_line(folder)}"
