"""`run --resume FILE`: what an edited file says of how a run is run holds from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.cli.again import begun
from dfl_ray.config.load import load_config, resolved_yaml
from dfl_ray.config.locations import with_absolute_paths
from dfl_ray.records import load_run
from dfl_ray.simulation.lengthen import resumed_config
from tests.conftest import small_config


def write(path: Path, folder: Path, *words: str) -> str:
    """A file with every key of a small run."""
    config = small_config(folder, "name=one", "runtime.backend=local", *words)
    path.write_text(resolved_yaml(config), encoding="utf-8")
    return str(path)


def evaluated(folder: Path) -> list[int]:
    rounds = load_run(folder).table("rounds")
    return rounds["round"][rounds["accuracy_mean"].notna()].tolist()


def test_a_run_goes_on_as_its_edited_file_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # A file whose name is that of a section is a file.
    name = write(tmp_path / "evaluate.yaml", tmp_path, "rounds=2", "evaluate.every=2")
    assert main(["run", "--resume", name, "-q"]) == 0
    assert evaluated(tmp_path / "one") == [2]
    write(tmp_path / "evaluate.yaml", tmp_path, "rounds=5", "evaluate.every=1", "track.trackers=[none]")
    assert main(["run", "--resume", name, "-q"]) == 0
    assert evaluated(tmp_path / "one") == [2, 3, 4, 5]
    assert load_config(tmp_path / "one/config.yaml").track.trackers == ("none",)
    assert main(["run", "--resume", name, "-q"]) == 0
    assert capfd.readouterr().out.rstrip().endswith("is done already")
    assert main(["run", "--resume", name, "-q", "evaluate.rows_per_task=3"]) == 0
    assert "no round is left in which evaluate.rows_per_task=3 would count" in capfd.readouterr().out


def test_keys_that_differ_become_overrides_and_words_alone_stay_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = tmp_path / "one", tmp_path / "runtime.yaml"
    folder.mkdir()
    (folder / "run.json").write_text('{"schema_version": 9, "state": "interrupted"}')
    own = with_absolute_paths(load_config(write(path, tmp_path, "rounds=2")))
    (folder / "config.yaml").write_text(resolved_yaml(own))
    monkeypatch.chdir(tmp_path)
    words = ["runtime.yaml", "runtime.threads=2"]
    assert begun(load_config(*split(words)), words) == (folder, ["runtime.threads=2"])
    write(path, tmp_path, "rounds=2", "stop.joules=7", "checkpoint.keep=9", 'track.wandb.group="x #1"')
    (tmp_path / "away").mkdir()
    (tmp_path / "away/one").symlink_to(folder)
    words += ["runtime.runs_dir=away", "runtime.state_dir=away"]
    found = begun(load_config(*split(words)), words)
    assert found is not None and found.overrides is not None
    keys = ["checkpoint.keep", "runtime.state_dir", "runtime.threads", "stop.joules", "track.wandb"]
    assert sorted(text.partition("=")[0] for text in found.overrides) == keys
    goes_on = resumed_config(own, found.overrides, str(folder / "config.yaml"), 1)
    assert (goes_on.track.wandb.group, goes_on.track.wandb.mode) == ("x #1", "disabled")
    assert goes_on.runtime.state_dir == str(tmp_path / "away")
    assert goes_on.runtime.runs_dir == own.runtime.runs_dir
    alone = ["name=one", f"runtime.runs_dir={tmp_path}", "stop.joules=8"]
    assert begun(load_config(None, alone), alone) == (folder, ["stop.joules=8"])


def split(words: list[str]) -> tuple[str, list[str]]:
    return words[0], words[1:]
