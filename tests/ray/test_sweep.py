"""A sweep that starts its own Ray: its trials run, it is gone on with, and Ctrl-C is an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dfl_ray.cli import main
from tests.conftest import SMALL_RUN
from tests.ray.conftest import SessionRay

pytestmark = pytest.mark.ray
WORDS = (*SMALL_RUN, "rounds=1", "method=dlora", "name=s")


@pytest.fixture(autouse=True)
def no_other_ray(session_ray: SessionRay) -> None:
    """The sweep starts the only one."""
    session_ray.end()


def sweep(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dfl_ray", "sweep", *WORDS, f"runtime.runs_dir={folder}", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_its_trials_run_once_and_only_as_the_same_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, errors = (first := sweep(tmp_path, "method.rank=4,8", "--json")).communicate(timeout=300)
    assert first.returncode == 0, errors
    rows = json.loads(said.splitlines()[-1])["rows"]
    assert [row["runs"] for row in rows] == [1, 1] and all(row["accuracy"] is not None for row in rows)
    before = {path: path.read_bytes() for path in tmp_path.glob("s/*/run.json")}
    # What starts no Ray needs no process of its own.
    words = ["sweep", *WORDS, f"runtime.runs_dir={tmp_path}", "method.rank=4,8"]
    assert main(words) == 0 and "0 of 2 runs to do" in capsys.readouterr().out
    assert main([*words, "method.alpha=3"]) == 2
    other = capsys.readouterr()
    assert "is another experiment" in other.err and not other.out
    assert before == {path: path.read_bytes() for path in tmp_path.glob("s/*/run.json")}


def test_a_trial_that_fails_is_told_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "s/000-rank=4-s0").mkdir(parents=True)
    (tmp_path / "s/000-rank=4-s0/mine.txt").touch()
    said, errors = (process := sweep(tmp_path, "method.rank=4,8")).communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "000-rank=4-s0 has failed" in said and "001-rank=8-s0 is done" in said
    assert "failed: 000-rank=4-s0: The folder " in said and "other files: mine.txt" in said
    assert "Traceback" not in said + errors


@pytest.mark.exhaustive
def test_ctrl_c_is_an_interruption(tmp_path: Path) -> None:
    process = sweep(tmp_path, "seeds=2", "rounds=100000")
    assert process.stdout is not None
    assert "1 point, seeds 0, 1" in process.stdout.readline()
    assert "2 of 2 runs to do" in process.stdout.readline()
    deadline = 240
    while not list(tmp_path.glob("s/*/rounds.parquet")) and deadline > 0:
        deadline -= 1
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            continue
        break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "0 of 2 runs are done. Go on with the same words and name=s" in errors
