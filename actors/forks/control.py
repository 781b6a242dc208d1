"""The driver's side of the fork server: start it, tell it about the model, end it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfl_ray.config.schema import RuntimeConfig

JOIN = Path(__file__).with_name("join.py")


class ForkServer:
    """A process that imports what actors need, once, and forks Ray's workers.

    Ray starts a worker through `runtime_env`'s `py_executable`, which here is `join`: it asks the server for a fork and
    waits until that ends. Forks share the pages of what was imported before them, so that an actor costs its own state.
    Where the server is gone, `join` becomes an ordinary worker.

    The server ends with this process, its forks with Ray.

    Args:
        verbose: Let the server speak.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="dfl-ray-forks-")  # only its owner may enter
        self._socket = os.path.join(self._folder, "socket")
        # OpenBLAS starts its threads when it is imported, and a process with threads cannot be forked. torch's are
        # started at their first use, as many as the actor says by then.
        settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        settings["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "actors.forks.server", self._socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if verbose else subprocess.DEVNULL,
            text=True,
            env={**os.environ, **settings},
            start_new_session=True,  # Ctrl-C is for the driver alone
        )

    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment for workers that are forks."""
        return {"py_executable": shlex.join([sys.executable, "-S", "-E", str(JOIN), self._socket])}

    def prepare(self, config_json: str) -> None:
        """Have the server import and compile what a model needs.

        Args:
            config_json: The model's `transformers` configuration.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died, and workers start without it
            self._process.stdin.write(json.dumps(config_json) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End the server; its forks live on until Ray ends them."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_ahead: list[ForkServer] = []


def start_ahead(*, verbose: bool = False) -> None:
    """Start the server before the driver has read its configuration; `take_server` gives it, `drop_ahead` ends it.

    Args:
        verbose: See `ForkServer`.
    """
    if sys.platform == "linux":
        _ahead.append(ForkServer(verbose=verbose))


def take_server(*, verbose: bool = False) -> ForkServer:
    """The server started ahead, or one started now; the caller closes it."""
    return _ahead.pop() if _ahead else ForkServer(verbose=verbose)


@contextmanager
def server_ahead(*, verbose: bool = False) -> Iterator[Callable[[RuntimeConfig], None]]:
    """Start the server before all else, beside it; gives what ends it if the run turns out to need none.

    Args:
        verbose: See `ForkServer`.
    """

    def settle(runtime: RuntimeConfig) -> None:
        if runtime.backend != "ray" or not runtime.forks:
            drop_ahead()

    start_ahead(verbose=verbose)
    try:
        yield settle
    finally:
        drop_ahead()


def drop_ahead() -> None:
    """End the server started ahead, if nobody took it."""
    while _ahead:
        _ahead.pop().close()
