"""Made-up runs that the tests of pictures and pages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.records import Run, load_run
from tests.fake_run import Fake, write_fake_run


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(runs_dir: Path) -> Run:
    return load_run(write_fake_run(runs_dir, "one", Fake(rounds=6, every=2)))


@pytest.fixture(scope="module")
def dlora(runs_dir: Path) -> Run:
    fake = Fake(rounds=6, every=3, method="dlora", final=0.7, message_bytes=42_000)
    return load_run(write_fake_run(runs_dir, "two", fake))


@pytest.fixture(scope="module")
def large(runs_dir: Path) -> Run:
    return load_run(write_fake_run(runs_dir, "large", Fake(devices=10_000, rounds=1)))
