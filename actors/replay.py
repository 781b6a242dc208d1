"""Recovery of dead actors: a replacement restores the last snapshot and replays the calls made since then.

Every call is a function of (state, round, inputs) and draws from named streams only, so replaying the calls on a
restored snapshot gives the same state and the same answers, bit for bit. The driver notices a death only by the time
it takes. Answers already fetched stay valid: the driver owns them.

When a node is lost, all its actors are lost, and with them answers that nobody has fetched yet. Then replacements for
all of them are made before any call is replayed, and the calls are replayed in their first order over all actors, so
that each call finds the answers of others that it takes as arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors import failures
from actors.kept import KeptBytes
from actors.nodes import NodePlacement, Started
from dfl_ray.errors import LostError, first_line

REPLACEMENT_NOTICE_S = 20.0
"""Time a replacement may take to start before the user is told that it waits for free resources."""
SERVICES_EVERY_S = 5.0
"""Time for which an answer is waited for before it is asked whether Ray's services live."""
MAX_LOST_ANSWERS = 4
"""Times one call is repeated because an answer it needs was lost with a node."""


@dataclass(eq=False)
class Call:
    """One call under way or done.

    Attributes:
        method: Name of the actor's method.
        args: Its arguments; object references are resolved by Ray, `Answer`s when the call is started.
        returns: Number of separate answers.
        changes_state: Whether a replay must repeat it.
        number: Its place in the order of all calls of all actors.
        refs: References to the answers; None in place of the first once it was fetched.
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
    """Stands in a call's arguments for an answer of another actor's call, from its first process or a replacement.

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
        node_placement: The nodes of numbered actors; None if it does not matter.
        services_lost: Whether Ray's own services are gone, so that nothing more can come.

    Attributes:
        members: The actors, in the order they were made.
        numbers: Gives every call of every actor its place in their common order.
        kept: Counts the arguments of calls that replacements would repeat.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda _text: None,
        node_placement: NodePlacement | None = None,
        services_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self.members: list[RecoverableActor] = []
        self.numbers: Iterator[int] = itertools.count()
        self.kept = KeptBytes()
        self.say = say
        self._node_placement = node_placement
        self._services_lost = services_lost

    def check_services(self) -> None:
        """Give up what is waited for if Ray's services are gone.

        Raises:
            LostError: They are.
        """
        if self._services_lost():
            raise LostError("Ray's own services have died, and all actors with them.")

    def waiting(self) -> int:
        """How many replacements have not started yet."""
        refs = [member.ready_ref for member in self.members if member.ready_ref is not None]
        return len(ray.wait(refs, num_returns=len(refs), timeout=0.0)[1]) if refs else 0

    def on_lost_node(self, actor: RecoverableActor) -> bool:
        """Whether the node an actor was started on is lost.

        Args:
            actor: An actor of this set.

        Returns:
            True if it is; False for an actor without a number or where placement does not matter.
        """
        return (
            self._node_placement is not None
            and actor.number is not None
            and self._node_placement.on_lost_node(actor.number)
        )

    def note_started(self, actor: RecoverableActor, started: Started) -> None:
        """Note where and how an actor has started; say so if a fork was replaced by an ordinary worker.

        Args:
            actor: The actor.
            started: Its answer to `ready`.
        """
        if actor.started is not None and actor.started.forked and not started.forked:
            self.say(
                f"The replacement of actor `{actor.name}` is an ordinary worker and needs more memory: the process "
                "that actors were forks of has died or refused"
            )
        actor.started = started
        if self._node_placement is not None and actor.number is not None:
            self._node_placement.note_node(actor.number, started.node)

    def recover(self, actor: RecoverableActor, error: RayError) -> None:
        """Replace an actor and all others whose node is lost, and replay their calls.

        Args:
            actor: A dead actor.
            error: How its death showed.

        Raises:
            RunError: One of them has died more often than allowed, or the actor could not be made.
        """
        failures.refuse_unmade(actor.name, error)
        group = [m for m in self.members if m is actor or self.on_lost_node(m)]
        for member in group:
            member.replace(error)
        calls = [(c.number, k, c) for k, member in enumerate(group) for c in member.calls_to_replay()]
        for _, k, call in sorted(calls, key=lambda c: c[:2]):
            group[k].start(call)


