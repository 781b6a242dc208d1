"""Ray workers as forks of one process that has imported everything they need; Linux only, see docs/runtime.md.

The file runs in three places. In the driver, `ForkServer` starts the fork server and tells it which model will be
trained. The fork server (`serve`) imports, listens on a Unix socket, and forks once for each order. Ray starts the
launcher (`launch_worker`) in place of its own script that sets a worker up (`actors.own_ray`); it orders a fork and
waits until that ends, or, if the server gives none, becomes the worker itself. The launcher is started by a link to
this file that lies beside the server's socket, once for each worker, so this file imports little at its top.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from typing import Any

PRELOAD = ("actors.channel", "actors.device", "channels.channel", "channels.scheduling.kernels",
           "channels.scheduling.tables", "dfl_ray.config.check", "dfl_ray.devices.group",
           "topology.mobility", "topology.graphs.clustered", "pyarrow.json")  # fmt: skip
"""Imported before the first order. Not Ray: it reads its settings from the environment when it is imported, and they
come with the first order."""
WITH_RAY = ("ray", "ray._common.pydantic_compat", "ray._common.usage.usage_lib", "ray._private.arrow_serialization",
            "starlette.datastructures", "pydantic.v1", "actors.nodes", "numpy.ma")  # fmt: skip
"""Imported with the first order: Ray, and what each of its workers imports to become one."""
LAUNCHER = "launch.py"
"""Name of the link to this file beside the server's socket: the script that Ray starts."""
CONTEXT = "--serialized-runtime-env-context"
"""Ray's argument that says what a worker's runtime environment came to; a run asks for none."""
FORK_MARK = "DFL_RAY_FORK"
"""Environment variable that is set in every fork."""
ORDER_WAIT_S = 10.0
"""Longest pause the server grants a client within its order."""
ANSWER_WAIT_S = 120.0
"""Longest time the driver waits for the server's imports before it counts on ordinary workers."""
ORPHAN_WAIT_S = 20
"""Seconds for which Ray's processes may outlive a driver that was killed."""
LARGEST_ORDER = 1 << 24
"""Bytes; Linux lets arguments and environment together have a quarter of the stack, 2 MB as a rule."""


