"""Where `-o` and `export` write: the folder is made before the work, or refused, and the ending is what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfl_ray.cli import commands, main
from dfl_ray.errors import InputError
from dfl_ray.records import bundle, load_run
from dfl_ray.simulation import calibrate, evaluate_again, export_device, replan
from dfl_ray.simulation.launch import launch
from dfl_ray.views import catalog, report
from tests.conftest import small_config
from tests.fake_run import Fake, write_fake_run


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
        (bundle, "write_bundle"),
        (bundle, "open_bundle"),
        (catalog, "draw"),
        (report, "write_report"),
    ):
        monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("the work was begun"))


def words_of(command: str, run: Path, out: Path) -> list[str]:
    return {
        "evaluate": ["evaluate", str(run), "-o", f"{out}.csv"],
        "replan": ["replan", str(run), "-o", f"{out}.parquet"],
        "report": ["report", str(run), "-o", f"{out}.html"],
        "calibrate": ["calibrate", "-o", f"{out}.yaml"],
        "bundle": ["bundle", str(run), "-o", f"{out}.zip"],
        "plot": ["plot", str(run), "loss", "-o", f"{out}.svg"],
        "replay": ["replay", f"{run}.zip", "-o", str(out)],
        "export": ["export", str(run), str(out)],
        "export --all": ["export", str(run), str(out), "--all"],
    }[command]


COMMANDS = ("evaluate", "replan", "report", "calibrate", "bundle", "plot", "replay", "export", "export --all")


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
    if command.startswith(("export", "replay")):
        (tmp_path / "x").touch()
    else:
        Path(words[words.index("-o") + 1]).mkdir()
    assert main(words) == 2
    said = capfd.readouterr().err
    assert any(part in said for part in ("no folder", "a folder", "File exists"))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("evaluate", "x.json", ".csv or .parquet"),
        ("replan", "x", ".csv or .parquet"),
        ("report", "x.pdf", ".html or .htm"),
        ("calibrate", "x.json", ".yaml or .yml"),
        ("bundle", "x.tar", ".zip"),
        ("plot", "x.jpeg", ".pdf, .svg, .png, .html or .json"),
    ],
)
def test_an_ending_that_is_not_written_is_refused_first(
    command: str, given: str, expected: str, made: Path, tmp_path: Path, capfd: Any
) -> None:
    words = words_of(command, made, tmp_path / "x")
    words[words.index("-o") + 1] = str(tmp_path / "new" / given)
    assert main(words) == 2
    said = capfd.readouterr().err
    assert f"{given}` cannot be written" in said and f"a name that ends in {expected}." in said
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_file_can_have_and_a_file_that_is_shut_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="too long"):
        commands.table_file(str(tmp_path / f"{'x' * 300}.csv"))
    (tmp_path / "x.csv").touch()
    assert commands.table_file(str(tmp_path / "x.csv")) == tmp_path / "x.csv"
    monkeypatch.setattr(commands.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="may not be written"):
        commands.table_file(str(tmp_path / "x.csv"))


def test_a_folder_where_nothing_may_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="nothing may be written"):
        commands.table_file(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("command", ["evaluate", "replan", "bundle"])
def test_the_folder_is_made(command: str, made: Path, tmp_path: Path) -> None:
    words = words_of(command, made, tmp_path / "new/one/x")
    assert main([*words, "-q"]) == 0
    assert Path(words[-1]).stat().st_size > 0
    assert load_run(made).last_round == 1


def test_report_and_plot_take_folders_of_runs_and_leave_out_what_is_none(tmp_path: Path, capsys):
    for name, seed in (("b", 1), ("a", 0), ("sweep/000-s0", 2)):
        runs_dir = (tmp_path / name).parent
        write_fake_run(runs_dir, Path(name).name, Fake(devices=4, rounds=2, seed=seed))
    (tmp_path / "one.zip").touch()
    (tmp_path / "empty").mkdir()
    out = ["-o", str(tmp_path / "r.html"), "--json"]
    wanted = [str(tmp_path / name) for name in ("a", "b", "sweep/000-s0")]
    assert main(["report", str(tmp_path), *out]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"] == wanted
    everything = sorted(str(path) for path in tmp_path.iterdir())
    assert main(["report", *everything, *out]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["runs"] == wanted
    left = [f"dfl-ray: `{tmp_path}/{name}` is left out: " for name in ("empty", "one.zip", "r.html")]
    assert told.err == f"{left[0]}a folder without config.yaml\n{left[1]}a file\n{left[2]}a file\n"
    picture = ["accuracy_over_rounds", "-o", str(tmp_path / "x.json")]
    assert main(["plot", *everything, *picture]) == 0 and main(["plot", str(tmp_path), *picture]) == 0
    capsys.readouterr()
    for words, said in (
        ([everything[0], str(tmp_path / "mistyped")], "mistyped` is not a run. Got: no such folder"),
        ([str(tmp_path / "one.zip")], "one.zip` is not a run. Got: a file"),
        ([str(tmp_path / "one.zip"), str(tmp_path / "empty")], "None of these is a run"),
    ):
        assert main(["report", *words]) == 2
        assert said in capsys.readouterr().err
