"""Services of Ray killed in every phase of a run, thirty kills in one run, and nothing left after a signal."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.replay import RecoverableActor
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import SMALL_RUN, small_config
from tests.records import assert_same_records

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]

PHASES = {
    "Ray starts": "",
    "packing": "dfl_ray.simulation.building:choose_packing",
    "folder made": "dfl_ray.simulation.launch:record_network",
    "actors start": "actors.pool:RayBackend.await_ready",
    "train": "actors.pool:RayBackend.train",
    "plan": "actors.pool:RayBackend.plan",
    "exchange": "actors.pool:RayBackend.exchange",
    "evaluate": "actors.pool:RayBackend.evaluate",
    "checkpoint": "dfl_ray.simulation.driver:save_checkpoint",
    "export": "dfl_ray.simulation.export:save_final_adapters",
    "actors end": "actors.pool:RayBackend.close",
    "report": "dfl_ray.views.report:write_report",
}
"""Phase -> what is called in it; the service is killed before that. Without one, as soon as the service is there."""

OURS = ("ray::DeviceActor", "ray::ChannelActor")
"""How the titles of our processes begin."""

KILLING = """
import importlib, sys, threading, time
import psutil
from dfl_ray.cli import main
service, place, words = sys.argv[1], sys.argv[2], sys.argv[3:]
def kill():
    found = [p for p in psutil.Process().children(recursive=True) if p.name() == service]
    for process in found:
        process.kill()
    return found
def wait_and_kill():
    while not kill():
        time.sleep(0.002)
if not place:
    threading.Thread(target=wait_and_kill, daemon=True).start()
else:
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *inside, name = path.split(".")
    for part in inside:
        owner = getattr(owner, part)
    before, calls = getattr(owner, name), []
    def first(*given, **named):
        calls.append(1)
        if len(calls) == (2 if name in ("train", "plan", "exchange", "evaluate", "save_checkpoint") else 1):
            wait_and_kill()
        return before(*given, **named)
    setattr(owner, name, first)
sys.exit(main(words))
"""


def killed_run(runs: Path, service: str, phase: str, *words: str) -> tuple[int, str]:
    """A run of the command line in which a service is killed; returns exit status and what it said."""
    given = ["run", *SMALL_RUN, "name=cut", "runtime.devices_per_actor=2", f"runtime.runs_dir={runs}", *words]
    done = subprocess.run(
        [sys.executable, "-c", KILLING, service, PHASES[phase], *given],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("service", ["gcs_server", "raylet"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_without_rays_services_stops_saved_and_says_how_to_go_on(undisturbed, tmp_path, phase, service):
    code, out = killed_run(tmp_path, service, phase, "runtime.report=true")
    assert "Traceback" not in out and "Unexpected" not in out, out
    run = tmp_path / "cut"
    if code == 0:
        assert phase in ("actors end", "report"), out
    else:
        assert code == 1, out
        assert "Ray" in out
    if not run.exists():
        assert phase in ("Ray starts", "packing"), out
        return
    if code:
        assert f"dfl-ray resume {run}" in out
        done = subprocess.run(
            [sys.executable, "-m", "dfl_ray", "resume", str(run)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert load_run(run).info["state"] == "done"
    assert_same_records(undisturbed, load_run(run), exact=False)


def test_a_run_whose_raylet_is_shut_down_leaves_a_last_word(undisturbed, tmp_path):
    """As by `ray stop`: Ray ends the driver before it has noticed anything."""
    given = ["run", *SMALL_RUN, "name=cut", "runtime.devices_per_actor=2", f"runtime.runs_dir={tmp_path}"]
    shut = KILLING.replace("process.kill()", "process.terminate()")
    assert shut != KILLING
    done = subprocess.run(
        [sys.executable, "-c", shut, "raylet", PHASES["train"], *given],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"dfl-ray resume {tmp_path / 'cut'}" in done.stdout + done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "dfl_ray", "resume", str(tmp_path / "cut")], capture_output=True, timeout=300
    )
    assert again.returncode == 0
    assert_same_records(undisturbed, load_run(tmp_path / "cut"), exact=False)


def test_thirty_random_kills_in_twenty_rounds_change_no_record(tmp_path, monkeypatch):
    words = ("rounds=20", "runtime.report=false")
    whole = load_run(
        launch(small_config(tmp_path, "name=whole", "runtime.backend=local", *words), json=True).folder
    )
    drawn, killed = random.Random(16), []
    start = RecoverableActor.start

    def start_and_kill(self: RecoverableActor, call: Any) -> None:
        start(self, call)
        if drawn.random() < 0.3:
            threading.Timer(drawn.uniform(0.0, 0.2), kill_one).start()

    def kill_one() -> None:
        # Ray's own agents have such titles too, and take the node with them.
        actors = [p for p in psutil.Process().children(recursive=True) if name_of(p).startswith(OURS)]
        if actors and len(killed) < 30:
            victim = drawn.choice(actors)
            killed.append(name_of(victim))
            victim.kill()

    monkeypatch.setattr(RecoverableActor, "start", start_and_kill)
    settings = ("name=killed", "runtime.devices_per_actor=2", "runtime.max_restarts=60", *words)
    run = load_run(launch(small_config(tmp_path, *settings), json=True).folder)
    assert len(killed) == 30 and len({name.split(".")[0] for name in killed}) == 2
    assert run.info["restarts"] > 10  # some are killed while they start, and an idle worker may be
    assert_same_records(whole, run, exact=False)


def name_of(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal_nothing_is_left(tmp_path, number):
    words = ["run", *SMALL_RUN, "rounds=400", "name=cut", f"runtime.runs_dir={tmp_path}"]
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as own:  # short enough for Ray's sockets
        process = subprocess.Popen(
            [sys.executable, "-m", "dfl_ray", *words, "runtime.devices_per_actor=2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": own},
        )
        while not (tmp_path / "cut" / "checkpoints" / "round-000002").exists():
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        shared = set().union(*map(shared_memory_of, family))
        assert "raylet" in {p.name() for p in family} and os.listdir(own) and shared
        process.send_signal(number)
        out = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 130, out
        assert f"dfl-ray resume {tmp_path / 'cut'}" in out
        assert not psutil.wait_procs(family, timeout=10)[1]
        assert os.listdir(own) == []
        assert not any(map(os.path.exists, shared))


def shared_memory_of(process: psutil.Process) -> set[str]:
    try:
        return {m.path for m in process.memory_maps() if m.path.startswith("/dev/shm/")}
    except psutil.Error:  # it has just ended
        return set()
