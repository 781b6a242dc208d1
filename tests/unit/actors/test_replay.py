"""What is noted and said of actors that start or fail, without Ray's processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from actors.nodes import Started
from actors.replay import ActorSet, Call, _as_run_error, _is_loss
from dfl_ray.errors import InputError, RunError


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
        (RayError("gone"), RunError, "Actor `device-0003`, `train`: gone"),
        (RayError(), RunError, "Actor `device-0003`, `train`: RayError"),
    ],
)  # fmt: skip
def test_an_actors_error_is_told_with_actor_method_and_round(error, kind, words):
    found = _as_run_error("device-0003", Call("train", (7,), 2, True), error)
    assert type(found) is kind
    assert str(found).strip(". ") == words


def test_only_a_lost_answer_is_asked_for_again():
    lost = ObjectLostError("00", None, "")
    assert _is_loss(lost)
    assert _is_loss(failed(lost))
    assert not _is_loss(failed(ValueError("no")))
    assert not _is_loss(RayError("no"))
