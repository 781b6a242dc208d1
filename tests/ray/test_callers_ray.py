"""Runs and sweeps inside a program that has initialised Ray itself: they join it and leave it up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dfl_ray import run
from dfl_ray.cli import main
from dfl_ray.records import comparable
from tests.conftest import SMALL_RUN, small_config
from tests.ray.conftest import SessionRay

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("callers_ray")]


@pytest.fixture(scope="module")
def callers_ray(session_ray: SessionRay) -> Iterator[None]:
    """A Ray that the program has started."""
    session_ray.end()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Other:
    """An actor of another run."""


def test_runs_join_it_beside_actors_of_the_same_names_and_leave_it_up(tmp_path: Path) -> None:
    words = ("rounds=2", "runtime.devices_per_actor=4")
    other = ray.remote(Other).options(name="channel").remote()
    first = run(small_config(tmp_path, "name=first", *words))
    ray.kill(other)
    local = run(small_config(tmp_path, "name=local", "runtime.backend=local", *words))
    assert ray.is_initialized()
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    assert comparable(first.rounds).equals(comparable(local.rounds))


def test_a_failed_run_of_a_sweep_is_named_and_the_rest_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *SMALL_RUN,
        "rounds=1",
        "method=dlora",
        "seeds=2",
        "name=s",
        f"runtime.runs_dir={tmp_path}",
        "--json",
    ]
    broken = tmp_path / "s" / "000-s1"
    broken.mkdir(parents=True)
    (broken / "foreign").write_text("")
    assert main(["sweep", *words]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(said["failed"]) == ["000-s1"] and "not empty" in said["failed"]["000-s1"]
    assert said["rows"][0]["runs"] == 1
    (broken / "foreign").unlink()
    before = (tmp_path / "s/000-s0/run.json").read_text()
    assert main(["sweep", *words[:-1]]) == 0
    assert "\n000-s1 is done (1 of 1)\n" in capsys.readouterr().out
    assert main(["sweep", *words]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["rows"][0]["runs"] == 2 and not said["failed"]
    assert (tmp_path / "s/000-s0/run.json").read_text() == before
    assert (tmp_path / "s/comparison.html").is_file()
    assert ray.is_initialized()


def test_runs_of_a_sweep_that_no_machine_can_hold_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL_RUN, "rounds=1", "method=dlora", "name=s", f"runtime.runs_dir={tmp_path}"]
    assert main(["sweep", *words, "runtime.threads=1,3"]) == 2  # of all that wait the most counts
    assert "runtime.threads=3" in capsys.readouterr().err
    assert ray.is_initialized()
