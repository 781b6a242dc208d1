"""`~` in `runtime.runs_dir` is the home folder for all that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.cli import sweep as sweep_cli
from dfl_ray.cli.again import begun
from dfl_ray.config.load import from_data, load_config
from dfl_ray.errors import InputError
from dfl_ray.records import load_run
from tests.conftest import SMALL_RUN

WORDS = [*SMALL_RUN, "rounds=1", "runtime.backend=local", "runtime.runs_dir=~/mine", "name=one"]


def test_a_run_a_resume_and_a_sweep_lie_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert main(["run", *WORDS, "-q"]) == 0
    assert load_run(home / "mine/one").last_round == 1
    found = begun(load_config(None, WORDS), WORDS)
    assert found is not None and found.folder == home / "mine/one"
    assert sweep_cli._runs([*WORDS, "name=two", "seeds=2"])[0] == home / "mine/two"
    capsys.readouterr()
    assert main(["status", "~/mine"]) == 0
    assert "one" in capsys.readouterr().out
    assert not list(here.iterdir())


def test_a_url_stays_and_nobodys_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for said, meant in (("s3://bucket/~/runs", "s3://bucket/~/runs"), ("./~", "./~"), ("~", "/home/me")):
        assert from_data({"runtime": {"runs_dir": said}}).runtime.runs_dir == meant
    with pytest.raises(InputError, match=r"`runtime.runs_dir`: ~nobody-at-all/x lies in nobody's home"):
        load_config(None, ["runtime.runs_dir=~nobody-at-all/x"])
