"""Runs shared by the Ray tests: the undisturbed local run is what all others must equal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import small_config


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small run in one process."""
    from dfl_ray.records import load_run
    from dfl_ray.simulation.launch import launch

    path = tmp_path_factory.mktemp("undisturbed")
    return load_run(launch(small_config(path, "name=local", "runtime.backend=local"), json=True).folder)
