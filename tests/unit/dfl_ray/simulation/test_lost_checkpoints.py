"""Runs whose checkpoints are gone: no row is dropped that no state is left to repeat, nor one of a run that is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.errors import InputError
from dfl_ray.records import RunFolder, load_run
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.simulation.resuming import own_config, saved_state
from tests.conftest import small_config
from tests.records import assert_same_records

LOCAL = "runtime.backend=local"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A run of three rounds that is done, with checkpoints of the second and the third."""
    words = ["name=run", LOCAL, "rounds=3", "checkpoint.every=2", "checkpoint.keep=2", "runtime.report=false"]
    return launch(small_config(tmp_path_factory.mktemp("done"), *words), json=True).folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "run")


def content(run: Path) -> dict[Path, bytes]:
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def in_state(run: Path, **fields: object) -> None:
    file = run / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize("words", [[], ["rounds=3"], ["evaluate.every=1"], ["rounds=3", "track.trackers=[]"]])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_run_that_is_done_stays_as_it_is(run: Path, words, checkpoints, capfd):
    if not checkpoints:
        shutil.rmtree(run / "checkpoints")
    before = content(run)
    assert main(["resume", str(run), *words]) == 0
    said = capfd.readouterr().out
    assert "is done already" in said and ("would count" in said) == any(
        "rounds" not in word for word in words
    )
    assert content(run) == before
    assert main(["resume", str(run), *words, "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["rounds"] == 3


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/round-000003"])
def test_a_run_that_is_done_is_not_lengthened_without_the_state_of_its_end(run: Path, lost, capfd):
    shutil.rmtree(run / lost)
    before = content(run)
    assert main(["resume", str(run), "rounds=5"]) == 2
    assert "checkpoint of round 3 is missing" in capfd.readouterr().err
    assert content(run) == before


def test_a_run_that_is_done_is_not_lengthened_past_a_damaged_state_of_its_end(run: Path):
    (run / "checkpoints/round-000003/channel.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint of round 3 is damaged.*channel\.safetensors"):
        resume(run, ["rounds=5"], json=True)
    assert load_run(run).last_round == 3


def test_a_run_that_is_done_is_lengthened_with_the_state_of_its_end(run: Path):
    before = load_run(run).rounds
    longer = load_run(resume(run, ["rounds=4"], json=True).folder)
    assert longer.last_round == 4 and longer.rounds.iloc[:3].equals(before)


@pytest.mark.parametrize("fields", [{}, {"ended_after": [3]}, {"early_ends": [3]}])
def test_a_stopped_run_whose_checkpoints_are_gone_is_refused(run: Path, fields):
    in_state(run, state="interrupted", **fields)
    shutil.rmtree(run / "checkpoints")
    before = content(run)
    with pytest.raises(
        InputError, match=f"checkpoint of round {3 if fields else 2} is missing.*no checkpoint"
    ):
        resume(run, json=True)
    assert content(run) == before


@pytest.mark.parametrize("every", [0, 3, 4])
def test_a_stopped_run_whose_first_checkpoint_was_not_due_goes_on_from_its_start(tmp_path: Path, every: int):
    """With every=3 it was killed after the rows of round 3 were written and before the checkpoint was."""
    words = ["name=run", LOCAL, "rounds=3", f"checkpoint.every={every}", "runtime.report=false"]
    whole = launch(small_config(tmp_path, *words), json=True).folder
    cut = shutil.copytree(whole, tmp_path / "cut")
    in_state(cut, state="running")
    shutil.rmtree(cut / "checkpoints")
    folder = RunFolder.open(cut)
    checkpoint, notes = saved_state(folder, own_config(cut))
    folder.close()
    assert checkpoint is None and len(notes) == (every == 3)
    assert_same_records(load_run(whole), load_run(resume(cut, json=True).folder), exact=True)
