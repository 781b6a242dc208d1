"""When actors are forks, why not otherwise, and what they are thought to cost."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.packing import machine, workers
from dfl_ray.packing.actors import pack
from dfl_ray.packing.workers import ACTOR_MB, FORK_MB, why_no_forks

RESOURCES = {"CPU": 2.0, "memory": 2.0**34}


def runtime(*words: str):
    return load_config(None, list(words)).runtime


@pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")
def test_on_linux_actors_are_forks_unless_there_is_a_reason(monkeypatch):
    assert why_no_forks(runtime()) is None
    assert why_no_forks(runtime("runtime.fork_actors=false")) == "`runtime.fork_actors=false`"
    assert "starts its workers itself" in str(why_no_forks(runtime("runtime.address=auto")))
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    assert "Linux only" in str(why_no_forks(runtime()))


@pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")
def test_a_tmpdir_that_is_too_long_is_a_reason_where_there_is_no_shorter_folder(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setattr(machine.tempfile, "tempdir", str(long))
    assert why_no_forks(runtime()) is None
    monkeypatch.setattr(machine, "SHORT_FOLDERS", ())
    assert f"TMPDIR={long}" in str(why_no_forks(runtime()))


@pytest.mark.parametrize(("forks", "empty_mb"), [(True, FORK_MB), (False, ACTOR_MB)])
def test_memory_is_counted_for_the_workers_there_will_be(forks, empty_mb):
    found = pack(runtime(), np.zeros(4, int), RESOURCES, 3.0, forks=forks)
    # One device an actor, of four: 3 MB of state, and 0.02 and 4 x 0.004 MB of Python's own objects.
    assert found.memory_mb == pytest.approx(empty_mb + 3.0 + 0.036)


def test_memory_grows_with_an_actors_devices_and_with_the_runs():
    config = runtime("runtime.devices_per_actor=1000", "devices.count=3000")
    found = pack(
        config, np.zeros(3000, int), RESOURCES, 0.5, merged_mb=lambda devices: devices / 10, forks=True
    )
    assert found.memory_mb == pytest.approx(FORK_MB + 500 + 100 + 20 + 12)


def test_the_users_own_figure_stands():
    found = pack(runtime("runtime.memory_per_actor_mb=500"), np.zeros(4, int), RESOURCES, 3.0, forks=True)
    assert found.memory_mb == 500
