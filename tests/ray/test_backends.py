"""RayBackend gives the records of LocalBackend, whatever the packing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config
from tests.records import assert_same_records

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("per_actor", ["1", "2", "4"])
def test_records_equal_the_local_ones(undisturbed, tmp_path, per_actor):
    config = small_config(tmp_path, "name=ray", f"runtime.devices_per_actor={per_actor}")
    run = load_run(launch(config, json=True).folder)
    assert_same_records(undisturbed, run, exact=per_actor == "4")
    assert run.devices["actor"].nunique() == 4 // int(per_actor)
    first = run.devices["actor"].iloc[0]
    assert first.startswith("device-" if per_actor == "1" else "devices-")


def test_dlora_equals_too(tmp_path):
    local = load_run(
        launch(small_config(tmp_path, "name=a", "method=dlora", "runtime.backend=local"), json=True).folder
    )
    config = small_config(tmp_path, "name=b", "method=dlora", "runtime.devices_per_actor=2")
    assert_same_records(local, load_run(launch(config, json=True).folder), exact=False)


def test_after_an_error_ray_is_gone_before_it_is_told(tmp_path):
    """Ray still starting in the background would meet the next Ray of this process, and end the process with it."""
    import ray

    from actors.cluster import Starting

    for _ in range(2):
        starting = Starting(small_config(tmp_path).runtime)
        with pytest.raises(LookupError), starting:
            assert not starting._began.is_set()
            raise LookupError
        assert starting._began.is_set()
        assert not ray.is_initialized()
    with Starting(small_config(tmp_path).runtime) as again:
        assert again.resources()["CPU"] >= 1
    assert not ray.is_initialized()


BUSY = """
from actors.cluster import Starting
from dfl_ray.config.load import load_config
from dfl_ray.lora.projection import orthogonal_matrix
with Starting(load_config(None, []).runtime) as starting:
    drawn = 0
    while not starting._began.is_set():
        orthogonal_matrix(0, str(drawn), 128)
        drawn += 1
    starting.resources()
print("drawn", drawn)
"""


def test_matrices_made_while_ray_starts_do_not_wait_for_ever():
    """Ray forks while the experiment is built; OpenBLAS ends its threads then, amid another thread's product."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    free = {name: value for name, value in os.environ.items() if name not in threads}
    done = subprocess.run(
        [sys.executable, "-c", BUSY], cwd=ROOT, env=free, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert int(done.stdout.split()[-1]) > 0
