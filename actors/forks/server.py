"""The fork server: imports what actors need, then forks a Ray worker for each order that comes through its socket.

`python -m actors.forks.server SOCKET`. Standard input brings configurations of models to prepare for, a JSON string a
line; its end is the end of the server. A fork has only the thread that made it, so the server refuses while it has
several, and what it imports must start none.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field

from actors.memory import trim_heap

PRELOAD = (
    "actors.channel",
    "actors.device",
    "channels.channel",
    "channels.scheduling.kernels",
    "channels.scheduling.tables",
    "dfl_ray.config.check",
    "dfl_ray.devices.group",
)
"""Imported before anything is asked. Not Ray: it reads its settings from the environment when it is imported, and they
come with the first order."""
ORDER_WAIT_S = 10.0
"""Longest a client may take over its order."""
LARGEST_ORDER = 1 << 24
"""Bytes; Linux lets arguments and environment together have a quarter of the stack, 2 MB as a rule."""


@dataclass
class Order:
    """What a worker needs of the process that stands for it.

    Attributes:
        arguments: Script and its arguments.
        environment: All its variables.
        folder: Its working folder.
        streams: Descriptors of standard input, output and error.
        line: Open as long as the worker lives.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int] = field(default_factory=list)
    line: socket.socket | None = None

    def become(self) -> None:
        """Turn this process into what was ordered, all but running it."""
        os.setsid()  # Ray ends a worker's whole process group, which must not be the server's
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(self.streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        sys.argv = self.arguments
        sys.path[0] = os.path.dirname(self.arguments[0])


def receive(line: socket.socket) -> Order:
    """Read one order.

    Args:
        line: A connection just accepted.

    Raises:
        OSError: The client broke off or took too long.
        ValueError: It sent something else.
    """
    line.settimeout(ORDER_WAIT_S)
    head, streams, _flags, _address = socket.recv_fds(line, 8, 3)
    size = int.from_bytes(head, "big")
    if len(head) != 8 or size > LARGEST_ORDER:
        raise ValueError(f"an order of {size} bytes")
    with line.makefile("rb") as body:
        text = body.read(size)
    line.settimeout(None)
    return Order(**json.loads(text), streams=streams, line=line)


class Server:
    """Serves orders until standard input ends.

    Args:
        path: Where to listen.
    """

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1024)
        self._said = b""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are not waited for

    def serve(self) -> Order | None:
        """Answer orders; returns one in each fork, and None in the server when it is to end."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._listener, selectors.EVENT_READ)
            waiting.register(0, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in waiting.select()}
                if 0 in ready:  # models first: what they need is imported before the next fork
                    said = os.read(0, 1 << 20)
                    if not said:
                        return None
                    self._prepare(said)
                elif (order := self._fork()) is not None:
                    self._listener.close()
                    return order

    def _prepare(self, said: bytes) -> None:
        from dfl_ray.devices.prepare import prepare_model

        *lines, self._said = (self._said + said).split(b"\n")
        for text in lines:
            with suppress(Exception):  # it fails again in the actor, whose errors are told
                prepare_model(json.loads(text))
        _keep()

    def _fork(self) -> Order | None:
        """Accept one order and fork for it; gives it in the fork."""
        line, _ = self._listener.accept()
        try:
            order = receive(line)
        except (OSError, ValueError, TypeError):
            line.close()
            return None
        if "ray" not in sys.modules:
            os.environ.update(order.environment)
            import ray  # noqa: F401

            _keep()
        alone = _threads() == 1
        if alone and os.fork() == 0:
            return order
        with suppress(OSError):
            line.sendall(b"1" if alone else b"")
        line.close()
        for descriptor in order.streams:
            os.close(descriptor)
        return None


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _keep() -> None:
    """Take what is there out of the collector's sight, which would write to every page of it in every fork."""
    gc.collect()
    gc.freeze()
    trim_heap()


def main(path: str) -> None:
    """Import, serve, and in a fork become the worker; the server itself takes its folder with it."""
    for name in PRELOAD:
        importlib.import_module(name)
    _keep()
    order = Server(path).serve()
    if order is None:
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)
        return
    order.become()
    runpy.run_path(order.arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])
