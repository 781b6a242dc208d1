"""RayBackend gives the records of LocalBackend, whatever the packing."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from actors import pool
from actors.pool import RayBackend
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from dfl_ray.simulation.replay_room import ReplayRoom
from tests.conftest import small_config
from tests.ray.test_faults import kill
from tests.records import assert_same_records
from tests.unit.dfl_ray.simulation.test_asynchronous_run import WORDS
from tests.unit.dfl_ray.simulation.test_moving_run import moving

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("per_actor", ["1", pytest.param("2", marks=pytest.mark.exhaustive), "4"])
def test_records_equal_the_local_ones(undisturbed, tmp_path, per_actor):
    """All devices in one actor have their state in a file there, with a budget of a kilobyte."""
    budget = ["runtime.state_memory_mb=0.001"] if per_actor == "4" else []
    config = small_config(tmp_path, "name=ray", f"runtime.devices_per_actor={per_actor}", *budget)
    run = load_run(launch(config, json=True).folder)
    assert_same_records(undisturbed, run, exact=per_actor == "4")
    assert run.devices["actor"].nunique() == 4 // int(per_actor)
    first = run.devices["actor"].iloc[0]
    assert first.startswith("device-" if per_actor == "1" else "devices-")


@pytest.mark.usefixtures("shared_ray")
def test_what_is_kept_for_replays_is_counted_where_no_message_leaves_its_actor(tmp_path, monkeypatch):
    """Outcomes, transfers and, where devices move, graphs; a checkpoint is due for their sake and ends the count."""
    seen: list[int] = []
    graphs: list[int] = []
    real, put = ReplayRoom.outgrown, pool.pickle.dumps

    def outgrown(self: ReplayRoom, kept_bytes: int) -> bool:
        seen.append(kept_bytes)
        self._most = 3 * seen[0]
        return real(self, kept_bytes)

    monkeypatch.setattr(ReplayRoom, "outgrown", outgrown)
    monkeypatch.setattr(
        pool, "pickle", SimpleNamespace(dumps=lambda *a: graphs.append(len(put(*a))) or put(*a))
    )
    words = ("runtime.backend=ray", "rounds=8", "checkpoint.every=0", "runtime.devices_per_actor=6")
    launch(small_config(tmp_path, "name=kept", *moving(tmp_path), *words), json=True)
    assert seen[0] > 0 and all(b > a for a, b in pairwise(seen[:3]))
    assert any(b < a for a, b in pairwise(seen))  # a checkpoint was saved
    assert graphs and any(b - a > min(graphs) for a, b in pairwise(seen))


@pytest.mark.exhaustive  # resumed bit for bit in tests/unit
@pytest.mark.usefixtures("shared_ray")
def test_dlora_with_faulty_devices_equals_too(tmp_path):
    """Noise is drawn by device and round, wherever the device is hosted; nobody is asked who else is faulty."""
    words = (
        "method=dlora",
        "devices.faults.share=0.5",
        "devices.faults.kind=scaled_noise",
        "method.aggregation=clip",
    )
    local = load_run(
        launch(small_config(tmp_path, "name=a", *words, "runtime.backend=local"), json=True).folder
    )
    config = small_config(tmp_path, "name=b", *words, "runtime.devices_per_actor=2")
    assert_same_records(local, load_run(launch(config, json=True).folder), exact=False)


@pytest.mark.exhaustive  # one test more of a Ray; what is counted is the group's, which both backends share
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("per_actor", ["2", "4"])
def test_what_is_sent_first_by_its_change_equals_too(tmp_path, per_actor):
    """Sizes of change are the sender's own, in whichever actor it is; one actor rounds as one process does."""
    words = ("method=dlora", "radio.priority=information", "radio.max_attempts=1", "radio.deadline_s=0.3")
    config = small_config(tmp_path, "name=a", *words, "runtime.backend=local")
    local = load_run(launch(config, json=True).folder)
    config = small_config(tmp_path, "name=b", *words, f"runtime.devices_per_actor={per_actor}")
    run = load_run(launch(config, json=True).folder)
    assert_same_records(local, run, exact=per_actor == "4")
    assert local.transfers["change"].nunique() > 3 and not local.transfers["delivered"].all()


