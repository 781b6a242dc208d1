"""A driver killed between and inside rounds, in one process without Ray, many times over."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import SMALL_RUN, small_config
from tests.records import assert_same_records

pytestmark = pytest.mark.slow


@pytest.mark.exhaustive  # tests/ray/test_faults.py kills a driver once
def test_killed_again_and_again_equals_undisturbed(tmp_path):
    long = ["rounds=8", "checkpoint.every=2", "runtime.backend=local"]
    whole = load_run(launch(small_config(tmp_path, "name=whole", *long), json=True).folder)
    run = tmp_path / "cut"
    words = ["run", *SMALL_RUN, *long, "name=cut", f"runtime.runs_dir={tmp_path}"]
    for wait_s in (0.1, 0.7):
        process = subprocess.Popen([sys.executable, "-m", "dfl_ray", *words], stdout=subprocess.DEVNULL)
        done = len(load_run(run).rounds) if (run / "run.json").exists() else 0
        for _ in range(1200):
            if (run / "run.json").exists() and len(load_run(run).rounds) > done:
                break
            time.sleep(0.05)
        time.sleep(wait_s)
        process.kill()
        process.wait()
        words = ["resume", str(run)]
    subprocess.run([sys.executable, "-m", "dfl_ray", *words], check=True, stdout=subprocess.DEVNULL)
    assert_same_records(whole, load_run(run), exact=True)
