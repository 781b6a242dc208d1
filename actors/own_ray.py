"""The processes of a Ray that a run starts for itself: only those that it uses; see docs/runtime.md.

`ray.init` starts, beside the services of a node, a dashboard without pages whose only work is Ray's usage statistics,
a monitor for the autoscaler and a reader of all workers' logs. Each is a Python process that imports Ray, and
`ray.init` waits for the first. Ray has names for what is to be started, which `ray.init` does not pass on. It also
imports in this process all that the dashboard needs, to see whether it is installed; `ray[default]`, which this project
asks for, has it. The raylet in turn starts two helpers, 2 s of processor time and 140 MB, and the node waits for them:
one exports metrics and serves the dashboard, one prepares environments of workers that ask for some.
`actors/no_agent.py` stands in for both; in a sweep, whose trials ask for environments, for the first alone. A run's
workers have the driver's environment and ask for none; where Ray would give the job one of its own (that of `ray job
submit`, of `uv run` or of a hook), the node would wait for the helper and end, so that is left out. And where pydantic
and starlette are installed, Ray imports both, with pydantic's first version, to send objects of theirs, of which a
driver has none (0.2 s).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

SIGACTION_BYTES = 512
"""Room for C's `struct sigaction`, which has 152 bytes on Linux and fewer on macOS."""
NO_AGENT = Path(__file__).with_name("no_agent.py")
Ports = Mapping[str, Sequence[str]]
PORTS_OF_METRICS: Ports = {
    "--dashboard_agent_command=": (
        "metrics_agent_port",
        "metrics_export_port",
        "dashboard_agent_listen_port",
    ),
}
PORTS_OF_ENVIRONMENTS: Ports = {"--runtime_env_agent_command=": ("runtime_env_agent_port",)}
"""The raylet's arguments that say how a helper is started, and the ports that the helper writes down."""


@contextmanager
def own_ray(
    *, launcher: str | None, dashboard: bool, logs: bool, environments: bool = False
) -> Iterator[None]:
    """Have `ray.init` start the processes that a run uses, while the context lasts.

    Args:
        launcher: The script that starts each worker in place of Ray's own, which imports Ray to read a line; it gets
            the path and the arguments of the worker. None leaves Ray's.
        dashboard: Start Ray's dashboard, the autoscaler's monitor that it asks, and the raylet's helpers.
        logs: Start the reader of the workers' logs, which shows them to the driver.
        environments: Let workers ask for environments of their own, and start the helper that prepares them.

    Yields:
        Nothing.
    """
    from ray._private import parameter, services, utils
    from ray.util import serialization_addons

    given: dict[str, Any] = {"include_log_monitor": logs, "no_monitor": not dashboard}
    if launcher is not None:
        given["setup_worker_path"] = launcher
    with ExitStack() as held:
        held.enter_context(_instead(utils, "get_dashboard_dependency_error", lambda: None))
        held.enter_context(_instead(serialization_addons, "apply", lambda _context: None))
        held.enter_context(_instead(parameter, "RayParams", partial(parameter.RayParams, **given)))
        if not environments:
            held.enter_context(_driver_environment())
        if not dashboard:
            absent = PORTS_OF_METRICS if environments else {**PORTS_OF_METRICS, **PORTS_OF_ENVIRONMENTS}
            without = partial(_without_helpers, services.start_ray_process, absent)
            held.enter_context(_instead(services, "start_api_server", _no_dashboard))
            held.enter_context(_instead(services, "start_ray_process", without))
        yield


@contextmanager
def handler_kept(number: int = signal.SIGTERM) -> Iterator[None]:
    """Keep the process's handler of a signal, which `ray.init` replaces by one that prints a crash report.

    Python's handlers stand behind one in C, which `signal.signal` could put back, but in the main thread only; Ray is
    started in another.

    Args:
        number: The signal.

    Yields:
        Nothing; afterwards the handler is the one from before.
    """
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(SIGACTION_BYTES)
    known = libc.sigaction(int(number), None, before) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaction(int(number), before, None)


@contextmanager
def _driver_environment() -> Iterator[None]:
    """Give the job no environment but the driver's, while the context lasts."""
    from ray._private import worker

    given = os.environ.pop(worker.RAY_JOB_CONFIG_JSON_ENV_VAR, None)
    try:
        with _instead(worker, "_maybe_modify_runtime_env", lambda environment, _skip: environment):
            yield
    finally:
        if given is not None:
            os.environ[worker.RAY_JOB_CONFIG_JSON_ENV_VAR] = given


@contextmanager
def _instead(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Have something else under a name of a module while the context lasts."""
    usual = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, usual)


def _no_dashboard(*_arguments: Any, **_named: Any) -> tuple[str, None]:
    """In place of what starts the dashboard: no address, no process."""
    return "", None


def _without_helpers(
    start: Callable[..., Any], absent: Ports, command: Sequence[str], *rest: Any, **named: Any
) -> Any:
    """Start a process of Ray; of the raylet, with what stands in for absent helpers."""
    return start([_stand_in(word, command, absent) for word in command], *rest, **named)


def _stand_in(word: str, command: Sequence[str], absent: Ports) -> str:
    for argument, ports in absent.items():
        if word.startswith(argument):
            place = [_value(command, "--session_dir="), _value(command, "--node_id=")]
            return argument + subprocess.list2cmdline(
                [sys.executable, "-I", "-S", str(NO_AGENT), *place, *ports]
            )
    return word


def _value(command: Sequence[str], argument: str) -> str:
    return next(word for word in command if word.startswith(argument)).removeprefix(argument)
