"""Runs shared by the Ray tests: the undisturbed local run is what all others must equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from actors import cluster
from tests.conftest import small_config


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small run in one process."""
    from dfl_ray.records import load_run
    from dfl_ray.simulation.launch import launch

    path = tmp_path_factory.mktemp("undisturbed")
    return load_run(launch(small_config(path, "name=local", "runtime.backend=local"), json=True).folder)


class Lent:
    """Stands in a run for `actors.cluster.Starting`: the Ray and the fork server that the session has, left up."""

    def __init__(self, started: cluster.Starting) -> None:
        self.started, self.notes = started, ()

    def __call__(self, *_: object, **__: object) -> Lent:
        return self

    def __enter__(self) -> Lent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note_run(self, folder: Path) -> None:
        """The session's Ray dies with no single run."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.started, name)


class SessionRay:
    """Ray for tests that need one but do not look at how it starts; up from the first of them to the last."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._started: cluster.Starting | None = None

    def get(self, runtime: Any) -> cluster.Starting:
        """The Ray of the session, started if it is not up."""
        if self._started is None:
            self._started = self._held.enter_context(cluster.Starting(runtime))
        return self._started

    def end(self) -> None:
        """End it; the next test that starts Ray itself is not to meet it."""
        self._held.close()
        self._started = None


@pytest.fixture(scope="session")
def session_ray() -> Iterator[SessionRay]:
    """The holder of the session's Ray."""
    held = SessionRay()
    yield held
    held.end()


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, session_ray: SessionRay) -> None:
    """End the session's Ray before a test that starts its own."""
    if "shared_ray" not in request.fixturenames:
        session_ray.end()


@pytest.fixture
def shared_ray(session_ray: SessionRay, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs of this test use the session's Ray, with forks as in a Ray of their own; it starts in ten seconds."""
    started = session_ray.get(small_config(tmp_path).runtime)
    monkeypatch.setattr(cluster, "of_the_caller", lambda runtime: runtime)
    monkeypatch.setattr(cluster, "Starting", Lent(started))
