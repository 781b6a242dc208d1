"""What is noted and said of actors that start, without Ray's processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.nodes import Started
from actors.replay import ActorSet


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
