"""What the fork server does with what it is told, in this process: nothing forks, and no worker is run."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import forks
from actors.forks import FORK_MARK

ORDER = {"arguments": ["worker.py", "a"], "environment": {"WORD": "one"}, "folder": "/"}


class Server:
    """`forks.serve` in a thread, with a pipe in place of its standard input.

    Args:
        path: Where its socket is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.found: list[dict[str, Any] | None] = []
        self._stdin = os.dup(0)
        read, self._write = os.pipe()
        os.dup2(read, 0)
        os.close(read)
        self._thread = threading.Thread(
            target=lambda: self.found.append(forks.serve(self.listener)), daemon=True
        )
        self._thread.start()

    def say(self, text: bytes) -> None:
        """Write to its standard input."""
        os.write(self._write, text)

    def order(self, order: Any, streams: int) -> bytes:
        """Send an order with that many descriptors; its answer."""
        text = json.dumps(order).encode()
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(self.path)
            if streams:
                socket.send_fds(line, [text], [0] * streams)
            else:
                line.sendall(text)
            line.shutdown(socket.SHUT_WR)
            return line.recv(1)

    def end(self) -> dict[str, Any] | None:
        """End its standard input, wait, and say what it has returned."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
        self._thread.join(20)
        os.dup2(self._stdin, 0)
        return self.found[0]


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    monkeypatch.setattr(forks, "_share_pages", lambda: None)
    monkeypatch.setattr(forks, "_is_single_threaded", lambda: True)
    monkeypatch.setattr(forks.os, "fork", lambda: 4711)
    found = Server(tmp_path / "socket")
    yield found
    found.end()
    os.close(found._stdin)
    found.listener.close()


def test_orders_are_answered_until_standard_input_ends(server, monkeypatch):
    prepared: list[list[bytes]] = []
    monkeypatch.setattr(forks, "_prepare", prepared.append)
    server.say(b'{"a": 1}\n{"b"')
    server.say(b": 2}\n")
    assert server.order(ORDER, 3) == b"1"
    assert server.order({**ORDER, "arguments": []}, 0) == b"1"  # a probe
    assert server.order("nonsense", 3) == b""
    assert server.order(ORDER, 2) == b""
    assert server.order(ORDER, 3) == b"1"
    assert server.end() is None
    assert [line for lines in prepared for line in lines] == [b'{"a": 1}', b'{"b": 2}']


def test_a_fork_gets_its_order_and_no_listener(server, monkeypatch):
    monkeypatch.setattr(forks.os, "fork", lambda: 0)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(server.path)
        socket.send_fds(line, [json.dumps(ORDER).encode()], [0, 1, 2])
        line.shutdown(socket.SHUT_WR)
        server._thread.join(20)
        order = server.end()
        assert order is not None
        assert (order["arguments"], order["folder"]) == (ORDER["arguments"], "/")
        assert server.listener.fileno() == -1
        assert len(order["streams"]) == 3
        for descriptor in order["streams"]:
            os.close(descriptor)
        order["line"].close()
        assert line.recv(1) == b""  # what it stood for has ended


def test_a_server_with_threads_declines(server, monkeypatch):
    monkeypatch.setattr(forks, "_is_single_threaded", lambda: False)
    assert server.order(ORDER, 3) == b""


def test_models_are_prepared_and_bad_ones_left(monkeypatch):
    seen: list[Any] = []
    shared: list[bool] = []

    def prepare(configuration: dict[str, Any], longest: int | None) -> None:
        seen.append((configuration, longest))
        if "model_type" not in configuration:
            raise KeyError("model_type")

    monkeypatch.setattr("dfl_ray.devices.prepare.prepare_model", prepare)
    monkeypatch.setattr(forks, "_share_pages", lambda: shared.append(True))
    forks._prepare([b"[{}, null]", b"not JSON", b'[{"model_type": "llama"}, 64]'])
    assert seen == [({}, None), ({"model_type": "llama"}, 64)] and shared == [True]


def test_a_fork_becomes_the_worker_that_was_ordered(monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys; open('seen', 'w').write(repr([sys.argv, os.environ['WORD'], __name__]))"
    )
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(forks.os, "setsid", lambda: None)
    monkeypatch.setattr(forks.os, "dup2", lambda old, new: moved.append((old, new)))
    monkeypatch.setattr(forks.os, "environ", dict(os.environ))
    monkeypatch.setattr(forks.sys, "argv", [])
    monkeypatch.setattr(forks.sys, "path", list(forks.sys.path))
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGCHLD)
    streams = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    order = {
        "arguments": [str(script), "a"],
        "environment": {"WORD": "one"},
        "folder": str(tmp_path),
        "streams": streams,
    }
    try:
        forks._become_worker(order)
        assert forks.os.environ == {"WORD": "one", FORK_MARK: "1"}
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert (tmp_path / "seen").read_text() == repr([[str(script), "a"], "one", "__main__"])
    assert moved == list(zip(streams, range(3), strict=True))
    assert forks.sys.path[0] == str(tmp_path)


@pytest.mark.parametrize("order", [None, {"arguments": ["x"]}])
def test_a_server_that_ends_takes_its_folder_and_session_along(monkeypatch, tmp_path, order):
    folder, session = tmp_path / "folder", tmp_path / "session"
    folder.mkdir()
    session.mkdir()
    (folder / "session").write_text(str(session))
    worked: list[Any] = []
    monkeypatch.setattr(forks, "PRELOAD", ("json",))
    monkeypatch.setattr(forks, "ORPHAN_WAIT_S", 1)
    monkeypatch.setattr("time.sleep", lambda _s: None)
    monkeypatch.setattr(forks, "_share_pages", lambda: None)
    monkeypatch.setattr(forks, "serve", lambda _listener: order)
    monkeypatch.setattr(forks, "_become_worker", worked.append)
    handler = signal.getsignal(signal.SIGCHLD)
    (folder / "last_words").write_text("gone; go on\n")
    heard, words = os.pipe()
    try:
        forks.main(socket.socket(socket.AF_UNIX).detach(), words, str(folder))
    finally:
        gc.enable()
        signal.signal(signal.SIGCHLD, handler)
    with open(heard, encoding="utf-8") as file:  # ends, since nobody holds the other end any more
        assert file.read() == ("" if order else "gone; go on\n")
    assert folder.exists() == session.exists() == (order is not None)
    assert worked == [order] * (order is not None)


@pytest.mark.parametrize("answer", [b"1", b"", None])
def test_a_launcher_waits_for_its_fork_or_becomes_the_worker(monkeypatch, answer):
    run: list[Any] = []
    here, there = socket.socketpair()

    def send(*_: Any) -> tuple[bytes, socket.socket]:
        if answer is None:
            raise ConnectionRefusedError
        return answer, here

    def become(path: str, words: list[str]) -> None:
        run.append(words)
        if path == "cat":
            raise FileNotFoundError(path)

    monkeypatch.setattr(forks, "_send_order", send)
    monkeypatch.setattr(forks.os, "dup2", lambda *_: None)
    monkeypatch.setattr(forks.os, "read", lambda *_: b"")
    monkeypatch.setattr(forks.os, "execvp", become)
    monkeypatch.setattr(forks.os, "execv", become)
    forks.launch_worker("socket", ["worker.py", "a", "--language=PYTHON"])
    assert run == [["cat"]] if answer else run[-1][1:] == ["worker.py", "a"]
    here.close()
    there.close()


@pytest.mark.parametrize("context", ['{"env_vars": {"A": "1"}}', "{}"])
def test_a_worker_with_a_runtime_environment_is_set_up_by_rays_own_script(monkeypatch, context):
    """As under `uv run`: what the environment came to is for that script to read."""
    run: list[list[str]] = []

    class Became(Exception):
        """In place of a program that takes this one's place."""

    def become(_path: str, words: list[str]) -> None:
        run.append(words)
        raise Became

    def refuse(*_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(forks, "_send_order", refuse)
    monkeypatch.setattr(forks.os, "execv", become)
    given = ["/ray/workers/worker.py", "a", "--language=PYTHON", f"{forks.CONTEXT}={context}"]
    with pytest.raises(Became):
        forks.launch_worker("socket", given)
    asked = ["/ray/workers/setup_worker.py", *given] if "A" in context else ["/ray/workers/worker.py", "a"]
    assert [words[1:] for words in run] == [asked]
