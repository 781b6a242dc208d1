"""The reader of a run's output goes away: the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dfl_ray.records import load_run
from dfl_ray.tracking.console import LastingConsole
from dfl_ray.tracking.progress import PlainProgress
from tests.conftest import SMALL_RUN


def test_a_console_without_a_reader_falls_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        progress = PlainProgress(LastingConsole(file=file))
        for text in ("lost", "not written"):
            progress.say(text)
        assert os.fstat(file.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_a_run_whose_reader_has_gone_comes_to_its_end(tmp_path: Path) -> None:
    words = [*SMALL_RUN, "name=one", "rounds=2", "runtime.backend=local", f"runtime.runs_dir={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, "-m", "dfl_ray", "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as going:
        assert going.stdout is not None and going.stderr is not None
        assert going.stdout.readline()
        going.stdout.close()
        told = going.stderr.read()
    assert (going.returncode, told) == (0, b"")
    run = load_run(tmp_path / "one")
    assert run.info["state"] == "done"
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "round 1/2" in log and "round 2/2" in log


def test_a_sweep_whose_reader_has_gone_comes_to_its_end(tmp_path: Path) -> None:
    words = [*SMALL_RUN, "name=two", "rounds=1", "seeds=2", f"runtime.runs_dir={tmp_path}"]
    code = (
        "import sys; from actors import sweep; "
        "sweep.run_trials = lambda folder, configs, say: [say('begun') for _ in configs] and {}; "
        "from dfl_ray.cli import main; sys.exit(main())"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", *words], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "two/summary.json").is_file()