class ForkServer:
    """The driver's handle of the fork server; a context manager that ends it.

    The server also ends with this process. Its forks live on until Ray ends them.

    Args:
        verbose: Let the server write to standard error.

    Attributes:
        refusal: Why it makes no forks, in words for the user; None as long as it does.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        from dfl_ray.packing.workers import why_no_forks_here

        self._process: Any = None
        self._folder = ""
        self.refusal = why_no_forks_here()
        if self.refusal is None:
            self._start(verbose)

    def _start(self, verbose: bool) -> None:
        import subprocess
        import tempfile

        from actors.session import project_root, safe_path
        from dfl_ray.packing.machine import socket_folder
        from dfl_ray.packing.workers import FORK_SOCKET

        self._folder = tempfile.mkdtemp(prefix="dfl-ray-forks-", dir=socket_folder(FORK_SOCKET))  # 0700
        os.symlink(os.path.abspath(__file__), os.path.join(self._folder, LAUNCHER))
        # OpenBLAS starts its threads when it is imported, and a process with threads cannot be forked safely. torch
        # starts its own at their first use, as many as the actor sets by then; Arrow's allocator is told not to.
        settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        settings["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
        settings["PYTHONPATH"] = os.pathsep.join(safe_path(sys.path, os.getcwd(), project_root()))
        with socket.socket(
            socket.AF_UNIX
        ) as listener:  # before the server is, so that early orders wait for it
            listener.bind(os.path.join(self._folder, "socket"))
            listener.listen(1024)
            passed = [listener.fileno(), os.dup(2)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "actors.forks", "serve", *map(str, passed), self._folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=None if verbose else subprocess.DEVNULL,
                pass_fds=passed,
                env={**os.environ, **settings},
                start_new_session=True,  # Ctrl-C is for the driver alone
            )
            os.close(passed[1])

    def launcher(self) -> str | None:
        """The script that Ray is to start in place of a worker's own; None where workers are no forks."""
        return None if self.refusal is not None else os.path.join(self._folder, LAUNCHER)

    def prepare(self, config_json: str, longest: int | None = None) -> None:
        """Have the server import and compile what a model needs, before it makes its next fork.

        Args:
            config_json: The model's `transformers` configuration.
            longest: Most tokens that a row may have, as `BaseWeights.longest`.
        """
        if self._process is not None:
            with suppress(OSError):  # it has died, which `check` finds
                self._process.stdin.write(json.dumps([config_json, longest]).encode() + b"\n")
                self._process.stdin.flush()

    def note_session(self, session: str) -> None:
        """Have the server remove the folder of Ray's session if this process is killed; otherwise it is left alone.

        Args:
            session: A folder made by `actors.session.private_folder`.
        """
        self._note("session", session)

    def note_last_words(self, text: str) -> None:
        """Have the server say something if this process ends without a word, as Ray lets it when its raylet is gone.

        Args:
            text: What to say on this process's standard error, with its end of line.
        """
        from actors.session import LAST_WORDS

        self._note(LAST_WORDS, text)

    def _note(self, name: str, text: str) -> None:
        if self._process is not None:
            with suppress(OSError), open(os.path.join(self._folder, name), "w", encoding="utf-8") as file:
                file.write(text)

    def check(self) -> str | None:
        """Ask the server whether it can fork; waits for its imports. Returns and keeps the reason if it cannot."""
        if self.refusal is None:
            try:
                answer = _send_order(os.path.join(self._folder, "socket"), [], [], ANSWER_WAIT_S)[0]
                self.refusal = (
                    None if answer else "the fork server runs several threads, which a fork would not have"
                )
            except TimeoutError:
                self.refusal = f"the fork server did not answer within {ANSWER_WAIT_S:.0f} s"
            except OSError:
                self.refusal = "the fork server has died"
        return self.refusal

    def close(self, refusal: str | None = None) -> None:
        """End the server.

        Args:
            refusal: Why no forks are wanted, if that is the reason.
        """
        import shutil

        self.refusal = refusal or self.refusal or "the fork server has been ended"
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with suppress(OSError):
                self._process.stdin.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._process = None

    def __enter__(self) -> ForkServer:
        """The server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


def _send_order(
    path: str, arguments: list[str], streams: list[int], timeout_s: float | None
) -> tuple[bytes, Any]:
    """Send an order; returns the server's answer (`1` or nothing) and the connection, which the fork keeps open."""
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(timeout_s)
        line.connect(path)
        socket.send_fds(line, [b"{"], streams)
        line.sendall(json.dumps(order).encode()[1:])
        line.shutdown(socket.SHUT_WR)
        return line.recv(1), line
    except OSError:
        line.close()
        raise


def launch_worker(path: str, arguments: list[str]) -> None:
    """Order a fork and wait until it ends, in a program smaller than Python; without a fork become the worker.

    Args:
        path: The server's socket.
        arguments: As Ray gives them to its script that sets a worker up: the worker's script and its arguments, among
            them two for the former, the language and what the worker's runtime environment came to.
    """
    worker = [a for a in arguments if not a.startswith(("--language=", f"{CONTEXT}="))]
    if any(a.startswith(f"{CONTEXT}=") and a != f"{CONTEXT}={{}}" for a in arguments):
        worker = [os.path.join(os.path.dirname(arguments[0]), "setup_worker.py"), *arguments]
        os.execv(sys.executable, [sys.executable, *worker])
    with suppress(OSError):
        answer, line = _send_order(path, worker, [0, 1, 2], None)
        if answer:
            os.dup2(line.fileno(), 0)  # nothing comes through it; it ends when the fork does
            with suppress(OSError):
                os.execvp("cat", ["cat"])
            os.read(0, 1)
            return
    os.execv(sys.executable, [sys.executable, *worker])