@pytest.mark.usefixtures("shared_ray")
def test_devices_that_do_not_wait_equal_too(tmp_path, monkeypatch):
    """What lies in inboxes is with the actors, of which one dies; who trains when is not: packing changes rounding."""
    plan, killed = RayBackend.plan, []

    def plan_and_kill(self, round_index, *args):
        if round_index == 6:
            killed.append(self._groups[0].name)
            kill(self._groups[0])
        return plan(self, round_index, *args)

    monkeypatch.setattr(RayBackend, "plan", plan_and_kill)
    local = load_run(
        launch(small_config(tmp_path, "name=a", "runtime.backend=local", *WORDS), json=True).folder
    )
    config = small_config(tmp_path, "name=b", "runtime.devices_per_actor=3", *WORDS)
    packed = load_run(launch(config, json=True).folder)
    assert_same_records(local, packed, exact=False)
    pd.testing.assert_frame_equal(local.local_rounds, packed.local_rounds, check_exact=True)
    assert killed and packed.info["restarts"] == 1


@pytest.mark.exhaustive  # those that do not wait have a clock of their own too
def test_moving_devices_equal_too(tmp_path):
    """Positions go to the channel's actor, and the graphs of moved devices to the others with their rounds.

    Devices come and go too: who takes part in a round goes to the actors with it.
    """
    (tmp_path / "on.csv").write_text(
        "device,t_s,on,speed\n0,0,1,0.5\n1,1.2,0,1\n1,3.9,1,1\n2,0,0,1\n2,2.5,1,1\n"
    )
    words = (*moving(tmp_path), f"devices.availability.path={tmp_path / 'on.csv'}")
    local = load_run(launch(small_config(tmp_path, "name=a", *words), json=True).folder)
    assert 0 < local.rounds["off_devices"].sum() < 2 * len(local.rounds)
    config = small_config(tmp_path, "name=b", *words, "runtime.backend=ray", "runtime.devices_per_actor=2")
    assert_same_records(local, load_run(launch(config, json=True).folder), exact=False)


@pytest.mark.exhaustive  # two more starts of Ray
def test_after_an_error_ray_is_gone_before_it_is_told(tmp_path):
    """Ray still starting in the background would meet the next Ray of this process, and end the process with it."""
    import ray

    from actors.cluster import Starting

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
from dfl_ray.lora.projection import orthogonal_rows
with Starting(load_config(None, []).runtime) as starting:
    drawn = 0
    while not starting._began.is_set():
        orthogonal_rows(0, str(drawn), 128, 128)
        drawn += 1
    starting.resources()
print("drawn", drawn)
"""


@pytest.mark.exhaustive  # one more start of Ray
def test_matrices_made_while_ray_starts_do_not_wait_for_ever():
    """Ray forks while the experiment is built; OpenBLAS ends its threads then, amid another thread's product."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    free = {name: value for name, value in os.environ.items() if name not in threads}
    done = subprocess.run(
        [sys.executable, "-c", BUSY], cwd=ROOT, env=free, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert int(done.stdout.split()[-1]) > 0


DYING = """
import ray, sys
from actors import cluster, forks
from dfl_ray.config.load import load_config
forks.ForkServer.launcher = lambda server: "/bin/false"
with cluster.Starting(load_config(None, []).runtime) as starting:
    print("up with", starting.resources()["CPU"])
    ray.put(1)
print("needless" if "pydantic.v1" in sys.modules else "lean")
"""


def test_a_ray_whose_workers_all_die_is_up_all_the_same():
    """Ray waited for its first workers with Python held: no thread ran, no line was said, not even Ctrl-C ended it."""
    done = subprocess.run(
        [sys.executable, "-c", DYING], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert "up with" in done.stdout
    assert "lean" in done.stdout  # Ray would import two libraries to send objects of theirs
