"""Actors as forks of one process: what they share, what they must not, and what happens without that process."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from actors import cluster
from actors.cluster import Starting
from actors.forks import FORK_MARK, ForkServer
from actors.memory import own_memory
from actors.pool import RayBackend
from dfl_ray.cli import main
from dfl_ray.models.paths import embedded_path
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import SMALL_RUN, small_config
from tests.records import assert_same_records

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16, "n_positions": 8}
PLAIN = "import torch; from actors.memory import own_memory; print(own_memory()['private_bytes'])"


@ray.remote(num_cpus=0)
class Curious:
    """Looks at its own process."""

    def look(self) -> dict[str, Any]:
        names = ("torch", "pandas", "transformers.models.gpt2.modeling_gpt2")
        modules = {name: name in sys.modules for name in names}
        private = own_memory()["private_bytes"]
        from dfl_ray.engines.cpu.kernels import forward_kernel

        return {
            "pid": os.getpid(), "parent": os.getppid(), "modules": modules, "private_bytes": private,
            "drawn": [uuid.uuid4().hex, random.random(), float(np.random.default_rng().random())],
            "kernels": forward_kernel.cache_info().currsize, "marked": os.environ.get("DFL_RAY_MARK"),
            "forked": FORK_MARK in os.environ,
            "worker": ray.get_runtime_context().get_worker_id(),
        }  # fmt: skip


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starting]:
    """Ray beside its fork server, both up; the last test that uses it kills the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFL_RAY_MARK", "here")
        with Starting(small_config(tmp_path_factory.mktemp("forks")).runtime) as found:
            found.resources()
            yield found


def server_of(starting: Starting) -> psutil.Process:
    assert starting._server is not None
    return psutil.Process(starting._server._process.pid)


def fresh(count: int) -> list[dict[str, Any]]:
    """What new forks see; workers that other tests have left idle are taken by others."""
    taken = [Curious.remote() for _ in range(3)]
    ray.get([a.look.remote() for a in taken], timeout=120)
    return look(count)


def look(count: int) -> list[dict[str, Any]]:
    actors = [Curious.remote() for _ in range(count)]
    return ray.get([a.look.remote() for a in actors], timeout=120)


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def plain_bytes() -> int:
    """Private memory of a process of its own that has imported torch."""
    return int(subprocess.check_output([sys.executable, "-c", PLAIN], cwd=ROOT))


def wait_for_stand_ins(count: int) -> None:
    deadline = time.monotonic() + 20
    while sum(command_of(p) == ["cat"] for p in psutil.Process().children(recursive=True)) < count:
        assert time.monotonic() < deadline, "Ray's own processes have not ended"
        time.sleep(0.2)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_a_server_started_earlier_is_used_and_nothing_is_left_behind(tmp_path):
    with ForkServer() as server:
        process = psutil.Process(server._process.pid)
        folder = Path(server._folder)
        assert folder.stat().st_mode & 0o077 == 0
        with Starting(small_config(tmp_path).runtime, server=server) as starting:
            starting.resources()
            assert starting.why_no_forks() is None
            assert {found["parent"] for found in look(2)} == {process.pid}
            children = process.children()
            assert len(children) >= 2
            session = Path(starting._session["_temp_dir"]).parent
            assert session.is_dir()
        assert not process.is_running()
    assert server.refusal == "the fork server has been ended"
    assert not folder.exists() and not session.exists()
    wait_until_gone(children)


@pytest.mark.parametrize("words", [["rounds=0"], ["runtime.backend=local", "rounds=1"]])
def test_the_command_line_leaves_no_server_it_does_not_need(tmp_path, monkeypatch, words):
    """With a wrong setting it ends one, and beside a run in one process it starts none."""
    started = note_servers(monkeypatch)
    main(["run", *SMALL_RUN, f"runtime.runs_dir={tmp_path}", *words])
    assert len(started) == (words == ["rounds=0"])
    assert not any(server.is_running() for server in started)