def receive_order(line: socket.socket) -> dict[str, Any]:
    """Read one order: `arguments`, `environment`, `folder`, and descriptors of three `streams` unless it is a probe.

    Args:
        line: A connection just accepted.

    Returns:
        The order by those four names; `streams` is empty for a probe, whose `arguments` are empty too.

    Raises:
        OSError: The client broke off or paused for longer than `ORDER_WAIT_S`.
        ValueError: It sent something else. Descriptors that came with it are closed.
    """
    line.settimeout(ORDER_WAIT_S)
    text, streams, _flags, _address = socket.recv_fds(line, 1, 8)
    try:
        with line.makefile("rb") as rest:
            order = json.loads(text + rest.read(LARGEST_ORDER))
        wanted = {"arguments": list, "environment": dict, "folder": str}
        if not isinstance(order, dict) or {k: type(v) for k, v in order.items()} != wanted:
            raise ValueError("not an order")
        if len(streams) != (3 if order["arguments"] else 0):
            raise ValueError(f"an order with {len(streams)} streams")
    except BaseException:
        for descriptor in streams:
            os.close(descriptor)
        raise
    line.settimeout(None)
    return {**order, "streams": streams}


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Answer orders until standard input ends; returns the order in each fork, and None in the server.

    Standard input brings configurations of models to prepare for, a JSON string a line; they go before orders.

    Args:
        listener: Where orders come from; closed in a fork.

    Returns:
        In a fork the order it is to carry out; in the server None, once standard input has ended.
    """
    import selectors

    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(0, selectors.EVENT_READ)
        begun = b""
        while True:
            ready = {key.fd for key, _ in waiting.select()}
            if 0 in ready:
                said = os.read(0, 1 << 20)
                if not said:
                    return None
                *models, begun = (begun + said).split(b"\n")
                _prepare(models)
            elif (order := _answer(listener)) is not None:
                listener.close()
                return order


def _import(names: tuple[str, ...]) -> None:
    import importlib

    for name in names:
        importlib.import_module(name)


def _prepare(models: list[bytes]) -> None:
    from dfl_ray.devices.prepare import prepare_model

    for text in models:
        with suppress(Exception):  # it fails again in the actor, whose errors are told
            prepare_model(*json.loads(text))
    _share_pages()


def _answer(listener: socket.socket) -> dict[str, Any] | None:
    """Accept one order and fork for it; returns the order in the fork."""
    line, _ = listener.accept()
    try:
        order = receive_order(line)
    except (OSError, ValueError, RecursionError):
        line.close()
        return None
    if order["arguments"] and "ray" not in sys.modules:
        os.environ.update(order["environment"])
        _import(WITH_RAY)
        _share_pages()
    possible = _is_single_threaded()
    if possible and order["arguments"] and os.fork() == 0:
        return {**order, "line": line}  # open as long as the fork lives
    with suppress(OSError):
        line.sendall(b"1" if possible else b"")
    line.close()
    for descriptor in order["streams"]:
        os.close(descriptor)
    return None


def _is_single_threaded() -> bool:
    """A fork has but the thread that made it: a lock that another thread held would be held for ever."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/task")) == 1
    return False


def _share_pages() -> None:
    """Keep the garbage collector from writing to what is there, which would copy every page of it in every fork."""
    import gc

    from dfl_ray.engines.cpu.heap import trim_heap

    gc.freeze()  # without collecting first: imports leave 1 MB, and to look for it takes up to 0.3 s
    trim_heap()


def _become_worker(order: dict[str, Any]) -> None:
    """Turn a fork into the worker that was ordered, and run it."""
    import gc
    import runpy
    import signal

    gc.enable()
    os.setsid()  # Ray ends a worker by its process group, which must not be the server's
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(order["streams"]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["environment"], **{FORK_MARK: "1"})
    os.chdir(order["folder"])
    sys.argv = order["arguments"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _remove_session(folder: str) -> None:
    """Remove the session of a driver that was killed, for as long as Ray's processes outlive it and write to it."""
    import time

    from actors.session import remove

    with suppress(OSError):
        with open(os.path.join(folder, "session"), encoding="utf-8") as file:
            session = file.read()
        for _ in range(ORPHAN_WAIT_S):
            remove(session)
            time.sleep(1.0)


def main(listener: int, words: int, folder: str) -> None:
    """The fork server: import, serve, and in a fork become the worker; its folder goes with it.

    Args:
        listener: Descriptor of the socket that it takes orders from.
        words: Descriptor of the driver's standard error, for its last words.
        folder: Where that socket lies.
    """
    import gc
    import shutil
    import signal

    gc.disable()  # what is imported stays
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are not waited for
    # Not the radio's compiled loops: a new machine compiles them for longer than Ray waits for a worker.
    _import(PRELOAD)
    _share_pages()
    order = serve(socket.socket(fileno=listener))
    if order is None:
        from actors.session import say_last_words

        say_last_words(folder, words)
        _remove_session(folder)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        os.close(words)
        _become_worker(order)


if __name__ == "__main__":
    if os.path.basename(sys.argv[0]) == LAUNCHER:
        launch_worker(os.path.join(os.path.dirname(sys.argv[0]), "socket"), sys.argv[1:])
    else:
        main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
