"""Lines that say how to go on with a run: a shell reads them as they stand, and they name a run that is there."""

from __future__ import annotations

import shlex
import signal
import zipfile
from pathlib import Path

import pytest

from actors.starting import ended_silently, lost_service
from dfl_ray.cli import main
from dfl_ray.errors import InputError, Interrupted, resume_line, way_on_told
from dfl_ray.records.bundle import write_bundle
from dfl_ray.records.folder_checks import check_empty
from dfl_ray.simulation import launch as launching
from dfl_ray.simulation.resuming import not_written
from dfl_ray.simulation.stopping import stop_on_signals
from tests.conftest import SMALL_RUN
from tests.fake_run import Fake, write_fake_run

NAME = "it's my run; $x"


def named(text: str) -> str:
    """What a shell would be given as the run by the line in a text."""
    return shlex.split(text[text.index("dfl-ray resume") :].split("`")[0])[2].rstrip(".")


@pytest.mark.parametrize("name", ["plain", NAME])
def test_a_line_is_read_back_as_the_run(tmp_path: Path, name: str):
    assert named(resume_line(tmp_path / name)) == str(tmp_path / name)
    assert resume_line("runs/one") == "dfl-ray resume runs/one"


def test_all_that_name_a_run_quote_it(tmp_path: Path):
    run = write_fake_run(tmp_path, NAME, Fake(devices=2, rounds=1, state="interrupted"))
    told = [ended_silently(run), lost_service(run), str(not_written(OSError(28, "full"), run))]
    for asked in (lambda: check_empty(run), lambda: write_bundle(run, tmp_path / "x.zip")):
        with pytest.raises(InputError) as error:
            asked()
        told.append(str(error.value))
    with pytest.raises(Interrupted) as stopped, stop_on_signals(run, 0.0):
        signal.raise_signal(signal.SIGALRM)
    assert {named(text) for text in [*told, str(stopped.value)]} == {str(run)}


@pytest.mark.parametrize("where", ["fingerprint", "record_notes"])
def test_a_run_that_is_interrupted_while_it_is_set_up_names_its_folder(tmp_path, monkeypatch, capsys, where):
    def stop(*_arguments, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, where, stop)
    words = [*SMALL_RUN, "rounds=1", f"runtime.runs_dir={tmp_path / 'my runs'}", "runtime.backend=local"]
    assert main(["run", "-q", *words, "name=one"]) == 130
    assert named(capsys.readouterr().err.strip()) == str(tmp_path / "my runs/one")
    monkeypatch.setattr(launching, "built", stop)
    assert main(["run", "-q", *words, "name=other"]) == 130
    assert capsys.readouterr().err == "dfl-ray: Interrupted.\n"
    assert main(["resume", "-q", str(tmp_path / "my runs/one")]) == 130
    assert named(capsys.readouterr().err.strip()) == str(tmp_path / "my runs/one")


def test_only_what_interrupts_says_how_to_go_on():
    with pytest.raises(KeyboardInterrupt) as error, way_on_told("so"):
        raise KeyboardInterrupt
    assert error.value.__notes__ == ["so"]
    with pytest.raises(ValueError) as other, way_on_told("so"):
        raise ValueError
    assert not hasattr(other.value, "__notes__")


def test_a_replay_that_is_interrupted_names_no_folder_that_is_gone(tmp_path, monkeypatch, capsys):
    def stop(*_arguments, **_more):
        raise Interrupted("Stopped after round 1. Go on with: dfl-ray resume /tmp/gone")

    run = write_fake_run(tmp_path, "one", Fake(devices=2, rounds=1))
    monkeypatch.setattr("dfl_ray.records.bundle.open_bundle", lambda *_: run)
    monkeypatch.setattr("dfl_ray.simulation.replay.replay_config", lambda *_, **__: None)
    monkeypatch.setattr("dfl_ray.simulation.library.run", stop)
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    assert main(["replay", str(tmp_path / "x.zip")]) == 130
    said = capsys.readouterr().err
    assert "was not kept" in said and "gone" not in said
    assert main(["replay", str(tmp_path / "x.zip"), "-o", str(tmp_path / "kept")]) == 130
    assert "dfl-ray resume" in capsys.readouterr().err
