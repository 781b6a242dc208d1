"""Runs shared by the Ray tests: the undisturbed local run is what all others must equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import small_config
from tests.worker_coverage import keep_data_of_killed_workers


@pytest.fixture(scope="session", autouse=True)
def coverage_of_workers() -> Iterator[None]:
    """Workers save their coverage before they are killed."""
    with keep_data_of_killed_workers():
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small run in one process."""
    from dfl_ray.records import load_run
    from dfl_ray.simulation.launch import launch

    path = tmp_path_factory.mktemp("undisturbed")
    return load_run(launch(small_config(path, "name=local", "runtime.backend=local"), json=True).folder)
