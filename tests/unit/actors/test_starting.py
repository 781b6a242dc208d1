"""What is done and said where Ray does not start, dies, or is left: none of it starts Ray."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from actors import cluster, session
from actors.starting import LEAST_HANDLES, check_handles, explained, lost_service
from actors.watching import UNREACHABLE_S, ServiceWatch
from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import InputError, RunError
from dfl_ray.packing.actors import most_lone_actors


class Ended(Exception):
    """In place of the end of this process; holds the exit status."""


class Clear:
    """An event that is waited for `rounds` times before it is set."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def wait(self, _timeout: float | None = None) -> bool:
        self.left -= 1
        return self.left < 0

    def is_set(self) -> bool:
        return False


@pytest.fixture
def starting(monkeypatch, tmp_path) -> Any:
    """A `Starting` whose Ray is never started, and which raises `Ended` where it would end this process."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(cluster.os, "_exit", end)
    monkeypatch.setattr(cluster, "private_folder", lambda _parent: nullcontext(str(tmp_path / "r")))
    monkeypatch.setattr(cluster, "start", lambda *_, **__: {"CPU": 2.0})
    monkeypatch.setattr(cluster, "stop", lambda: None)
    monkeypatch.setattr(cluster, "why_no_forks", lambda _runtime: "because of the test")
    return cluster.Starting(RuntimeConfig(), ends_process=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no port\nmore"), "no port"),
        (OSError(), "OSError"),
        (Exception("The current node timed out"), "The current node timed out"),
        (ConnectionError("refused"), "refused"),
    ],
)
def test_a_ray_that_does_not_start_is_explained(error, reason):
    with pytest.raises(RunError, match=rf"{reason} A busy machine.*runtime\.backend=local"), explained():
        raise error


@pytest.mark.parametrize("error", [KeyError("x"), InputError("a"), KeyboardInterrupt()])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as found, explained():
        raise error
    assert found.value is error


def test_too_few_handles_are_refused(monkeypatch):
    import resource

    for limit, refused in [(64, True), (LEAST_HANDLES, False), (resource.RLIM_INFINITY, False)]:
        monkeypatch.setattr(resource, "getrlimit", lambda _which, limit=limit: (limit, limit))
        with pytest.raises(InputError, match="ulimit -n 4096") if refused else nullcontext():
            check_handles()


def test_what_is_said_of_lost_services_names_the_run(tmp_path):
    assert "start it again" in lost_service(None)
    assert lost_service(tmp_path).endswith(f"dfl-ray resume {tmp_path}")
    assert "Ray cluster" in lost_service(tmp_path, joined=True)


def a_service(name: str, state: list[str]) -> Any:
    """A process of Ray's that is as the last of `state` says."""
    return SimpleNamespace(
        pid=id(state), name=lambda: name, is_running=lambda: state[-1] != "gone", status=lambda: state[-1]
    )


@pytest.mark.parametrize("end", ["gone", psutil.STATUS_ZOMBIE])
def test_a_lost_service_is_told_and_ends_the_process(starting, monkeypatch, tmp_path, capsys, end):
    state = ["sleeping"]
    children = [a_service("raylet", state), a_service("python", ["gone"])]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(children=lambda **_: children))
    starting.note_run(tmp_path)
    assert not starting._services.lost()
    state.append(end)
    children.clear()  # a process that has ended is no longer among them
    starting._ending = Clear(3)
    starting._began.set()
    with pytest.raises(Ended, match="1"):
        starting._watch()
    assert f"dfl-ray resume {tmp_path}" in capsys.readouterr().err
    starting._error, starting._ending = RuntimeError("Ray timed out"), Clear(3)
    starting._watch()  # a start that failed, and ended them itself, is told where it is asked for
    assert not capsys.readouterr().err


def test_living_services_are_watched_to_the_end(starting, monkeypatch, capsys):
    children = [a_service("gcs_server", ["sleeping"]), a_service("raylet", ["sleeping"])]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(children=lambda: children))
    starting._ending = Clear(3)
    starting._watch()
    assert starting._ending.left < 0 and not capsys.readouterr().err


