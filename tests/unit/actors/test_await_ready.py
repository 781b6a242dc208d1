from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors import pool


@pytest.mark.parametrize("ready", [0, 1])
def test_that_no_actor_comes_up_is_told_with_the_place_of_rays_own_words(monkeypatch, ready):
    said: list[str] = []
    started: list[tuple[Any, str]] = []
    call = SimpleNamespace(refs=["a reference"])
    actor = SimpleNamespace(call=lambda *_, **__: call, result=lambda _call: "here")
    backend: Any = object.__new__(pool.RayBackend)
    backend._actor_set = SimpleNamespace(
        members=[actor], say=said.append, note_started=lambda *found: started.append(found)
    )
    context = SimpleNamespace(get_temp_dir=lambda: "/r", get_session_name=lambda: "session_1")
    waited: list[Any] = []

    def wait(refs: list[Any], *, timeout: float) -> tuple[list[Any], list[Any]]:
        waited.append((refs, timeout))
        return refs[:ready], refs[ready:]

    monkeypatch.setattr(pool, "ray", SimpleNamespace(wait=wait, get_runtime_context=lambda: context))
    backend.await_ready()
    assert waited == [(["a reference"], pool.START_NOTICE_S)]
    assert started == [(actor, "here")]
    assert len(said) == 1 - ready
    assert all("/r/session_1/logs" in text and "Ctrl-C" in text for text in said)
