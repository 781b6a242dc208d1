"""A run whose tasks lie elsewhere now: commands are told where, and what is there must be the same."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.simulation.launch import launch
from dfl_ray.tasks.synthetic.suite import make_tasks
from tests.conftest import small_config


def write_tasks(folder: Path) -> None:
    for task in make_tasks(("topic", "agree"), seed=3, train_rows=40, test_rows=8):
        for name, rows in (("train", task.train), ("test", task.test)):
            path = folder / task.name / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(json.dumps({"prompt": r.prompt, "answer": r.answer}) + "\n" for r in rows)
            )


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one round, and the folder to which its tasks have been moved."""
    place = tmp_path_factory.mktemp("moved")
    write_tasks(place / "before")
    config = small_config(
        place, "runtime.backend=local", "rounds=2", "tasks.source=files", f"tasks.path={place / 'before'}",
        "tasks.names=null", "model.name=embedded", "checkpoint.every=1", "evaluate.every=2", "runtime.report=false",
    )  # fmt: skip
    run = launch(config, json=True).folder
    (place / "before").rename(place / "now")
    return run, place / "now"


def test_evaluate_and_export_are_told_where_the_tasks_lie(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, now = moved
    assert main(["evaluate", str(run)]) == 2
    assert "tasks.path=FOLDER" in capsys.readouterr().err
    assert main(["evaluate", str(run), f"tasks.path={now}", "evaluate.rules=[oracle]"]) == 0
    assert "after round 2" in capsys.readouterr().out
    assert main(["export", str(run), str(tmp_path / "out"), f"tasks.path={now}"]) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert "before" in (run / "config.yaml").read_text()


def test_other_rows_there_are_refused(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = moved
    write_tasks(tmp_path)
    path = tmp_path / "topic" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    for command in ("evaluate", "resume"):
        more = ["rounds=3"] if command == "resume" else []
        assert main([command, str(run), f"tasks.path={tmp_path}", *more]) == 2
        assert "rows of task `topic` are others" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["rounds=9"], ["evaluate.every=7"], ["stop.accuracy=0.5"], ["track=none"], ["radio.tx_power_dbm=3"],
        ["runtime.backend=ray"], ["method.rank=2"],
    ],
)  # fmt: skip
def test_what_an_evaluation_does_not_read_is_refused(
    moved: tuple[Path, Path], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(moved[0]), *words]) == 2
    assert f"`{words[0].partition('=')[0]}` says nothing to the evaluation" in capsys.readouterr().err


def test_a_place_of_what_the_run_does_without_is_another_run(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, now = moved
    assert main(["evaluate", str(run), f"tasks.path={now}", f"model.warm_start={tmp_path}"]) == 2
    assert "it had none" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path / "x"), "rounds=3"]) == 2
    assert "says nothing to an export" in capsys.readouterr().err


def test_resume_goes_on_where_they_lie_now(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, now = moved
    assert main(["resume", str(run), "rounds=3", f"tasks.path={now}", "-q"]) == 0
    assert str(now) in (run / "config.yaml").read_text()
    assert main(["evaluate", str(run), "evaluate.rules=[oracle]"]) == 0
    assert "after round 3" in capsys.readouterr().out


def test_packages_that_a_run_had_and_that_are_gone_are_named(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    info = json.loads((moved[0] / "run.json").read_text())
    info["versions"]["dfl-example"] = "0.3"
    (run / "run.json").write_text(json.dumps(info))
    text = (moved[0] / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("type: sparse_orthogonal", "type: alternate"))
    assert main(["resume", str(run)]) == 2
    assert "packages that are not installed here: dfl-example 0.3" in capsys.readouterr().err


def test_a_bundle_of_such_a_run_is_written_and_its_replay_names_them(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "run.zip"
    shutil.copytree(moved[0], run)
    info = json.loads((run / "run.json").read_text())
    info["versions"]["dfl-example"] = "0.3"
    (run / "run.json").write_text(json.dumps(info))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("type: sparse_orthogonal", "type: alternate"))
    assert main(["bundle", str(run), "-o", str(out)]) == 0
    assert "needs dfl-example 0.3" in capsys.readouterr().out and out.is_file()
    assert main(["replay", str(out)]) == 2
    assert "not installed here: dfl-example 0.3" in capsys.readouterr().err


def test_a_bundle_is_compared_wherever_its_configuration_can_be_read(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that extends dfl-ray was installed then and is not now, but the run has nothing of it."""
    run = tmp_path / "run"
    shutil.copytree(moved[0], run)
    info = json.loads((run / "run.json").read_text())
    info["versions"]["dfl-example"] = "0.3"
    (run / "run.json").write_text(json.dumps(info))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"(?m)^seed: \d+", "seed: 977", text))
    assert main(["bundle", str(run), "-o", str(tmp_path / "run.zip")]) == 2
    assert "`seed` was" in capsys.readouterr().err
