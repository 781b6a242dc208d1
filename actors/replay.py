"""An actor that comes back: its last snapshot and the calls since then are enough to rebuild its state.

Every call is a function of (state, round, inputs) and draws from named streams only, so replaying the calls on a
restored snapshot gives the same state and the same answers, bit for bit. The driver never notices a death beyond
the time it takes. Answers already fetched stay valid: the driver owns them.

When a node is lost, all its actors are, and with them answers that nobody has fetched yet. Then all of them are made
anew before any call is repeated, and the calls are repeated in their first order over all of them, so that each
finds what it takes from another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from actors.nodes import NodePlacement
from dfl_ray.errors import InputError, RunError

PATIENCE_S = 20.0
"""Time a rebuilt actor may take to start before the user is told that it waits for room."""
LOST_ANSWERS = 4
"""Times one call is repeated because something it needs went down with a node."""


@dataclass(eq=False)
class Call:
    """One call under way or done.

    Attributes:
        method: Name of the actor's method.
        args: Its arguments; object references are resolved by Ray, `Answer`s when the call is started.
        returns: Number of separate answers.
        changes_state: Whether a replay must repeat it.
        number: Its place in the order of all calls of all actors.
        refs: References to the answers.
        fetched: Whether the driver has its answer.
    """

    method: str
    args: tuple[Any, ...]
    returns: int
    changes_state: bool
    number: int = 0
    refs: list[Any] = field(default_factory=list)
    fetched: bool = False


@dataclass(frozen=True)
class Answer:
    """Stands in a call's arguments for an answer of another actor's call, whichever life gave it.

    Attributes:
        actor: Who gives it.
        call: The call.
        index: Which of the call's answers.
    """

    actor: RecoverableActor
    call: Call
    index: int

    @property
    def ref(self) -> Any:
        """Reference to the answer as of now."""
        return self.call.refs[self.index]


class ActorSet:
    """All recoverable actors of a run.

    Args:
        say: Tells the user something.
        node_placement: On which nodes numbered actors live; None if it does not matter.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda _text: None, node_placement: NodePlacement | None = None
    ) -> None:
        self.members: list[RecoverableActor] = []
        self.numbers: Iterator[int] = itertools.count()
        self.say = say
        self._node_placement = node_placement

    def stranded(self, actor: RecoverableActor) -> bool:
        """Whether the actor's node is gone."""
        return (
            self._node_placement is not None
            and actor.number is not None
            and self._node_placement.stranded(actor.number)
        )

    def arrived(self, actor: RecoverableActor, node: str) -> None:
        """Note where a rebuilt actor has started."""
        if self._node_placement is not None and actor.number is not None:
            self._node_placement.settle(actor.number, node)

    def recover(self, actor: RecoverableActor, error: RayError) -> None:
        """Bring back an actor and all others whose node is gone, and repeat their calls."""
        group = [m for m in self.members if m is actor or self.stranded(m)]
        for member in group:
            member.renew(error)
        waiting = [(call.number, k, call) for k, member in enumerate(group) for call in member.due()]
        for _, k, call in sorted(waiting, key=lambda w: w[:2]):
            group[k].start(call)


