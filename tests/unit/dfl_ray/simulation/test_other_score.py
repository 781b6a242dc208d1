"""A saved run goes on, or is asked, by another score: what it was trained on stays, and is known to have stayed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dfl_ray.cli import main
from dfl_ray.errors import InputError
from dfl_ray.records import load_run
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.launch import launch, resume
from tests.conftest import small_config

WORDS = ("name=run", "runtime.backend=local", "rounds=2", "method=dlora", "evaluate.rows_per_task=8")
CUT = "model.max_tokens=11"
OTHER = "evaluate.score=choice"
GENERATED = ("evaluate.score=f1", "evaluate.max_new_tokens=8")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run by exact match whose prompts are cut."""
    return launch(small_config(tmp_path_factory.mktemp("made"), *WORDS, CUT), json=True).folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def test_tasks_are_known_by_their_rows_before_any_cut(tmp_path):
    one, other, wider, drawn = (
        build_experiment(small_config(tmp_path, *WORDS, *words)).setup.tasks
        for words in ((CUT,), (CUT, *GENERATED), (), (CUT, "seed=1"))
    )
    for a, b in zip(one, other, strict=True):
        assert (a.score, b.score) == ("exact_match", "f1") and a.uncut == b.uncut
        assert a.train.ids.tolist() == b.train.ids.tolist() and a.test.ids.tolist() != b.test.ids.tolist()
    assert [t.uncut for t in wider] == [t.uncut for t in one] and len({t.uncut for t in one}) == 2
    assert not {t.uncut for t in drawn} & {t.uncut for t in one}


def test_generated_answers_without_room_name_their_own_key(tmp_path):
    """The labels are short: it is not they that do not fit."""
    words = (*WORDS, "model.max_tokens=64", "evaluate.score=f1", "evaluate.max_new_tokens=64")
    with pytest.raises(
        InputError, match=r"no room for a prompt[\s\S]*max_new_tokens=64[\s\S]*Lower `evaluate.max_new"
    ):
        build_experiment(small_config(tmp_path, *words))


@pytest.mark.parametrize("score", [(OTHER,), GENERATED])
def test_a_saved_state_is_asked_by_another_score(run: Path, score: tuple[str, ...], capsys):
    told = []
    for words in ([], score):
        assert main(["evaluate", str(run), "--json", *words]) == 0
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"])
    assert told[0] != told[1]


def test_a_run_goes_on_by_another_score_and_trains_on_the_same_rows(run: Path, tmp_path: Path):
    other = shutil.copytree(run, tmp_path / "other")
    plain, scored = (load_run(resume(path, words, json=True).folder) for path, words in (
        (run, ["rounds=4"]), (other, ["rounds=4", OTHER]),
    ))  # fmt: skip
    assert plain.rounds["train_loss"].tolist() == scored.rounds["train_loss"].tolist()
    assert plain.last_round == scored.last_round == 4
    assert scored.info["scores"]["topic"]["score"] == "choice" and "changes" not in plain.info
    said = "after round 2: task topic is scored by label likelihood, before by exact match of greedy decoding"
    assert said in scored.info["changes"] and said in (other / "log.txt").read_text()
    pd.testing.assert_series_equal(plain.rounds["accuracy_mean"][:2], scored.rounds["accuracy_mean"][:2])
    resume(other, ["rounds=5", "evaluate.score=exact_match"], json=True)


def test_a_replay_names_the_measure_that_a_run_was_given_on_its_way(run: Path, tmp_path: Path, capsys):
    resume(run, ["rounds=3", "evaluate.rows_per_task=2", "stop.joules=1e9"], json=True)
    resume(run, ["rounds=4", "evaluate.rows_per_task=2", "checkpoint.keep=9"], json=True)
    told = [
        f"after round 2: {key}"
        for key in ("evaluate.rows_per_task=2 in place of 8", "stop.joules=1000000000.0 in place of null")
    ]
    assert load_run(run).info["changes"] == told
    assert all(line in (run / "log.txt").read_text() for line in told)
    assert main(["bundle", str(run), "-o", str(tmp_path / "one.zip")]) == 0
    main(["replay", str(tmp_path / "one.zip")])
    said = capsys.readouterr().out
    assert all(f"the run was changed on its way: {line}" in said for line in told)


def test_a_run_of_before_goes_on_by_the_score_that_it_had(run: Path, capsys):
    info = json.loads((run / "run.json").read_text())
    del info["fingerprint"]["uncut"]
    (run / "run.json").write_text(json.dumps(info))
    assert main(["evaluate", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), OTHER]) == 2
    said = capsys.readouterr().err
    assert "the rows or the score of task `agree` are others" in said and "resume" not in said
    resume(run, ["rounds=3"], json=True)
    assert main(["evaluate", str(run), OTHER]) == 0  # it has noted both since


@pytest.mark.parametrize("kind", ["label_flip", "backdoor"])
def test_what_faulty_devices_learn_may_not_change_on_the_way(tmp_path: Path, kind: str):
    words = ("method=dlora", f"devices.faults={{kind: {kind}, share: 0.25}}")
    run = launch(small_config(tmp_path, *WORDS, *words), json=True).folder
    assert main(["evaluate", str(run), OTHER]) == 0
    with pytest.raises(InputError, match="labels that faulty devices learn by are others"):
        resume(run, ["rounds=3", OTHER], json=True)
    resume(run, ["rounds=3"], json=True)
