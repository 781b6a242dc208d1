"""Where `-o` and `export` write: the folder is made before the work, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfl_ray.cli import commands, main
from dfl_ray.errors import InputError
from dfl_ray.records import load_run
from dfl_ray.simulation import calibrate, evaluate_again, export_device, replan
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small_config(
        tmp_path_factory.mktemp("runs"),
        "name=one",
        "rounds=1",
        "runtime.backend=local",
        "track.trackers=[none]",
    )
    return launch(config, json=True).folder


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No work is begun."""
    for module, name in (
        (evaluate_again, "evaluate_again"),
        (replan, "replan"),
        (calibrate, "calibrate"),
        (export_device, "open_saved"),
    ):
        monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("the work was begun"))


def words_of(command: str, run: Path, out: Path) -> list[str]:
    return {
        "evaluate": ["evaluate", str(run), "-o", f"{out}.csv"],
        "replan": ["replan", str(run), "-o", f"{out}.parquet"],
        "report": ["report", str(run), "-o", f"{out}.html"],
        "calibrate": ["calibrate", "-o", f"{out}.yaml"],
        "export": ["export", str(run), str(out)],
        "export --all": ["export", str(run), str(out), "--all"],
    }[command]


COMMANDS = ("evaluate", "replan", "report", "calibrate", "export", "export --all")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_where_no_folder_can_be_is_refused_first(
    command: str, made: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "file").touch()
    assert main(words_of(command, made, tmp_path / "file/below/x")) == 2
    assert "Nothing can be written to the folder" in capfd.readouterr().err


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", COMMANDS)
def test_what_lies_there_already_is_refused_first(
    command: str, made: Path, tmp_path: Path, capfd: Any
) -> None:
    words = words_of(command, made, tmp_path / "x")
    if command.startswith("export"):
        (tmp_path / "x").touch()
    else:
        Path(words[words.index("-o") + 1]).mkdir()
    assert main(words) == 2
    said = capfd.readouterr().err
    assert "no folder" in said or "a folder" in said


def test_a_folder_where_nothing_may_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="nothing may be written"):
        commands.table_file(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("command", ["evaluate", "replan"])
def test_the_folder_is_made(command: str, made: Path, tmp_path: Path) -> None:
    words = words_of(command, made, tmp_path / "new/one/x")
    assert main([*words, "-q"]) == 0
    assert Path(words[-1]).stat().st_size > 0
    assert load_run(made).last_round == 1