def test_an_error_of_a_run_whose_services_died_is_told_as_their_death(
    starting, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(starting._services, "lost", lambda: True)
    starting.note_run(tmp_path)
    starting._began.set()
    with pytest.raises(Ended, match="1"):
        starting.__exit__(RuntimeError, None, None)
    assert f"dfl-ray resume {tmp_path}" in capsys.readouterr().err


def test_the_services_of_a_joined_cluster_are_watched_by_socket_and_port(monkeypatch):
    raylet = a_service("raylet", state := ["sleeping"])
    raylet.info = {"name": "raylet", "cmdline": ["raylet", "--raylet_socket_name=/s/raylet"]}
    other = SimpleNamespace(
        pid=2, info={"name": "raylet", "cmdline": ["raylet", "--raylet_socket_name=/s/raylet.1"]}
    )
    monkeypatch.setattr(psutil, "process_iter", lambda _what: [raylet, other])
    now = [0.0]
    watch = ServiceWatch(lambda: now[0])
    with socket.socket() as control:
        control.bind(("127.0.0.1", 0))
        control.listen(8)
        watch.join("/s/raylet", f"127.0.0.1:{control.getsockname()[1]}")
        assert not watch.lost()
    assert not watch.lost()  # one that is started again within a while is found
    now[0] = UNREACHABLE_S + 1
    assert watch.lost()
    near = ServiceWatch()
    near.join("/s/raylet", "127.0.0.1:1")
    assert not near.lost()
    state.append("gone")
    assert near.lost()


def test_an_interrupt_while_ray_starts_ends_at_once(starting, monkeypatch, capsys):
    killed: list[int] = []
    child = SimpleNamespace(kill=lambda: killed.append(1))
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(children=lambda **_: [child]))
    monkeypatch.setattr(psutil, "wait_procs", lambda *_, **__: None)
    closed: list[bool] = []
    starting._server = SimpleNamespace(close=lambda: closed.append(True))
    with pytest.raises(Ended, match="130"):
        starting.__exit__(KeyboardInterrupt, None, None)
    assert set(killed) == {1} and closed == [True]
    assert "Interrupted while Ray was starting" in capsys.readouterr().err


def test_ray_is_held_until_the_end_and_asked_for_what_it_has(starting):
    with starting as ray:
        assert ray.resources() == {"CPU": 2.0}
        assert ray.why_no_forks() == "because of the test"
        ray.prepare("{}")  # without a fork server there is nothing to prepare
        assert ray._thread.is_alive()
    ray._thread.join(5)
    assert not ray._thread.is_alive()


def test_an_error_at_the_start_is_raised_where_resources_are_asked_for(starting, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise InputError("No Ray cluster")

    monkeypatch.setattr(cluster, "start", fail)
    with pytest.raises(InputError, match="No Ray cluster"), starting as ray:
        ray.resources()


def test_an_address_nobody_listens_at_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"runtime\.address={address}.*ray start --head"):
            cluster.Starting(RuntimeConfig(address=address))


@pytest.mark.parametrize(
    ("error", "reason"), [(ConnectionError("no head\nmore"), "no head"), (ValueError(), "ValueError")]
)
def test_a_cluster_that_cannot_be_joined_is_told(monkeypatch, error, reason):
    import ray

    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=rf"runtime\.address=auto.*{reason}"):
        cluster.start(RuntimeConfig(address="auto"))


def test_a_ray_of_the_callers_is_used_as_it_is(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 7.0})
    joined = cluster.of_the_caller(RuntimeConfig())
    assert joined.address == cluster.CALLERS and cluster.start(joined) == {"CPU": 7.0}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert cluster.of_the_caller(RuntimeConfig()).address is None


def test_a_folder_that_cannot_be_removed_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "REMOVAL_S", 0.0)
    monkeypatch.setattr(session.shutil, "rmtree", lambda *_, **__: None)
    session.remove(str(tmp_path))
    assert tmp_path.is_dir()


@pytest.mark.parametrize(("mode", "hidden"), [(0o644, 0o600), (0o600, 0o600), (None, None)])
def test_rays_token_is_hidden_from_others(monkeypatch, tmp_path, mode, hidden):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    if mode is not None:
        token.parent.mkdir()
        token.write_text("secret")
        token.chmod(mode)
    session.hide_token()
    assert not token.exists() if hidden is None else token.stat().st_mode & 0o777 == hidden


def test_workers_import_nothing_from_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(session.site, "getsitepackages", lambda: [])
    path = session.WorkerPath()
    path.extend([str(tmp_path), "", os.curdir])
    path.extend([str(tmp_path)])
    assert path == [session.project_root()]
    monkeypatch.setattr(session.site, "getsitepackages", lambda: [session.project_root()])
    installed = session.WorkerPath()
    installed.extend([str(tmp_path)])
    assert installed == []
    root = session.project_root()
    assert session.safe_path(["", str(tmp_path), root, "/usr"], str(tmp_path), root) == [root, "/usr"]


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_ray_is_not_let_complain_of_an_actor_a_device(monkeypatch, cpus):
    monkeypatch.setattr(cluster.machine, "usable_cpus", lambda: cpus)
    at_once = cluster._concurrency()["worker_maximum_startup_concurrency"]
    assert at_once >= cpus
    assert 4 * at_once > most_lone_actors(cpus) + 1  # the channel's
