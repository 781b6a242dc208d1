"""Actors as forks of one process: what they share, what they must not, and what happens without that process."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from actors import forks
from actors.cluster import Starting
from actors.forks import drop_ahead, start_ahead
from actors.forks.control import JOIN
from actors.memory import own_memory
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
        modules = {name: name in sys.modules for name in ("torch", "transformers.models.gpt2.modeling_gpt2")}
        private = own_memory()["private_bytes"]
        from dfl_ray.engines.cpu.kernels import forward_kernel

        return {
            "pid": os.getpid(), "parent": os.getppid(), "modules": modules, "private_bytes": private,
            "drawn": [uuid.uuid4().hex, random.random(), float(np.random.default_rng().random())],
            "kernels": forward_kernel.cache_info().currsize, "marked": os.environ.get("DFL_RAY_MARK"),
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
    assert starting._forks is not None
    return psutil.Process(starting._forks._process.pid)


def fresh(count: int) -> list[dict[str, Any]]:
    """What new forks see; Ray's idle workers are taken by others."""
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


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_nothing_is_left_behind(tmp_path):
    with Starting(small_config(tmp_path).runtime) as starting:
        starting.resources()
        look(2)
        server = server_of(starting)
        forks = server.children()
        assert len(forks) >= 2
        folder = Path(starting._forks._folder)
        assert folder.stat().st_mode & 0o077 == 0
    assert not server.is_running()
    assert not folder.exists()
    wait_until_gone(forks)


def test_a_killed_driver_takes_the_server_along():
    hold = (
        "from actors.forks import ForkServer; import time; f = ForkServer(); "
        "print(f._process.pid, f._folder, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid, folder = driver.stdout.readline().split()
    server = psutil.Process(int(pid))
    driver.kill()
    driver.wait()
    wait_until_gone([server])
    assert not Path(folder).exists()


def test_a_server_started_ahead_is_taken_once_or_dropped(tmp_path):
    start_ahead()
    ahead = forks.control._ahead[0]
    with Starting(small_config(tmp_path).runtime) as starting:
        starting.resources()
        assert starting._forks is ahead
        assert forks.control._ahead == []
        drop_ahead()
        (found,) = look(1)
        assert found["parent"] == ahead._process.pid
    assert ahead._process.poll() is not None
    start_ahead()
    unwanted = psutil.Process(forks.control._ahead[0]._process.pid)
    drop_ahead()
    assert not unwanted.is_running()


@pytest.mark.parametrize("words", [["rounds=0"], ["runtime.backend=local", "rounds=1"]])
def test_the_command_line_leaves_no_server_it_does_not_need(tmp_path, monkeypatch, words):
    """Neither with a wrong setting, nor beside a run in one process."""
    started: list[psutil.Process] = []
    during: list[bool] = []
    monkeypatch.setattr(forks.control, "start_ahead", lambda **k: start_and_note(started, **k))
    monkeypatch.setattr(
        "dfl_ray.simulation.launch.LocalBackend", lambda *_: during.append(started[0].is_running())
    )
    main(["run", *SMALL_RUN, f"runtime.runs_dir={tmp_path}", *words])
    assert len(started) == 1
    assert not started[0].is_running()
    assert not any(during)
    assert len(during) == (words != ["rounds=0"])


def start_and_note(started: list[psutil.Process], **settings: bool) -> None:
    start_ahead(**settings)
    started.append(psutil.Process(forks.control._ahead[-1]._process.pid))


def test_join_alone_is_plain_python(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, numpy; print(sys.argv[1:], sys.flags.no_site)")
    command = [sys.executable, "-S", "-E", str(JOIN), str(tmp_path / "nobody"), str(script), "a", "b c"]
    assert subprocess.check_output(command, text=True).strip() == "['a', 'b c'] 0"


def test_a_server_with_threads_declines(tmp_path):
    """It would leave locks held for ever in the fork."""
    busy = (
        "import sys, threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); "
        "import actors.forks.server as s; s.PRELOAD = (); sys.path.insert(0, ''); s.main(sys.argv[1])"
    )
    path, script = tmp_path / "socket", tmp_path / "script.py"
    script.write_text("import os; print(os.getppid())")
    server = subprocess.Popen([sys.executable, "-c", busy, str(path)], cwd=ROOT, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        command = [sys.executable, "-S", "-E", str(JOIN), str(path), str(script)]
        parent = int(subprocess.check_output(command, cwd=ROOT, text=True))
        assert parent == os.getpid()
    finally:
        server.kill()
        server.wait()


def test_records_are_the_same_without_forks(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr("actors.cluster.take_server", None)  # nobody asks for one
    config = small_config(tmp_path, "name=plain", "runtime.devices_per_actor=2", "runtime.fork_actors=false")
    assert_same_records(undisturbed, load_run(launch(config, json=True).folder), exact=False)


def test_actors_are_forks_and_share_what_is_imported(starting):
    server = server_of(starting)
    found = look(3)
    assert [f["parent"] for f in found] == [server.pid] * 3
    stand_ins = [p for p in psutil.Process().children(recursive=True) if command_of(p) == ["cat"]]
    assert len(stand_ins) >= 3  # what Ray started has become next to nothing
    assert all(f["modules"]["torch"] for f in found)
    assert all(f["marked"] == "here" for f in found)
    assert max(f["private_bytes"] for f in found) < 0.5 * plain_bytes()


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


def test_a_client_that_talks_nonsense_is_ignored(starting):
    for said in (b"", b"12345678garbage", (2).to_bytes(8, "big") + b"[]", (4).to_bytes(8, "big") + b"null"):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(Path(starting._forks._folder) / "socket"))
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert line.recv(1) == b""
    (found,) = look(1)
    assert found["parent"] == server_of(starting).pid


def test_without_the_server_actors_start_by_themselves(starting):
    server = server_of(starting)
    server.kill()
    server.wait(30)
    (found,) = look(1)
    assert found["parent"] != server.pid
    assert found["marked"] == "here"