class RecoverableActor:
    """A Ray actor with its snapshot and call log.

    Args:
        name: What the user sees, e.g. `device-0003`.
        create: Makes a new actor; its argument is the number of earlier restarts.
        max_restarts: How often it may be replaced.
        timeout_s: Longest wait for one answer.
        wait_for_capacity_s: Longest wait for room for a replacement in which no actor starts; None
            where nobody takes room away, and `timeout_s` is the longest wait for its start.
        actor_set: The run's actors; this one joins them.
        number: Its number among the actors that are placed on nodes; None if it is not.

    Attributes:
        restarts: How often it has been replaced.
        started: Its answer to `ready`; None before it is known.
        ready_ref: Reference to that answer of a replacement until it is fetched, else None.
    """

    def __init__(
        self, name: str, create: Callable[[int], ActorHandle[Any]], *, max_restarts: int, timeout_s: float,
        wait_for_capacity_s: float | None = None, actor_set: ActorSet | None = None, number: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.number = number
        self._create = create
        self._restarts_left, self._never_replaced = max_restarts, max_restarts == 0
        self._timeout_s = timeout_s
        self._shared = wait_for_capacity_s is not None
        self._capacity_s = timeout_s if wait_for_capacity_s is None else wait_for_capacity_s
        self._actor_set = ActorSet() if actor_set is None else actor_set
        self.restarts = 0
        self.started: Started | None = None
        self._recovery_point: Callable[[], Iterable[Any]] | None = None
        self._log: list[Call] = []
        self.ready_ref: Any = None
        self._restoring: list[Any] = []  # answers of a replacement's restores, until they are fetched
        self.handle = create(0)
        self._actor_set.members.append(self)  # only now: all of them are ended by their handles

    def call(self, method: str, *args: Any, returns: int = 1, changes_state: bool = True) -> Call:
        """Start a call; it is kept for replay until the next `set_recovery_point`.

        Args:
            method: Name of the actor's method.
            *args: Its arguments; an `Answer` stands for what another call gives, as of the moment of sending.
            returns: Number of answers.
            changes_state: Whether a replacement of the actor must repeat the call even if its answer was fetched.

        Returns:
            The call, to be handed to `result`.
        """
        call = Call(method, args, returns, changes_state, next(self._actor_set.numbers))
        self.start(call)
        self._log.append(call)
        if changes_state and not self._never_replaced:
            self._actor_set.kept.add(a for a in args if not isinstance(a, Answer))
        return call

    def start(self, call: Call) -> None:
        """Send a call to the actor's present process; its references are replaced by new ones.

        Args:
            call: A call of this actor, new or to be repeated.
        """
        args = [a.ref if isinstance(a, Answer) else a for a in call.args]
        refs = getattr(self.handle, call.method).options(num_returns=call.returns).remote(*args)
        call.refs = refs if call.returns > 1 else [refs]

    def result(self, call: Call) -> Any:
        """Wait for the first answer of a call, replacing the actor if it dies.

        Args:
            call: A call of this actor.

        Returns:
            The answer.

        Raises:
            RunError: The call failed or took too long, or the actor died more often than allowed, or no node had the
                resources for its replacement.
        """
        tries = 0
        while True:
            needed = self._needed_for(call)
            while any(a._is_replaced() for a in needed):  # one that is awaited may take others with it
                for actor in needed:
                    actor._await_replacement()
            try:
                value = self._get(call.refs[0])
            except GetTimeoutError as error:
                raise failures.silent(self.name, call.method, self._timeout_s) from error
            except RayActorError as error:
                self._actor_set.recover(self, error)
            except RayError as error:
                tries += 1
                if not failures.is_loss(error) or tries > MAX_LOST_ANSWERS:
                    raise failures.as_run_error(self.name, call.method, call.args, error) from error
                self._recover_lost_answer(call)
            else:
                call.fetched, call.refs[0] = True, None  # answers to others stay as long as the call
                if not call.changes_state or self._never_replaced:
                    self._log.remove(call)
                return value

    def _get(self, ref: Any) -> Any:
        """What a reference stands for, asked for in parts, so that lost services of Ray are noticed between them."""
        waited = 0.0
        while True:
            part = min(SERVICES_EVERY_S, self._timeout_s - waited)
            try:
                return ray.get(ref, timeout=part)
            except GetTimeoutError:
                waited += part
                self._actor_set.check_services()
                if waited >= self._timeout_s:
                    raise

    def _needed_for(self, call: Call) -> list[RecoverableActor]:
        """The actors without which a call has no answer: those whose answers it takes, and its own."""
        return [*dict.fromkeys([*(a.actor for a in call.args if isinstance(a, Answer)), self])]

    def _recover_lost_answer(self, call: Call) -> None:
        """Replace the dead actors whose answers a call needs, then repeat the call."""
        before = call.refs
        for actor in self._needed_for(call):
            try:
                ray.get(actor.handle.ready.remote(), timeout=actor._timeout_s)
            except RayActorError as error:
                self._actor_set.recover(actor, error)
            except GetTimeoutError as error:
                raise LostError(
                    f"Actor `{actor.name}` did not answer; see `runtime.actor_timeout_s`."
                ) from error
        if call.refs is before:
            self.start(call)

    def set_recovery_point(self, load: Callable[[], Iterable[Any]]) -> None:
        """Make a saved state the one to start a replay from, and forget the calls before it.

        Args:
            load: Gives the snapshots, or references to them, one after the other when they are needed.
        """
        self._recovery_point = load
        self._log = [c for c in self._log if not c.fetched]

    def restore(self) -> None:
        """Put the state of the recovery point into the actor, snapshot by snapshot; one is read ahead."""
        assert self._recovery_point is not None, "no state is saved"
        # Not for replay: a replacement begins with it anyway.
        calls = (self.call("restore", s, changes_state=False) for s in self._recovery_point())
        under_way = next(calls, None)
        while under_way is not None:
            under_way, done = next(calls, None), under_way
            self.result(done)

    def replace(self, error: RayError) -> None:
        """Start a replacement and restore the last snapshot in it; `calls_to_replay` is to follow.

        Args:
            error: How the actor's death showed.

        Raises:
            RunError: It has died more often than allowed.
        """
        if self._restarts_left <= 0:
            raise LostError(
                f"Actor `{self.name}` died and may not be replaced again ({first_line(error)}). See "
                "`runtime.max_restarts`."
            ) from error
        with suppress(RayError):
            ray.kill(self.handle)  # one that is only out of reach must not go on beside its replacement
        self._restarts_left -= 1
        self.restarts += 1
        self._actor_set.say(
            f"Actor `{self.name}` died and is replaced; it may die {self._restarts_left} more times "
            "(`runtime.max_restarts`)"
        )
        self.handle = self._create(self.restarts)
        self.ready_ref, self._restoring = self.handle.ready.remote(), []
        if self._recovery_point is not None:
            for snapshot in self._recovery_point():
                self.start(call := Call("restore", (snapshot,), 1, True))
                self._restoring += call.refs

    def calls_to_replay(self) -> list[Call]:
        """Calls since the recovery point that a replacement must repeat: changes of state and unfetched answers."""
        return [c for c in self._log if c.changes_state or not c.fetched]

    def _is_replaced(self) -> bool:
        """Whether a replacement is not known to have started and to be restored."""
        return self.ready_ref is not None or bool(self._restoring)

    def _await_replacement(self) -> None:
        """Wait until a replacement has started and has the state of the recovery point; one that dies is replaced."""
        while self._is_replaced():
            self._await_start()
            try:
                while self._restoring:
                    self._get(self._restoring[0])
                    del self._restoring[0]
            except GetTimeoutError as error:
                raise failures.silent(self.name, "restore", self._timeout_s) from error
            except RayActorError as error:
                self._actor_set.recover(self, error)
            except RayError as error:  # going on would be with the state of a new actor
                raise failures.as_run_error(self.name, "restore", (), error) from error

    def _await_start(self) -> None:
        """Wait until a replacement has started; say so if that takes long, replace it too if its node is lost."""
        waited, told, waiting = 0.0, False, self._actor_set.waiting()
        while self.ready_ref is not None:
            if ray.wait([self.ready_ref], timeout=1.0)[0]:
                ready_ref, self.ready_ref = self.ready_ref, None
                with suppress(RayError):  # another death shows with the call that waits
                    self._actor_set.note_started(self, ray.get(ready_ref))
                return
            self._actor_set.check_services()
            waited, before, waiting = waited + 1.0, waiting, self._actor_set.waiting()
            if waiting < before:
                waited = 0.0  # there is room: another one has started
            if self._actor_set.on_lost_node(self):
                self._restarts_left += 1  # it never started
                self._actor_set.recover(self, RayError("its node was lost before it had started"))
            elif waited > self._capacity_s:
                raise LostError(failures.without_room(self.name, self._capacity_s, self._shared))
            elif waited > min(REPLACEMENT_NOTICE_S, self._capacity_s / 3) and not told:
                told = True
                self._actor_set.say(failures.waits_for_room(self.name, self._capacity_s, self._shared))
