"""A sweep on Ray Tune: a failed run is named, the rest is kept, and the same words go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfl_ray.cli import main
from tests.conftest import SMALL_RUN

pytestmark = pytest.mark.ray


def test_a_failed_run_is_named_and_the_rest_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        _fail_then_mend(words, broken, tmp_path, capsys)
    finally:
        ray.shutdown()


def _fail_then_mend(
    words: list[str], broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(said["failed"]) == ["000-s1"] and "not empty" in said["failed"]["000-s1"]
    assert said["rows"][0]["runs"] == 1
    (broken / "foreign").unlink()
    before = (tmp_path / "s/000-s0/run.json").read_text()
    assert main(["sweep", *words]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["rows"][0]["runs"] == 2 and not said["failed"]
    assert (tmp_path / "s/000-s0/run.json").read_text() == before
    assert (tmp_path / "s/comparison.html").is_file()
