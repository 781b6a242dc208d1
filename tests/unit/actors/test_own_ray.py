"""What a Ray of the run's own is told to start; none is started."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from ray._private import parameter, services, utils
from ray._raylet import get_port_filename
from ray.util import serialization_addons

from actors.own_ray import NO_AGENT, handler_kept, own_ray


def test_a_run_starts_no_process_that_it_does_not_use():
    usual = parameter.RayParams()
    assert usual.include_log_monitor is None and usual.no_monitor is False  # what Ray starts by itself
    with own_ray(launcher="/there/launch.py", dashboard=False, logs=False):
        given = parameter.RayParams(num_cpus=2, include_dashboard=False)
        assert services.start_api_server(False, False, "127.0.0.1") == ("", None)
        assert utils.get_dashboard_dependency_error() is None
    assert (given.no_monitor, given.include_log_monitor) == (True, False)
    assert (given.setup_worker_path, given.num_cpus) == ("/there/launch.py", 2)


def test_what_is_asked_for_is_started():
    usual = services.start_api_server
    with own_ray(launcher=None, dashboard=True, logs=True):
        given = parameter.RayParams()
        assert services.start_api_server is usual
    assert (given.no_monitor, given.include_log_monitor) == (False, True)
    assert given.setup_worker_path is None  # Ray's own


RAYLET = (
    "raylet", "--session_dir=/tmp/r/s 1", "--node_id=0a1b", "--dashboard_agent_command=python agent.py --port=1",
    "--runtime_env_agent_command=python main.py",
)  # fmt: skip


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no such signal")
def test_a_handler_that_ray_replaces_in_another_thread_is_put_back():
    """As Ray does, behind Python's back and from the thread that starts it, where `signal.signal` is refused."""
    came: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _frame: came.append(number))

    def start() -> None:
        with handler_kept(signal.SIGUSR2):
            ctypes.CDLL(None).signal(int(signal.SIGUSR2), ctypes.c_void_p(1))  # SIG_IGN

    try:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert came == [signal.SIGUSR2]


def names() -> tuple[Any, ...]:
    return (
        parameter.RayParams, services.start_api_server, services.start_ray_process,
        utils.get_dashboard_dependency_error, serialization_addons.apply,
    )  # fmt: skip


def test_the_raylets_helpers_are_stood_in_for(monkeypatch):
    started: list[tuple[list[str], str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind: started.append((command, kind)))
    with own_ray(launcher=None, dashboard=False, logs=False):
        services.start_ray_process(list(RAYLET), "raylet")
        services.start_ray_process(["gcs_server", "--log_dir=x"], "gcs")
    with own_ray(launcher=None, dashboard=True, logs=False):
        services.start_ray_process(list(RAYLET), "raylet")
    (raylet, kind), gcs, whole = started
    assert kind == "raylet" and raylet[:3] == list(RAYLET[:3])
    ports = ["metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"]
    stand_in = [sys.executable, "-I", "-S", str(NO_AGENT), "/tmp/r/s 1", "0a1b"]
    assert shlex.split(raylet[3].removeprefix("--dashboard_agent_command=")) == [*stand_in, *ports]
    assert shlex.split(raylet[4].removeprefix("--runtime_env_agent_command=")) == [
        *stand_in,
        "runtime_env_agent_port",
    ]
    assert gcs == (["gcs_server", "--log_dir=x"], "gcs")
    assert whole == (list(RAYLET), "raylet")


def test_a_sweeps_trials_have_the_helper_that_prepares_their_environments(monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind: started.append(command))
    with own_ray(launcher=None, dashboard=False, logs=False, environments=True):
        services.start_ray_process(list(RAYLET), "raylet")
    assert started[0][4] == RAYLET[4]
    assert str(NO_AGENT) in started[0][3]


def test_a_run_takes_no_environment_of_a_job(monkeypatch):
    from ray._private import worker

    name, usual = worker.RAY_JOB_CONFIG_JSON_ENV_VAR, worker._maybe_modify_runtime_env
    monkeypatch.setenv(name, '{"runtime_env": {"env_vars": {"A": "1"}}}')
    monkeypatch.setenv("RAY_RUNTIME_ENV_HOOK", "nobody.has.this")
    with own_ray(launcher=None, dashboard=True, logs=False):
        assert name not in os.environ
        assert worker._maybe_modify_runtime_env(None, False) is None
    assert os.environ[name].startswith("{") and worker._maybe_modify_runtime_env is usual
    with own_ray(launcher=None, dashboard=False, logs=False, environments=True):
        assert name in os.environ


def test_who_stands_in_for_a_raylet_that_is_gone_ends(tmp_path):
    words = [sys.executable, "-I", "-S", str(NO_AGENT), str(tmp_path), "0a" * 28, "metrics_agent_port"]
    subprocess.run(words, timeout=20, check=True)  # this process is no raylet


def test_who_stands_in_writes_what_ray_reads_and_ends_with_the_raylet(tmp_path):
    node = "0a" * 28
    words = [sys.executable, "-I", "-S", str(NO_AGENT), str(tmp_path), node, "metrics_agent_port"]
    parent = (
        "import ctypes, subprocess, sys, time; sys.platform == 'linux' and ctypes.CDLL(None).prctl(15, b'raylet'); "
        "helper = subprocess.Popen(sys.argv[1:]); print(helper.pid, flush=True); time.sleep(600)"
    )
    raylet = subprocess.Popen([sys.executable, "-c", parent, *words], stdout=subprocess.PIPE, text=True)
    assert raylet.stdout is not None
    helper = int(raylet.stdout.readline())
    file = tmp_path / get_port_filename(node, "metrics_agent_port")
    for _ in range(200):
        if file.exists():
            break
        time.sleep(0.05)
    assert file.read_text() == "-1"
    os.kill(helper, 0)
    raylet.kill()
    raylet.wait()
    for _ in range(200):
        if not _runs(helper):
            return
        time.sleep(0.05)
    pytest.fail("the helper outlives its raylet")


def _runs(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_rays_own_names_are_put_back(error):
    before = names()
    try:
        with own_ray(launcher="x", dashboard=False, logs=False):
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert names() == before