class RecoverableActor:
    """A Ray actor with its snapshot and call log.

    Args:
        name: What the user sees, e.g. `device-0003`.
        create: Makes a new actor; its argument is the number of earlier restarts.
        max_restarts: How often it may be brought back.
        timeout_s: Longest wait for one answer.
        actor_set: The run's actors; this one joins them.
        number: Its number among the actors that are placed on nodes; None if it is not.

    Attributes:
        restarts: How often it has been brought back.
    """

    def __init__(
        self, name: str, create: Callable[[int], ActorHandle[Any]], *, max_restarts: int, timeout_s: float,
        actor_set: ActorSet | None = None, number: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.number = number
        self._create = create
        self._restarts_left = max_restarts
        self._timeout_s = timeout_s
        self._actor_set = ActorSet() if actor_set is None else actor_set
        self._actor_set.members.append(self)
        self.restarts = 0
        self._base: tuple[Any, ...] | None = None
        self._log: list[Call] = []
        self._arrival: Any = None
        self.handle = create(0)

    def call(self, method: str, *args: Any, returns: int = 1, changes_state: bool = True) -> Call:
        """Start a call; it is kept for replay until the next `set_recovery_point`."""
        call = Call(method, args, returns, changes_state, next(self._actor_set.numbers))
        self.start(call)
        self._log.append(call)
        return call

    def start(self, call: Call) -> None:
        """Send a call to the living actor."""
        args = [a.ref if isinstance(a, Answer) else a for a in call.args]
        refs = getattr(self.handle, call.method).options(num_returns=call.returns).remote(*args)
        call.refs = refs if call.returns > 1 else [refs]
        call.fetched = False

    def result(self, call: Call) -> Any:
        """Wait for the first answer of a call, bringing the actor back if it dies.

        Raises:
            RunError: It failed, took too long, died more often than allowed, or found no room to come back.
        """
        tries = 0
        while True:
            self._await_arrival()
            try:
                value = ray.get(call.refs[0], timeout=self._timeout_s)
            except GetTimeoutError as error:
                raise RunError(
                    f"Actor `{self.name}` did not answer `{call.method}` within {self._timeout_s:.0f} s. "
                    "If it only needs longer, raise `runtime.actor_timeout_s`."
                ) from error
            except RayActorError as error:
                self._actor_set.recover(self, error)
            except RayError as error:
                tries += 1
                if not _is_loss(error) or tries > LOST_ANSWERS:
                    raise _as_run_error(self.name, call, error) from error
                self._find_again(call)
            else:
                call.fetched = True
                if not call.changes_state:
                    self._log.remove(call)
                return value

    def _find_again(self, call: Call) -> None:
        """Bring back whoever held a lost answer, then ask once more."""
        before = call.refs
        for actor in {a.actor: None for a in call.args if isinstance(a, Answer)} | {self: None}:
            try:
                ray.get(actor.handle.ready.remote(), timeout=actor._timeout_s)
            except RayActorError as error:
                self._actor_set.recover(actor, error)
            except GetTimeoutError as error:
                raise RunError(
                    f"Actor `{actor.name}` did not answer; see `runtime.actor_timeout_s`."
                ) from error
        if call.refs is before:
            self.start(call)

    def set_recovery_point(self, *snapshots: Any) -> None:
        """Make these snapshots the state to start a replay from, and forget the calls before them."""
        self._base = snapshots
        self._log = [c for c in self._log if not c.fetched]

    def restore(self, *snapshots: Any) -> None:
        """Put a saved state into the living actor; a later replay starts from it."""
        self.result(self.call("restore", *snapshots))
        self.set_recovery_point(*snapshots)

    def renew(self, error: RayError) -> None:
        """Make a new actor in the dead one's place and put the last snapshot into it; `due` says what follows.

        Raises:
            RunError: It has died more often than allowed.
        """
        if self._restarts_left <= 0:
            raise RunError(
                f"Actor `{self.name}` died and may not be brought back again ({_first_line(error)}). What was "
                "saved stays; `dfl-ray resume` goes on from the last checkpoint. See `runtime.max_restarts`."
            ) from error
        with suppress(RayError):
            ray.kill(self.handle)  # one that is only out of reach must not come back beside its successor
        self._restarts_left -= 1
        self.restarts += 1
        self._actor_set.say(
            f"Actor `{self.name}` died and is brought back; it may die {self._restarts_left} more times "
            "(`runtime.max_restarts`)"
        )
        self.handle = self._create(self.restarts)
        self._arrival = self.handle.ready.remote()
        if self._base is not None:
            self.start(Call("restore", self._base, 1, True))

    def _arrive(self) -> None:
        arrival, self._arrival = self._arrival, None
        with suppress(RayError):  # a new death shows with the call that waits
            self._actor_set.arrived(self, ray.get(arrival))

    def due(self) -> list[Call]:
        """Calls a new life must repeat."""
        return [c for c in self._log if c.changes_state or not c.fetched]

    def _await_arrival(self) -> None:
        """Wait until a rebuilt actor has started; say so if that takes long, move on if its new node is gone too."""
        waited, told = 0.0, False
        while self._arrival is not None:
            if ray.wait([self._arrival], timeout=1.0)[0]:
                self._arrive()
                return
            waited += 1.0
            if self._actor_set.stranded(self):
                self._restarts_left += 1  # it never lived
                self._actor_set.recover(self, RayError("its node was lost before it had started"))
            elif waited > self._timeout_s:
                raise RunError(
                    f"Actor `{self.name}` was lost and found no room on the cluster within {self._timeout_s:.0f} s. "
                    "What was saved stays; add a node and go on with `dfl-ray resume`, or lower "
                    "`runtime.cpus_per_actor` or `runtime.gpus_per_actor`."
                )
            elif waited > PATIENCE_S and not told:
                told = True
                self._actor_set.say(
                    f"Actor `{self.name}` was lost and waits for room on the cluster, up to "
                    f"{self._timeout_s:.0f} s; a node that joins now is used."
                )


def _is_loss(error: RayError) -> bool:
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, ObjectLostError)


def _as_run_error(name: str, call: Call, error: RayError) -> Exception:
    if not isinstance(error, RayTaskError):
        return RunError(f"Actor `{name}`, `{call.method}`: {_first_line(error)}")
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
