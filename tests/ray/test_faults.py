"""Killed actors come back, a killed driver resumes, Ctrl-C saves: the records equal an undisturbed run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from actors.pool import RayBackend
from actors.replay import RecoverableActor
from dfl_ray.errors import RunError
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch, resume
from tests.conftest import SMALL_RUN, small_config
from tests.records import assert_same_records

pytestmark = pytest.mark.ray


def kill(actor: RecoverableActor) -> None:
    """Kill an actor's process and wait until it is gone."""
    ray.kill(actor.handle)  # returns before the process is gone: it may still answer for a while
    deadline = time.monotonic() + 60
    with pytest.raises(ray.exceptions.RayActorError):
        while time.monotonic() < deadline:
            ray.get(actor.handle.ready.remote(), timeout=60)
            time.sleep(0.05)


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    "when",
    [
        "channel",
        *(
            pytest.param(w, marks=pytest.mark.exhaustive)
            for w in ("while_training", "before_plan", "before_evaluation")
        ),
    ],
)
def test_a_killed_actor_changes_no_record(undisturbed, tmp_path, monkeypatch, when):
    killed: list[int] = []
    original = {name: getattr(RayBackend, name) for name in ("plan", "evaluate")}
    start = RecoverableActor.start

    def plan(self, round_index, *args):
        if when in ("before_plan", "channel") and round_index == 3 and not killed:
            killed.append(round_index)
            kill(self._groups[0] if when == "before_plan" else self._channel)
        return original["plan"](self, round_index, *args)

    def evaluate(self, round_index, *args):
        if when == "before_evaluation" and round_index == 4 and not killed:
            killed.append(round_index)
            kill(self._groups[1])
        return original["evaluate"](self, round_index, *args)

    def start_and_kill(self, call):
        start(self, call)
        if when == "while_training" and call.method == "train" and call.args[0] == 3 and not killed:
            killed.append(3)
            ray.kill(self.handle)

    monkeypatch.setattr(RayBackend, "plan", plan)
    monkeypatch.setattr(RayBackend, "evaluate", evaluate)
    monkeypatch.setattr(RecoverableActor, "start", start_and_kill)
    config = small_config(tmp_path, "name=ray", "runtime.devices_per_actor=2")
    run = load_run(launch(config, json=True).folder)
    assert killed
    assert_same_records(undisturbed, run, exact=False)
    assert run.info["restarts"] == 1  # and nobody else died of it


@pytest.mark.usefixtures("shared_ray")
def test_an_actor_that_keeps_dying_ends_the_run_with_a_clear_word(tmp_path, monkeypatch):
    start = RecoverableActor.start

    def start_and_kill(self, call):
        start(self, call)
        if call.method == "train" and call.args[0] == 2:
            ray.kill(self.handle)

    monkeypatch.setattr(RecoverableActor, "start", start_and_kill)
    config = small_config(tmp_path, "name=ray", "runtime.devices_per_actor=4", "runtime.max_restarts=1")
    with pytest.raises(RunError, match=r"devices-0000.*died.*runtime\.max_restarts"):
        launch(config, json=True)
    monkeypatch.undo()
    assert load_run(tmp_path / "ray").info["state"] == "failed"
    run = load_run(resume(tmp_path / "ray", json=True).folder)
    assert run.info["state"] == "done"
    assert len(run.rounds) == 4


def command(runs: Path, *words: str) -> subprocess.Popen[bytes]:
    overrides = [*SMALL_RUN, "name=cut", "runtime.devices_per_actor=4", f"runtime.runs_dir={runs}"]
    given = [words[0], *overrides, *words[1:]] if words[0] == "run" else words
    # A shell's background jobs have Ctrl-C ignored, and what they start inherits it.
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "dfl_ray", *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    finally:
        signal.signal(signal.SIGINT, outside)


def wait_for_checkpoint(run: Path, round_index: int) -> None:
    for _ in range(3600):
        if (run / "checkpoints" / f"round-{round_index:06d}" / "manifest.json").exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of round {round_index} in {run}")


def test_a_driver_killed_by_sigkill_resumes(undisturbed, tmp_path):
    process = command(tmp_path, "run")
    wait_for_checkpoint(tmp_path / "cut", 2)
    process.kill()
    process.wait(60)
    resumed = command(tmp_path, "resume", str(tmp_path / "cut"))
    out = resumed.communicate(timeout=300)[0].decode()
    assert resumed.returncode == 0, out
    assert "after round" in out
    run = load_run(tmp_path / "cut")
    assert run.info["state"] == "done"
    assert_same_records(undisturbed, run, exact=True)


def test_sigterm_before_the_first_round_is_told_in_one_line(tmp_path):
    """Once Ray is up its own handler would print where the process was, as of a crash."""
    process = command(tmp_path, "run")
    assert process.stdout is not None
    said = iter(process.stdout.readline, b"")
    assert any(b"devices in 1 actor" in line for line in said)
    process.terminate()
    out = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130, out
    assert "dfl-ray: Interrupted" in out and "SIGTERM received" not in out


def test_ctrl_c_saves_and_prints_the_resume_line(undisturbed, tmp_path):
    process = command(tmp_path, "run", "rounds=400")
    wait_for_checkpoint(tmp_path / "cut", 1)
    os.kill(process.pid, signal.SIGINT)
    out = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130, out
    assert f"dfl-ray resume {tmp_path / 'cut'}" in out
    assert "Traceback" not in out
    assert load_run(tmp_path / "cut").info["state"] == "interrupted"
