"""A run inside a program that has initialised Ray itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray import run
from dfl_ray.records import comparable
from tests.conftest import small_config

pytestmark = pytest.mark.ray


def test_runs_join_the_callers_ray_and_leave_it_up(tmp_path: Path) -> None:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        words = ("rounds=2", "runtime.devices_per_actor=2")
        first = run(small_config(tmp_path, "name=first", *words))
        local = run(small_config(tmp_path, "name=local", "runtime.backend=local", *words))
        assert ray.is_initialized()
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
    finally:
        ray.shutdown()
    assert comparable(first.rounds).equals(comparable(local.rounds))
