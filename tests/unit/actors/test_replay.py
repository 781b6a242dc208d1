"""What is noted and said of actors that start or fail, without Ray's processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from actors import replay
from actors.failures import as_run_error, is_loss, refuse_unmade
from actors.nodes import Started
from actors.replay import ActorSet, Answer, RecoverableActor
from dfl_ray.errors import InputError, LostError, RunError
from dfl_ray.network.traffic import TransferOutcomes, TransferRequests


@pytest.mark.parametrize(
    ("before", "after", "told"), [(None, False, 0), (True, True, 0), (True, False, 1), (False, False, 0)]
)
def test_a_fork_replaced_by_an_ordinary_worker_is_told(before, after, told):
    said: list[str] = []
    noted: list[tuple[int, str]] = []
    placement: Any = SimpleNamespace(note_node=lambda *where: noted.append(where))
    first = None if before is None else Started("n0", before)
    actor: Any = SimpleNamespace(name="device-0003", number=3, started=first)
    ActorSet(said.append, placement).note_started(actor, Started("n1", after))
    assert len(said) == told
    assert all("`device-0003` is an ordinary worker" in text for text in said)
    assert actor.started == Started("n1", after)
    assert noted == [(3, "n1")]


def failed(cause: Exception) -> RayTaskError:
    return RayTaskError("train", "a traceback", cause)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (failed(InputError("Too few rows")), InputError, "Too few rows"),
        (failed(RunError("Nothing can go on")), RunError, "Nothing can go on"),
        (failed(ValueError("first line\nsecond")), RunError,
         "Actor `device-0003` failed in `train`, round 7: ValueError: first line"),
        (RayError("gone"), LostError, "Actor `device-0003`, `train`: gone"),
        (RayError(), LostError, "Actor `device-0003`, `train`: RayError"),
    ],
)  # fmt: skip
def test_an_actors_error_is_told_with_actor_method_and_round(error, kind, words):
    found = as_run_error("device-0003", "train", (7,), error)
    assert type(found) is kind
    assert str(found).strip(". ") == words


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "dfl_ray.errors.RunError: /x is kept in memory. Name: another",
            "/x is kept in memory. Name: another",
        ),
        ("ValueError: no\nsecond line", "Actor `device-0003` could not be made: ValueError: no second line"),
        ("MemoryError", "Actor `device-0003` could not be made: MemoryError: "),
    ],
)
def test_an_actor_that_cannot_be_made_is_not_made_again_and_its_own_words_are_told(cause, said):
    text = (
        f'\x1b[36mray::DeviceActor.__init__()\x1b[39m (pid=1)\n  File "x.py", line 3\n    raise it\n{cause}'
    )
    error = ActorDiedError(RayTaskError("__init__", text, None, actor_id="00"))
    died: Any = SimpleNamespace(name="device-0003")
    with pytest.raises(RunError) as found:
        ActorSet(lambda _: pytest.fail("replaced"), SimpleNamespace()).recover(died, error)
    assert type(found.value) is RunError and str(found.value) == said
    refuse_unmade("device-0003", ActorDiedError())


def test_only_a_lost_answer_is_asked_for_again():
    lost = ObjectLostError("00", None, "")
    assert is_loss(lost)
    assert is_loss(failed(lost))
    assert not is_loss(failed(ValueError("no")))
    assert not is_loss(RayError("no"))


class FakeRay:
    """Ray whose actors answer what they are told to, one answer a call; a reference is its call's method."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.started: list[tuple[int, str]] = []
        self.made = 0
        self.never_ready = False

    def create(self, restarts: int) -> Any:
        """A handle of an actor's process."""
        self.made += 1
        return FakeHandle(self, restarts)

    def get(self, ref: str, timeout: float | None = None) -> Any:
        """The next answer of a method; an exception is raised."""
        del timeout
        answer = self.answers.get(ref, [Started("n0", True)]).pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self, refs: list[str], timeout: float, num_returns: int = 1) -> tuple[list[str], list[str]]:
        """Whether the process has started."""
        del timeout, num_returns
        return ([], refs) if self.never_ready else (refs, [])

    def kill(self, _handle: Any) -> None:
        """It is dead already."""


class FakeHandle:
    """A process of an actor: any method can be called, and the call is noted."""

    def __init__(self, home: FakeRay, restarts: int) -> None:
        self._home, self._restarts = home, restarts

    def __getattr__(self, method: str) -> Any:
        def remote(*_: Any) -> str:
            self._home.started.append((self._restarts, method))
            return method

        return SimpleNamespace(remote=remote, options=lambda **_: SimpleNamespace(remote=remote))


@pytest.fixture
def fake(monkeypatch) -> FakeRay:
    found = FakeRay()
    monkeypatch.setattr(replay, "ray", found)
    return found


def an_actor(fake: FakeRay, said: list[str], placement: Any = None, **options: Any) -> RecoverableActor:
    settings = {"max_restarts": 1, "timeout_s": 2.0, "number": 3, **options}
    return RecoverableActor(
        "device-0003", fake.create, actor_set=ActorSet(said.append, placement), **settings
    )


