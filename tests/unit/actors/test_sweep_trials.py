"""What a sweep's trial does with a run that has not begun, has begun or is done; Ray is not started."""

from __future__ import annotations

import builtins
import pickle
from types import SimpleNamespace

import pytest
from ray.exceptions import RayTaskError

from actors import sweep
from dfl_ray.config.load import resolved_yaml
from dfl_ray.errors import InputError
from dfl_ray.packing.partition import Node
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from dfl_ray.simulation.resuming import own_config
from tests.conftest import small_config


@pytest.fixture
def called(monkeypatch):
    """The runs that were begun and resumed, in order; none trains."""
    from dfl_ray.simulation import launch

    found: list[tuple[str, str]] = []

    def outcome(what: str, name: str, accuracy: float | None) -> SimpleNamespace:
        found.append((what, name))
        return SimpleNamespace(summary={"accuracy_mean": accuracy})

    monkeypatch.setattr(launch, "launch", lambda config, json: outcome("begun", str(config.name), 0.5))
    monkeypatch.setattr(launch, "resume", lambda folder, words, json: outcome("resumed", *words, None))
    return found


def test_a_trial_begins_a_run_or_goes_on_with_it(tmp_path, called):
    given = {"config": small_config(tmp_path, "name=a").model_dump_json()}
    assert sweep._run_one(given) == {"accuracy": 0.5}
    begin(tmp_path / "a", small_config(tmp_path, "name=a", "rounds=1"))
    assert sweep._run_one(given) == {"accuracy": 0.0}
    assert called == [("begun", "a"), ("resumed", f"rounds={small_config(tmp_path).rounds}")]


def test_a_sweep_keeps_no_mixture_of_measures_in_one_run_unsaid(tmp_path):
    """A run of a sweep that was stopped is measured on other rows from now on, and its `run.json` says so."""
    words = ("name=a", "runtime.backend=local", "evaluate.every=1")
    launch(small_config(tmp_path, *words, "rounds=1", "evaluate.rows_per_task=8"), json=True)
    given = small_config(tmp_path, *words, "rounds=2", "evaluate.rows_per_task=2").model_dump_json()
    sweep._run_one({"config": given})
    run = load_run(tmp_path / "a")
    asked = run.evaluation.query("device >= 0 and round > 0").groupby("round")["rows"].unique()
    assert [rows.tolist() for rows in asked] == [[8], [2]]
    assert run.info["changes"] == ["after round 1: evaluate.rows_per_task=2 in place of 8"]


def test_a_run_that_has_begun_goes_on_as_the_sweep_says_now(tmp_path):
    begin(tmp_path / "a", small_config(tmp_path, "name=a", "evaluate.rows_per_task=8", "rounds=3"))
    words = ("evaluate.rows_per_task=2", "stop.joules=7.0", "checkpoint.keep=9", "runtime.runs_dir=elsewhere")
    wanted = sweep._as_wanted(tmp_path / "a", small_config(tmp_path, "name=a", "rounds=4", *words))
    assert sorted(wanted) == sorted(["rounds=4", *words[:-1]])
    assert sweep._as_wanted(tmp_path / "a", own_config(tmp_path / "a")) == []


def begin(folder, config):
    folder.mkdir()
    (folder / "run.json").write_text('{"schema_version": 9}')
    (folder / "config.yaml").write_text(resolved_yaml(config))


@pytest.mark.parametrize(("rounds", "waiting"), [(2, 0), (3, 0), (4, 1)])
def test_runs_that_are_done_are_not_run_again_unless_they_are_to_be_longer(
    tmp_path, called, monkeypatch, rounds, waiting
):
    monkeypatch.setattr("dfl_ray.records.info.read_info", lambda _path: {"state": "done"})
    begin(tmp_path / "a", small_config(tmp_path, "name=a", "rounds=3"))
    assert sweep.is_done(tmp_path / "a", rounds) == (not waiting)
    if not waiting:
        said: list[str] = []
        wanted = [small_config(tmp_path, "name=a", f"rounds={rounds}")]
        assert sweep.run_trials(tmp_path, wanted, said.append) == {}
        assert said == [f"0 of 1 runs to do in {tmp_path}"] and not called


@pytest.mark.parametrize(
    ("threads", "gpus", "fits"),
    [(2, 0.0, True), (1, 1.0, True), (3, 0.0, False), (2, 1.0, False), (1, 2.0, False)],
)
def test_a_run_must_fit_on_one_machine(monkeypatch, threads, gpus, fits):
    monkeypatch.setattr("actors.nodes.alive_nodes", lambda: [Node("a", 2), Node("b", 1, 1)])
    if fits:
        return sweep._check_room(threads, gpus)
    words = rf"runtime\.threads={threads}, .*at most 1 CPU and 1 GPU or 2 CPU and 0 GPU"
    with pytest.raises(InputError, match=words):
        sweep._check_room(threads, gpus)


def test_a_trial_that_fails_says_why_in_whole(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").touch()
    found = sweep._run_one({"config": small_config(tmp_path, "name=a").model_dump_json()})
    assert "exists and is not empty" in found["failed"] and "other files: mine.txt" in found["failed"]
    assert sweep._reason(SimpleNamespace(error=None, metrics=found)) == found["failed"]
    raised = RayTaskError("trial", "a traceback\nof lines", ValueError("first\nlast"))
    assert sweep._reason(SimpleNamespace(error=raised, metrics=None)) == "ValueError: first\nlast"
    assert sweep._reason(SimpleNamespace(error=None, metrics={"accuracy": 0.5})) is None


def test_every_run_that_ends_is_told(tmp_path):
    said: list[str] = []
    teller = sweep._told(3, said.append)
    for name, how, result in (
        ("a", teller.on_trial_error, {}),
        ("b", teller.on_trial_complete, {"accuracy": 0.5}),
        ("c", teller.on_trial_complete, {"failed": "why"}),
    ):
        config = small_config(tmp_path, f"name={name}").model_dump_json()
        how(iteration=1, trials=[], trial=SimpleNamespace(config={"config": config}, last_result=result))
    assert said == ["a has failed (1 of 3)", "b is done (2 of 3)", "c has failed (3 of 3)"]
    assert type(pickle.loads(pickle.dumps(teller))) is type(teller).__mro__[1]


def test_without_ray_tune_the_package_is_named(tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name: str, globals=None, locals=None, fromlist=(), level=0):
        if name == "ray" and "tune" in (fromlist or ()):
            raise ImportError(name)
        return original(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"dfl-ray\[tune\]"):
        sweep.run_trials(tmp_path, [small_config(tmp_path, "name=a")], print)
