"""Files that a configuration names for devices and graph are part of what a run is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.config.load import load_config
from dfl_ray.config.locations import with_absolute_paths
from dfl_ray.config.option_files import option_files
from dfl_ray.errors import InputError
from dfl_ray.simulation.launch import launch, resume
from tests.conftest import small_config


def places(path: Path, step_m: float) -> Path:
    rows = [f"{d},{30 + step_m * d},50" for d in range(6)]
    path.write_text("\n".join(["device,x_m,y_m", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def placed(tmp_path):
    """Words of a run whose devices stand where a file says."""
    path = places(tmp_path / "places.csv", 10.0)
    return path, (
        f"devices.placement={{type: file, path: {path}}}",
        "devices.count=6",
        "runtime.backend=local",
    )


def test_all_keys_that_name_such_a_file_are_found_and_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("p.csv", "q.csv", "t.csv", "g.csv", "a.csv", "c.yaml"):
        Path(name).write_text("own: {flops_per_s: 1.0e+9}" if name == "c.yaml" else "", encoding="utf-8")
    config = load_config(None, [
        "devices.placement={type: file, path: p.csv}", "devices.partition={type: file, path: ~/q.csv}",
        "devices.mobility={type: trace, path: t.csv}", "topology={type: file, path: g.csv}",
        "devices.availability.path=a.csv", "devices.classes=c.yaml",
    ])  # fmt: skip
    found = option_files(config)
    assert found == {
        "devices.placement.path": "p.csv", "devices.partition.path": "~/q.csv", "devices.mobility.path": "t.csv",
        "topology.path": "g.csv", "devices.availability.path": "a.csv", "devices.classes": "c.yaml",
    }  # fmt: skip
    absolute = option_files(with_absolute_paths(config))
    assert absolute == {key: str(tmp_path / Path(path).name) for key, path in found.items()}
    assert config.devices.partition.options()["path"] == str(tmp_path / "q.csv")
    assert not option_files(load_config(None, []))


def test_a_run_is_not_gone_on_with_when_such_a_file_is_another(placed, tmp_path):
    path, words = placed
    folder = launch(small_config(tmp_path, "name=one", "rounds=1", *words), json=True).folder
    places(path, 11.0)
    with pytest.raises(InputError, match=r"the file of `devices\.placement\.path` is another"):
        resume(folder, ["rounds=2"])
    info = json.loads((folder / "run.json").read_text())
    assert list(info["fingerprint"].pop("files")) == ["devices.placement.path"]
    (folder / "run.json").write_text(json.dumps(info))
    assert resume(folder, ["rounds=2"], json=True).folder == folder, "runs of before know of no files"


def test_a_replay_is_told_where_such_a_file_lies(placed, tmp_path, capsys):
    path, words = placed
    folder = launch(small_config(tmp_path, "name=one", "rounds=1", *words), json=True).folder
    assert main(["bundle", str(folder), "-o", str(tmp_path / "one.zip")]) == 0
    moved = path.rename(tmp_path / "elsewhere.csv")
    assert main(["replay", str(tmp_path / "one.zip")]) == 2
    assert "`devices.placement.path` does not exist" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "one.zip"), f"devices.placement.path={moved}"]) == 0
    assert "bit for bit equal" in capsys.readouterr().out
    places(moved, 9.0)
    main(["replay", str(tmp_path / "one.zip"), f"devices.placement.path={moved}"])
    assert "other files" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "one.zip"), "devices.count=7"]) == 2
    assert "devices.partition.path" in capsys.readouterr().err