def test_an_actor_that_could_not_be_asked_for_is_no_member(fake):
    """Its run ends with this error: what is ended then are the members' handles."""
    actors = ActorSet()
    with pytest.raises(ValueError, match="taken"):
        RecoverableActor("channel", lambda _: ray_refuses(), max_restarts=1, timeout_s=2.0, actor_set=actors)
    assert not actors.members


def ray_refuses() -> Any:
    """As Ray where an actor's name is taken."""
    raise ValueError("taken")


def test_a_dead_actor_is_restored_and_its_calls_are_made_again(fake):
    said: list[str] = []
    actor = an_actor(fake, said)
    actor.set_recovery_point(lambda: ["snapshot"])
    trained = actor.call("train", 1)
    fake.answers = {"train": ["first", RayActorError(), "again"], "evaluate": [0.5]}
    assert actor.result(trained) == "first"
    asked = actor.call("evaluate", 1, changes_state=False)
    assert actor.result(asked) == 0.5
    late = actor.call("train", 2)
    assert actor.result(late) == "again"
    assert fake.started[-4:] == [(1, "ready"), (1, "restore"), (1, "train"), (1, "train")]
    assert actor.restarts == 1 and "it may die 0 more times" in said[0]


def test_what_is_kept_for_a_replay_is_counted_once_and_until_it_is_forgotten(fake):
    fake.answers = {"exchange": [0] * 4, "evaluate": [0]}
    actor, column = an_actor(fake, []), np.zeros(1000)
    counted, mine = actor._actor_set.kept, TransferOutcomes(TransferRequests.of({}), column)
    actor.result(first := actor.call("exchange", 1, mine))
    once = counted.total
    assert 8000 < once < 12_000
    actor.result(actor.call("exchange", 1, mine, Answer(actor, first, 0)))
    assert counted.total == once
    actor.result(actor.call("exchange", 1, {7: [column[:10], column[10:]]}, (np.zeros(5000)[:10],)))
    assert once + 40_000 < counted.total < once + 42_000
    kept = counted.total
    actor.result(actor.call("evaluate", 1, np.zeros(1000), changes_state=False))
    assert counted.total == kept
    counted.forget()
    assert counted.total == 0
    never = an_actor(fake, [], max_restarts=0)
    never.result(never.call("exchange", 1, np.zeros(1000)))
    assert never._actor_set.kept.total == 0


def test_calls_made_again_are_not_made_a_third_time_on_what_was_saved_after_them(fake):
    actor = an_actor(fake, [], max_restarts=2)
    fake.answers = {"train": ["one", RayActorError(), "two", RayActorError(), "three"]}
    assert actor.result(actor.call("train", 1)) == "one"
    assert actor.result(actor.call("train", 2)) == "two"  # dies; both rounds are made again
    actor.set_recovery_point(lambda: ["after two"])
    assert actor.result(actor.call("train", 3)) == "three"  # dies; only this round is made again
    assert fake.started[-3:] == [(2, "ready"), (2, "restore"), (2, "train")]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (failed(MemoryError("no room")), RunError, "failed in `restore`: MemoryError: no room"),
        (ObjectLostError("00", None, ""), LostError, "`restore`: "),
        (GetTimeoutError("late"), LostError, "did not answer `restore` within 2 s"),
    ],
)
def test_no_answer_is_taken_from_a_replacement_that_was_not_restored(fake, answer, kind, words):
    actor = an_actor(fake, [])
    actor.set_recovery_point(lambda: ["one part", "another"])
    fake.answers = {"train": [RayActorError(), "of a new state"], "restore": ["done", answer]}
    with pytest.raises(kind, match=words):
        actor.result(actor.call("train", 1))
    assert fake.answers["train"] == ["of a new state"]


def test_a_replacement_that_dies_while_it_is_restored_is_replaced(fake):
    actor = an_actor(fake, [], max_restarts=2)
    actor.set_recovery_point(lambda: ["snapshot"])
    fake.answers = {"train": [RayActorError(), "again"], "restore": [RayActorError(), None]}
    assert actor.result(actor.call("train", 1)) == "again"
    assert fake.started[-3:] == [(2, "ready"), (2, "restore"), (2, "train")] and not fake.answers["restore"]


def test_a_sender_whose_replacement_was_not_restored_spoils_no_receiver(fake):
    sender = an_actor(fake, [])
    receiver = RecoverableActor(
        "device-0004", fake.create, max_restarts=1, timeout_s=2.0, actor_set=sender._actor_set
    )
    sender.set_recovery_point(lambda: ["snapshot"])
    sent = sender.call("train", 1)
    mixed = receiver.call("exchange", 1, Answer(sender, sent, 0))
    fake.answers = {"restore": [failed(MemoryError("no room"))], "exchange": ["spoilt"]}
    sender._actor_set.recover(sender, RayActorError())
    with pytest.raises(RunError, match="`device-0003` failed in `restore`"):
        receiver.result(mixed)