@pytest.mark.exhaustive  # a run does, above
def test_resume_starts_the_server_ahead_too(tmp_path, monkeypatch):
    launch(small_config(tmp_path, "name=old", "rounds=1", "runtime.backend=local"), json=True)
    settings = tmp_path / "old" / "config.yaml"
    text = settings.read_text().replace("backend: local", "backend: ray")
    settings.write_text(re.sub(r"(?m)^rounds: 1\b", "rounds: 2", text))
    info = tmp_path / "old" / "run.json"
    info.write_text(info.read_text().replace('"done"', '"interrupted"'))
    started = note_servers(monkeypatch)
    assert main(["resume", str(tmp_path / "old")]) == 0
    assert len(started) == 1  # the one started ahead is the one that was used
    run = load_run(tmp_path / "old")
    assert len(run.rounds) == 2
    assert run.info["forked_actors"] == 4


def note_servers(monkeypatch: pytest.MonkeyPatch) -> list[psutil.Process]:
    """The fork servers started from now on."""
    started: list[psutil.Process] = []
    start = ForkServer._start

    def start_and_note(self: ForkServer, verbose: bool) -> None:
        start(self, verbose)
        started.append(psutil.Process(self._process.pid))

    monkeypatch.setattr(ForkServer, "_start", start_and_note)
    return started


