"""The fork server and its launcher without Ray: orders, refusals, and what is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors import forks
from actors.forks import FORK_MARK, ForkServer, receive_order
from dfl_ray.packing import machine, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")

ROOT = Path(__file__).resolve().parents[3]
TELL = "import json, os, sys; print(json.dumps([os.getppid(), sys.argv[1:], os.getcwd(), dict(os.environ)]))"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A fork server that has imported everything."""
    with ForkServer() as found:
        assert found.check() is None
        yield found


def socket_of(server: ForkServer) -> str:
    return os.path.join(server._folder, "socket")


def launch(path: str, tmp_path: Path, *arguments: str) -> list[Any]:
    """What a worker ordered through the launcher says of itself: parent, arguments, folder, environment."""
    script = tmp_path / "script.py"
    script.write_text(TELL)
    link = tmp_path / forks.LAUNCHER
    link.unlink(missing_ok=True)
    link.symlink_to(forks.__file__)
    (tmp_path / "socket").unlink(missing_ok=True)
    (tmp_path / "socket").symlink_to(path)
    told_by_ray = ["--language=PYTHON", f"{forks.CONTEXT}={{}}"]
    command = [sys.executable, str(link), str(script), *arguments, *told_by_ray]
    told = subprocess.check_output(
        command, text=True, cwd=tmp_path, env={**os.environ, "WORD": "one"}, timeout=60
    )
    return json.loads(told)


def test_a_fork_has_what_was_ordered(server, tmp_path):
    parent, arguments, folder, environment = launch(socket_of(server), tmp_path, "a", "b c")
    assert parent == server._process.pid
    assert arguments == ["a", "b c"]
    assert folder == str(tmp_path)
    assert environment["WORD"] == "one"
    assert environment[FORK_MARK] == "1"


def test_without_a_server_the_launcher_becomes_the_worker(tmp_path):
    parent, arguments, _, environment = launch(str(tmp_path / "nobody"), tmp_path, "a", "b c")
    assert parent == os.getpid()
    assert arguments == ["a", "b c"]
    assert FORK_MARK not in environment


def test_early_orders_wait_for_the_imports(tmp_path):
    """A worker that Ray starts before the server is ready is a fork nonetheless."""
    with ForkServer() as server:
        assert launch(socket_of(server), tmp_path)[0] == server._process.pid


def nonsense() -> list[tuple[bytes, int]]:
    order = json.dumps({"arguments": ["x"], "environment": {}, "folder": "/"}).encode()
    lacking = json.dumps({"arguments": ["x"], "environment": {}}).encode()
    return [(b"", 0), (b"garbage", 3), (b"[]", 3), (b"null", 0), (order, 2), (order, 0), (lacking, 3), (b"\xff" * 9, 3),
            (b"[" * 10**5, 3)]  # fmt: skip


@pytest.mark.parametrize(("said", "streams"), nonsense())
def test_a_malformed_order_is_refused_and_its_descriptors_are_closed(said, streams):
    pipes = [os.pipe() for _ in range(streams)]
    client, line = socket.socketpair()
    with client, line:
        if said:
            socket.send_fds(client, [said[:1]], [w for _, w in pipes])
        client.sendall(said[1:])
        client.shutdown(socket.SHUT_WR)
        for _, written in pipes:
            os.close(written)
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises((ValueError, OSError, RecursionError)):
            receive_order(line)
        assert set(os.listdir("/proc/self/fd")) == before
    for read, _ in pipes:
        assert os.read(read, 1) == b""  # nobody holds the other end any more
        os.close(read)


def test_a_server_outlives_malformed_orders(server, tmp_path):
    assert server.check() is None  # it is up
    time.sleep(0.2)
    before = psutil.Process(server._process.pid).num_fds()
    for said, streams in nonsense():
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(socket_of(server))
            with suppress(OSError):
                socket.send_fds(line, [said[:1] or b"?"], [0] * streams)
                line.sendall(said[1:])
                line.shutdown(socket.SHUT_WR)
                assert line.recv(1) == b""
    assert server.check() is None
    deadline = time.monotonic() + 20  # the server answers before it closes the connection
    while psutil.Process(server._process.pid).num_fds() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert psutil.Process(server._process.pid).num_fds() == before


def test_a_process_with_threads_declines():
    """A lock that another thread holds would be held for ever in the fork."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        assert not forks._is_single_threaded()
    finally:
        over.set()
        other.join()


def test_a_server_with_threads_says_so_and_workers_start_by_themselves(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading, time\nif 'serve' in sys.orig_argv:\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with ForkServer() as server:
        assert launch(socket_of(server), tmp_path)[0] == os.getpid()
        assert "several threads" in str(server.check())


def test_a_dead_server_is_noticed():
    with ForkServer() as server:
        server._process.kill()
        server._process.wait()
        server.prepare("{}")  # does no harm
        assert server.check() == "the fork server has died"
        assert server.launcher() is None


def test_a_silent_server_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(forks, "ANSWER_WAIT_S", 0.2)
    with ForkServer() as server:
        os.kill(server._process.pid, 19)  # SIGSTOP
        assert server.check() == "the fork server did not answer within 0 s"


def test_a_killed_driver_takes_the_server_along():
    hold = (
        "from actors.forks import ForkServer; import time; f = ForkServer(); "
        "print(f._process.pid, f._folder, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid, folder = driver.stdout.readline().split()
    process = psutil.Process(int(pid))
    driver.kill()
    driver.wait()
    assert not psutil.wait_procs([process], timeout=60)[1]
    assert not Path(folder).exists()


def test_a_closed_server_leaves_nothing_behind():
    with ForkServer() as server:
        process, folder = psutil.Process(server._process.pid), Path(server._folder)
        assert folder.stat().st_mode & 0o077 == 0
    assert not process.is_running()
    assert not folder.exists()
    server.close()  # twice does no harm


def test_elsewhere_than_on_linux_no_server_is_started(monkeypatch):
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    with ForkServer() as server:
        assert server._process is None
        assert server.launcher() is None
        server.prepare("{}")
        assert server.check() == "forks are used on Linux only, and this is darwin"


def test_without_a_short_folder_no_server_is_started(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setattr(machine.tempfile, "tempdir", str(long))
    monkeypatch.setattr(machine, "SHORT_FOLDERS", ())
    with ForkServer() as server:
        assert server._process is None
        assert "too long" in str(server.check()) and str(long) in str(server.refusal)


def test_a_long_tmpdir_is_replaced_by_a_short_folder(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setattr(machine.tempfile, "tempdir", str(long))
    with ForkServer() as server:
        assert len(socket_of(server)) <= 107
        assert server.check() is None
