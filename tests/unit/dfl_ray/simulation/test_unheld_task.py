"""A task that no device holds: told, asked by every rule, and left out of what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.records import load_run
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config


def test_a_task_nobody_holds_is_told_and_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("devices.count=1", "devices.partition.tasks_per_device=1", "devices.partition.min_holders=0")
    config = small_config(tmp_path, *words, "rounds=1", "runtime.backend=local", "evaluate.rules=[all]")
    folder = launch(config).folder
    assert "No device holds" in capsys.readouterr().out
    assert any("No device holds" in note for note in dry_run(config).notes)
    found = load_run(folder)
    last = found.evaluation.query("round == 1")
    assert {"filter", "filter_full"} <= set(last.rule) and last.accuracy.notna().all()
    assert last.groupby("rule").task.nunique().eq(2).all()
    assert main(["export", str(folder), str(tmp_path / "out"), "--device", "0"]) == 0