def said_by(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a run that must succeed tells its user."""
    code = main(["run", *SMALL_RUN, *words])
    out = "".join(capsys.readouterr())
    assert code == 0, out
    return out


@pytest.mark.exhaustive  # a second Ray; what differs is held below
def test_records_are_the_same_without_forks(undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "ForkServer", None)  # nobody starts one
    words = [
        "name=plain",
        "runtime.devices_per_actor=4",
        "runtime.fork_actors=false",
        f"runtime.runs_dir={tmp_path}",
    ]
    out = said_by(words, capsys)
    assert re.search(
        r"about (18\d|19\d|2\d\d) MiB each; ordinary workers, since `runtime.fork_actors=false`", out
    )
    run = load_run(tmp_path / "plain")
    assert_same_records(undisturbed, run, exact=False)
    assert run.info["forked_actors"] == 0


@pytest.mark.exhaustive  # its parts are tried without Ray in tests/unit/actors
def test_a_long_tmpdir_is_no_obstacle(undisturbed, tmp_path):
    """Ray's session and our socket go to a shorter folder, and the user is told of Ray's."""
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    words = ["run", *SMALL_RUN, "name=long", f"runtime.runs_dir={tmp_path}", "runtime.devices_per_actor=2"]
    done = subprocess.run(
        [sys.executable, "-m", "dfl_ray", *words], cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    out = done.stdout + done.stderr
    assert done.returncode == 0, out
    assert f"TMPDIR={folder} is too long a path for Ray's sockets; its session is in /tmp" in " ".join(
        out.split()
    )
    run = load_run(tmp_path / "long")
    assert_same_records(undisturbed, run, exact=False)
    assert run.info["forked_actors"] == run.devices["actor"].nunique() == 2


@pytest.mark.exhaustive  # its parts are tried without Ray in tests/unit/actors
def test_a_server_that_dies_before_the_packing_is_told_and_budgeted(tmp_path, monkeypatch, capsys):
    check = ForkServer.check

    def kill_and_check(self: ForkServer) -> str | None:
        self._process.kill()
        self._process.wait()
        return check(self)

    monkeypatch.setattr(ForkServer, "check", kill_and_check)
    out = said_by(["name=dead", "runtime.devices_per_actor=2", f"runtime.runs_dir={tmp_path}"], capsys)
    assert re.search(
        r"about (18\d|19\d|2\d\d) MiB each; ordinary workers, since the fork server has died", out
    )
    info = load_run(tmp_path / "dead").info
    assert info["state"] == "done" and info["forked_actors"] == 0


@pytest.mark.exhaustive  # Ray waits a minute or two for the workers that died with it
def test_a_server_that_dies_after_the_packing_is_told_too(tmp_path, monkeypatch, capsys):
    init = RayBackend.__init__

    def kill_first(self: RayBackend, *arguments: Any) -> None:
        server = started[0]
        server.kill()
        wait_until_gone([server])
        init(self, *arguments)

    started = note_servers(monkeypatch)
    monkeypatch.setattr(RayBackend, "__init__", kill_first)
    out = said_by(["name=late", "runtime.devices_per_actor=2", f"runtime.runs_dir={tmp_path}"], capsys)
    assert load_run(tmp_path / "late").info["forked_actors"] == 0
    assert "MiB each; forks of one process" in out
    assert re.search(r"2 of 2 actors are ordinary workers, about (18\d|19\d|2\d\d) MiB each", out)


def test_actors_are_forks_and_share_what_is_imported(starting):
    server = server_of(starting)
    actors = [Curious.remote() for _ in range(3)]  # kept: with an actor, what stands in for it ends
    found = ray.get([a.look.remote() for a in actors], timeout=120)
    assert [f["parent"] for f in found] == [server.pid] * 3
    # What Ray started has become next to nothing; the last may be on its way there.
    wait_for_stand_ins(len(actors))
    assert all(f["modules"]["torch"] and not f["modules"]["pandas"] for f in found)
    assert all(f["marked"] == "here" and f["forked"] for f in found)
    assert max(f["private_bytes"] for f in found) < 0.5 * plain_bytes()


def test_ray_listens_on_this_machine_alone_in_a_private_folder(starting):
    from ray._private.worker import _global_node

    assert _global_node is not None
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    kinds = {name_of(p) for p in processes}
    assert {"gcs_server", "raylet"} <= kinds
    open_ports = [
        c.laddr.ip
        for p in processes
        if p.is_running()
        for c in listening(p)
        if c.status == psutil.CONN_LISTEN
    ]
    assert open_ports and {ip.removeprefix("::ffff:") for ip in open_ports} == {"127.0.0.1"}
    assert Path(_global_node.get_temp_dir_path()).parent.stat().st_mode & 0o077 == 0
    assert (Path.home() / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:  # it has just ended
        return ""


def listening(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections(kind="inet"))
    except psutil.Error:  # it has just ended
        return []


def test_rays_sockets_have_paths_no_longer_than_expected(starting):
    from ray._private.worker import _global_node

    assert _global_node is not None
    names = (_global_node.plasma_store_socket_name, _global_node.raylet_socket_name)
    found = [str(name).split("/session_", 1)[1] for name in names]
    assert max(map(len, found)) <= len(cluster.SESSION_SOCKET.split("/session_", 1)[1])


def test_forks_draw_different_numbers(starting):
    found = look(3)
    for k in range(3):
        assert len({f["drawn"][k] for f in found}) == 3
    assert len({f["worker"] for f in found}) == 3


def test_what_a_model_needs_is_there_before_the_fork(starting):
    starting.prepare((embedded_path() / "config.json").read_text())
    starting.prepare(json.dumps(GPT2))
    (found,) = fresh(1)
    assert found["kernels"] == 1
    assert found["modules"]["transformers.models.gpt2.modeling_gpt2"]


@pytest.mark.exhaustive  # tests/unit/actors/test_forks.py holds what the server answers
def test_a_model_nobody_can_make_does_no_harm(starting):
    starting.prepare(json.dumps({"model_type": "no-such-model"}))
    starting.prepare("not even JSON")
    (found,) = fresh(1)
    assert found["parent"] == server_of(starting).pid


def test_a_fork_dies_alone(starting):
    """Ray ends the process group of a worker, too."""
    actors = [Curious.remote() for _ in range(3)]
    before = ray.get([a.look.remote() for a in actors], timeout=120)
    assert {f["parent"] for f in before} == {server_of(starting).pid}
    first, second = (psutil.Process(f["pid"]) for f in before[:2])
    ray.kill(actors[0])
    wait_until_gone([first])
    second.kill()
    wait_until_gone([second])
    time.sleep(1.0)  # for Ray to notice
    assert ray.get(actors[2].look.remote(), timeout=60)["pid"] == before[2]["pid"]
    assert server_of(starting).status() != psutil.STATUS_ZOMBIE
    assert fresh(1)[0]["parent"] == server_of(starting).pid


@pytest.mark.exhaustive  # tests/unit/actors/test_forks.py has the launcher become the worker
def test_without_the_server_actors_start_by_themselves(starting):
    server = server_of(starting)
    assert starting.why_no_forks() is None
    server.kill()
    server.wait(30)
    (found,) = look(1)
    assert found["parent"] != server.pid
    assert found["marked"] == "here"
    assert not found["forked"]
    assert starting.why_no_forks() == "the fork server has died"