@pytest.mark.parametrize(("restarts", "kept"), [(1, 2), (0, 0)])
def test_what_is_kept_of_fetched_answers(fake, restarts, kept):
    """For a replay the calls, without the answers that the driver has; nothing where nobody may be replaced."""
    actor = an_actor(fake, [], max_restarts=restarts)
    fake.answers = {"train": ["one", "two"]}
    calls = [actor.call("train", number) for number in (1, 2)]
    assert [actor.result(call) for call in calls] == ["one", "two"]
    assert len(actor.calls_to_replay()) == kept
    assert all(call.refs == [None] for call in calls)


def test_an_actor_that_dies_too_often_ends_the_run(fake):
    actor = an_actor(fake, [], max_restarts=0)
    fake.answers = {"train": [RayActorError()]}
    with pytest.raises(RunError, match=r"may not be replaced again.*runtime\.max_restarts"):
        actor.result(actor.call("train", 1))


def test_a_silent_actor_ends_the_run(fake):
    actor = an_actor(fake, [])
    fake.answers = {"train": [GetTimeoutError("late")]}
    with pytest.raises(RunError, match=r"did not answer `train` within 2 s.*actor_timeout_s"):
        actor.result(actor.call("train", 1))


def test_lost_services_end_the_wait_for_an_answer_and_for_a_start(fake):
    actor = RecoverableActor(
        "device-0003",
        fake.create,
        max_restarts=1,
        timeout_s=600.0,
        actor_set=ActorSet(services_lost=lambda: True),
    )
    fake.answers = {"train": [GetTimeoutError("late"), RayActorError()]}
    fake.never_ready = True
    for call in (actor.call("train", 1), actor.call("train", 2)):
        with pytest.raises(LostError, match="Ray's own services have died"):
            actor.result(call)


def test_a_lost_answer_is_asked_for_again_some_times_only(fake):
    lost = failed(ObjectLostError("00", None, ""))
    actor = an_actor(fake, [])
    fake.answers = {"train": [lost, "found"], "ready": [Started("n0", True)] * 9}
    call = actor.call("train", 1)
    assert actor.result(call) == "found" and fake.started.count((0, "train")) == 2
    fake.answers["train"] = [lost] * (replay.MAX_LOST_ANSWERS + 1)
    call = actor.call("train", 2)
    with pytest.raises(RunError, match="ObjectLostError"):
        actor.result(call)


def test_a_lost_answers_actor_may_be_dead_or_silent(fake):
    lost = failed(ObjectLostError("00", None, ""))
    actor = an_actor(fake, [])
    fake.answers = {"train": [lost, "found"], "ready": [RayActorError(), Started("n1", True)]}
    assert actor.result(actor.call("train", 1)) == "found" and actor.restarts == 1
    fake.answers = {"train": [lost], "ready": [GetTimeoutError("late")]}
    with pytest.raises(RunError, match="did not answer; see"):
        actor.result(actor.call("train", 2))


def test_an_actor_without_room_is_told_and_given_up(fake):
    said: list[str] = []
    actor = an_actor(fake, said, timeout_s=600.0, wait_for_capacity_s=2.0)
    fake.answers = {"train": [RayActorError()]}
    fake.never_ready = True
    with pytest.raises(
        LostError, match=r"found no room on the cluster within 2 s \(`runtime.wait_for_capacity_s`"
    ):
        actor.result(actor.call("train", 1))
    assert sum("waits for room on the cluster, up to 2 s" in text for text in said) == 1


def test_the_wait_for_room_begins_anew_while_others_find_some(fake, monkeypatch):
    actor = an_actor(fake, [], wait_for_capacity_s=2.0)
    fake.answers = {"train": [RayActorError(), "found"]}
    left = iter([9, 8, 7, 6, 5, 4])  # replacements that have not started, second after second
    monkeypatch.setattr(ActorSet, "waiting", lambda _self: next(left))
    waits = iter([([], ["ready"])] * 5)
    fake.wait = lambda refs, timeout: next(waits, (refs, []))  # type: ignore[method-assign]
    assert actor.result(actor.call("train", 1)) == "found"


def test_a_replacement_whose_node_is_lost_too_is_replaced_without_being_counted(fake):
    lost = iter([True])
    placement: Any = SimpleNamespace(
        on_lost_node=lambda _number: next(lost, False), note_node=lambda *_: None
    )
    said: list[str] = []
    actor = an_actor(fake, said, placement, timeout_s=4.0)
    fake.answers = {"train": [RayActorError(), "found"]}
    call = actor.call("train", 1)
    original, waits = fake.wait, iter([([], ["ready"])])
    fake.wait = lambda refs, **how: (  # type: ignore[method-assign]
        original(refs, **how) if how["timeout"] == 0.0 else next(waits, None) or original(refs, **how)
    )
    assert actor.result(call) == "found"
    assert actor.restarts == 2  # though one is allowed: the first never started
    assert ["0 more" in text for text in said] == [True, True]
