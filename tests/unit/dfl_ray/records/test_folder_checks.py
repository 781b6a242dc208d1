"""Where a run folder can be made, asked before anything is set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.errors import InputError
from dfl_ray.records import RunFolder, folder_checks
from dfl_ray.records.folder_checks import check_free, check_free_for_sweep, check_runs_dir
from dfl_ray.simulation import launch
from dfl_ray.simulation.sweep import make_trials
from tests.conftest import small_config


@pytest.mark.parametrize("place", ["taken", "file", "file/below"])
def test_a_place_where_no_run_can_be_is_refused_before_anything_is_set_up(tmp_path, monkeypatch, place):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr(launch, "built", lambda *_, **__: pytest.fail("the experiment was built"))
    config = small_config(tmp_path).model_copy(update={"name": Path(place).name})
    runtime = config.runtime.model_copy(update={"runs_dir": str((tmp_path / place).parent)})
    with pytest.raises(InputError, match=r"is not empty|cannot be made"):
        launch.launch(config.model_copy(update={"runtime": runtime}), json=True)


@pytest.mark.parametrize("place", ["file", "file/below", "shut", "shut/below"])
def test_a_place_for_runs_where_none_can_be_is_refused_before_a_run_without_a_name_is_set_up(
    tmp_path, monkeypatch, place
):
    (tmp_path / "file").touch()
    (tmp_path / "shut").mkdir()
    monkeypatch.setattr(folder_checks.os, "access", lambda path, _mode: path != tmp_path / "shut")
    monkeypatch.setattr(launch, "built", lambda *_, **__: pytest.fail("the experiment was built"))
    with pytest.raises(
        InputError, match=r"cannot be made in.*(no folder|may be written).*`runtime.runs_dir`"
    ):
        launch.launch(small_config(tmp_path / place), json=True)


def test_a_folder_in_use_names_who_uses_it_and_a_free_one_is_left_as_it_is(tmp_path: Path):
    check_free(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    assert [place.name for place in tmp_path.rglob("*")] == ["empty"]
    folder = RunFolder.create(tmp_path, "one", {"seed": 0})
    with pytest.raises(InputError, match="Another run is writing"):
        check_free(folder.path)
    with pytest.raises(InputError, match="Another run is writing"):
        RunFolder.create(tmp_path, "one", {"seed": 0})
    folder.close()
    with pytest.raises(InputError, match=r"is not empty.*dfl-ray resume"):
        check_free(folder.path)


def test_what_is_no_run_is_not_to_be_gone_on_with_and_stays_as_it_is(tmp_path: Path):
    trial = make_trials({"method.rank": ["2", "4"]})[0].name
    for place, said in ((f"sweep/{trial}", "Got: a sweep"), ("new/tune", "Got: a sweep")):
        (tmp_path / place).mkdir(parents=True)
        with pytest.raises(InputError, match=rf"{said}.*Give another `name") as error:
            check_free((tmp_path / place).parent)
        assert "resume" not in str(error.value)
    (tmp_path / "files").mkdir()
    for name in "abcd":
        (tmp_path / "files" / name).touch()
    with pytest.raises(InputError, match=r"Got: other files: a, b, c, \.\.\. .*Give another `name") as error:
        check_free(tmp_path / "files")
    assert "resume" not in str(error.value)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/run.json").write_text("{")
    with pytest.raises(InputError, match=r"a run whose run\.json cannot be read"):
        check_free(tmp_path / "bad")
    assert not list(tmp_path.rglob(".lock"))


def test_a_sweep_goes_where_nothing_or_a_sweep_is(tmp_path: Path):
    trials = make_trials({"method": ["{type: dlora}", "ffa"]}, seeds=2)
    for name in ("000-s0", *(trial.name for trial in trials), "tune"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / "notes.txt").touch()
        check_free_for_sweep(tmp_path / name)
    check_free_for_sweep(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_free_for_sweep(tmp_path / "empty")
    (tmp_path / "other" / "one-s1").mkdir(parents=True)  # a folder of runs, and of no sweep
    (tmp_path / "file").touch()
    for name, said in (("other", "other files: one-s1"), ("file", "cannot be made")):
        with pytest.raises(InputError, match=said):
            check_free_for_sweep(tmp_path / name)


def test_no_run_and_no_sweep_goes_into_the_folder_of_a_run(tmp_path: Path):
    RunFolder.create(tmp_path, "one", {"seed": 0}).close()
    for check in (check_free, check_free_for_sweep):
        with pytest.raises(InputError, match=r"is not empty.*a run in state `running`.*dfl-ray resume"):
            check(tmp_path / "one")
        for place in ("one/two", "one/checkpoints", "one/two/three"):
            with pytest.raises(InputError, match=r"the run .*/one\.|the folder of the run .*/one\."):
                check(tmp_path / place)
    for place in ("one", "one/two"):
        with pytest.raises(InputError, match=r"of the run|in the run"):
            check_runs_dir(tmp_path / place)
    check_runs_dir(tmp_path)
