"""Where a run folder can be made, asked before anything is set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.errors import InputError
from dfl_ray.records import RunFolder, folder_checks
from dfl_ray.records.folder_checks import check_free
from dfl_ray.simulation import launch
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
