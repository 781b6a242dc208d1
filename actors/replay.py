"""An actor that comes back: its last snapshot and the calls since then are enough to rebuild its state.

Every call is a function of (state, round, inputs) and draws from named streams only, so replaying the calls on a
restored snapshot gives the same state and the same answers, bit for bit. The driver never notices a death beyond
the time it takes. Answers already fetched stay valid: the driver owns them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from dfl_ray.errors import InputError, RunError


@dataclass
class Call:
    """One call under way or done.

    Attributes:
        method: Name of the actor's method.
        args: Its arguments; object references are resolved by Ray.
        returns: Number of separate answers.
        changes_state: Whether a replay must repeat it.
        refs: References to the answers.
        fetched: Whether the driver has its answer.
    """

    method: str
    args: tuple[Any, ...]
    returns: int
    changes_state: bool
    refs: list[Any] = field(default_factory=list)
    fetched: bool = False


class RecoverableActor:
    """A Ray actor with its snapshot and call log.

    Args:
        name: What the user sees, e.g. `device-0003`.
        create: Makes a new actor; its argument is the number of earlier lives.
        restarts: How often it may be brought back.
        timeout_s: Longest wait for one answer.
    """

    def __init__(
        self, name: str, create: Callable[[int], ActorHandle[Any]], *, restarts: int, timeout_s: float
    ) -> None:
        self.name = name
        self._create = create
        self._restarts_left = restarts
        self._timeout_s = timeout_s
        self._lives = 0
        self._base: tuple[Any, ...] | None = None
        self._log: list[Call] = []
        self.handle = create(0)

    def call(self, method: str, *args: Any, returns: int = 1, changes_state: bool = True) -> Call:
        """Start a call; it is kept for replay until the next `rebase`."""
        call = Call(method, args, returns, changes_state)
        self._start(call)
        self._log.append(call)
        return call

    def _start(self, call: Call) -> None:
        refs = getattr(self.handle, call.method).options(num_returns=call.returns).remote(*call.args)
        call.refs = refs if call.returns > 1 else [refs]
        call.fetched = False

    def result(self, call: Call) -> Any:
        """Wait for the first answer of a call, bringing the actor back if it dies.

        Raises:
            RunError: It failed, took too long, or died more often than allowed.
        """
        while True:
            try:
                value = ray.get(call.refs[0], timeout=self._timeout_s)
            except GetTimeoutError as error:
                raise RunError(
                    f"Actor `{self.name}` did not answer `{call.method}` within {self._timeout_s:.0f} s. "
                    "If it only needs longer, raise `runtime.actor_timeout_s`."
                ) from error
            except RayTaskError as error:
                raise _as_run_error(self.name, call, error) from error
            except RayActorError as error:
                self._recover(error)
            except RayError as error:
                raise RunError(f"Actor `{self.name}`, `{call.method}`: {_first_line(error)}") from error
            else:
                call.fetched = True
                if not call.changes_state:
                    self._log.remove(call)
                return value

    def rebase(self, *snapshots: Any) -> None:
        """Make these snapshots the state to start a replay from, and forget the calls before them."""
        self._base = snapshots
        self._log = [c for c in self._log if not c.fetched]

    def restore(self, *snapshots: Any) -> None:
        """Put a saved state into the living actor; a later replay starts from it."""
        self.result(self.call("restore", *snapshots))
        self.rebase(*snapshots)

    def _recover(self, error: RayActorError) -> None:
        if self._restarts_left <= 0:
            raise RunError(
                f"Actor `{self.name}` died and may not be brought back again ({_first_line(error)}). What was "
                "saved stays; `dfl-ray resume` goes on from the last checkpoint. See `runtime.max_restarts`."
            ) from error
        self._restarts_left -= 1
        self._lives += 1
        self.handle = self._create(self._lives)
        if self._base is not None:
            self._start(Call("restore", self._base, 1, True))
        for call in self._log:
            if call.changes_state or not call.fetched:
                self._start(call)


def _as_run_error(name: str, call: Call, error: RayTaskError) -> Exception:
    cause = error.cause if isinstance(error.cause, BaseException) else error
    if isinstance(cause, InputError | RunError):
        return cause
    where = f", round {call.args[0]}" if call.args and isinstance(call.args[0], int) else ""
    return RunError(
        f"Actor `{name}` failed in `{call.method}`{where}: {type(cause).__name__}: {_first_line(cause)}"
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
