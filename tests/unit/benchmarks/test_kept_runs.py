"""Runs that benchmarks keep: made once, read again, refused where what they were made of has changed."""

from __future__ import annotations

import json
import subprocess

import pytest

from benchmarks import kept_runs, league, tuning
from dfl_ray.errors import InputError
from dfl_ray.records.lock import acquire
from tests.conftest import SMALL_RUN


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in ("OTHER_COMMITS", "DIVERGED", "_FOUND"):
        monkeypatch.setattr(kept_runs, name, type(getattr(kept_runs, name))())


def info_of(job):
    return json.loads((job.path / "run.json").read_text(encoding="utf-8"))


def write_info(job, **values):
    job.path.mkdir(parents=True, exist_ok=True)
    known = info_of(job) if (job.path / "run.json").is_file() else {}
    (job.path / "run.json").write_text(json.dumps(known | values), encoding="utf-8")


def test_a_run_that_another_process_is_making_is_left_alone(tmp_path):
    job = kept_runs.make_job("dlora", 0, None, SMALL_RUN, tmp_path)
    job.path.mkdir()
    (job.path / "run.json").write_text('{"state": "running"}', encoding="utf-8")
    lock = acquire(job.path)
    for carry_out in (kept_runs.carry_out, kept_runs.carry_out_here):
        with pytest.raises(InputError, match="Another run is writing"):
            carry_out(job)
    lock.release()
    assert (job.path / "run.json").is_file()


def test_settings_of_one_method_do_not_reach_the_others(tmp_path):
    job = kept_runs.make_job("dlora:rank=4:topology.max_degree=2", 3, None, ["rounds=2"], tmp_path)
    assert job.arguments[-4:] == ("rounds=2", "method.rank=4", "topology.max_degree=2", "seed=3")
    assert job.path != kept_runs.make_job("dlora:rank=5", 3, None, ["rounds=2"], tmp_path).path


WORDS = ("zero", "three", "five", "eight", "ten")


def row_of(n):
    return json.dumps(
        {"prompt": f"plus market {WORDS[n % 5]} paid {WORDS[n // 5 % 5]} =>", "answer": "ef"[n % 2]}
    )


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "sums"
    folder.mkdir(parents=True)
    for part, rows in (("train", range(20)), ("test", range(20, 24))):
        (folder / f"{part}.jsonl").write_text("\n".join(map(row_of, rows)) + "\n", encoding="utf-8")
    return folder.parent


def one_run(tmp_path, data):
    words = ["tasks.source=files", f"tasks.path={data}", "tasks.names=[sums]", "rounds=1", "devices.count=2",
             "devices.partition.tasks_per_device=1", "devices.partition.min_holders=1", "method.local_steps=1",
             "method.batch_rows=2", "evaluate.every=1", "evaluate.rows_per_task=4"]  # fmt: skip
    return kept_runs.make_job("dlora", 0, None, words, tmp_path / "runs")


def test_a_kept_run_is_read_unless_its_rows_have_changed(tmp_path, data, capsys):
    job = one_run(tmp_path, data)
    kept_runs.carry_out_here(job)
    stamp = (job.path / "rounds.parquet").stat().st_mtime_ns
    kept_runs.carry_out_here(job)
    kept_runs.carry_out(job)
    assert (job.path / "rounds.parquet").stat().st_mtime_ns == stamp
    assert not kept_runs.OTHER_COMMITS

    info = info_of(job)
    other = info["fingerprint"] | {"code": {"version": "0.1.0", "sources": "0" * 64}}
    write_info(job, fingerprint=other, git={"commit": "c0ffee", "dirty": False})
    capsys.readouterr()
    kept_runs.carry_out(job)
    kept_runs.carry_out(job)
    assert {"c0ffee"} == kept_runs.OTHER_COMMITS
    assert capsys.readouterr().err.count("kept from other code, commit c0ffee") == 1

    with (data / "sums" / "test.jsonl").open("a", encoding="utf-8") as file:
        file.write(row_of(24) + "\n")
    kept_runs._FOUND.clear()
    for carry_out in (kept_runs.carry_out, kept_runs.carry_out_here):
        with pytest.raises(InputError, match=r"(?s)kept from before.*sums.*--folder"):
            carry_out(job)
    with pytest.raises(SystemExit, match="sums"):
        kept_runs.run_all([job], 1)


def test_a_run_that_diverged_is_not_made_again_and_its_method_is_left_out(
    tmp_path, data, monkeypatch, capsys
):
    bad = kept_runs.make_job(
        "dlora:learning_rate=1e30", 0, None, one_run(tmp_path, data).arguments[5:-1], tmp_path
    )
    with pytest.raises(RuntimeError, match="diverged"):
        kept_runs.carry_out_here(bad)
    assert kept_runs.diverged(bad.path)
    stamp = (bad.path / "run.json").stat().st_mtime_ns
    good = one_run(tmp_path, data)
    kept_runs.carry_out_here(good)
    curves = kept_runs.run_all([good, bad], 1)
    assert list(curves) == ["dlora"] and list(curves["dlora"]) == [0]
    assert "dlora:learning_rate=1e30 diverged with seed 0" in capsys.readouterr().err
    assert (bad.path / "run.json").stat().st_mtime_ns == stamp
    with (data / "sums" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(row_of(30) + "\n")
    kept_runs._FOUND.clear()
    with pytest.raises(InputError, match="kept from before"):
        kept_runs.carry_out(bad)
    with pytest.raises(SystemExit, match="kept from before"):  # what it was is not known to diverge again
        kept_runs.run_all([bad], 1)
    with pytest.raises(SystemExit, match=r"(?s)kept from before.*same command makes"):
        kept_runs.run_all([good, bad], 1, needed=[bad.label])
    assert tuning._mean(curves["dlora"], [0, 1]) == pytest.approx(curves["dlora"][0].figures["accuracy"] / 2)


def test_what_is_said_of_one_call_is_not_kept_for_the_next(tmp_path, monkeypatch):
    jobs = [kept_runs.make_job("dlora", seed, None, [], tmp_path) for seed in range(3)]
    write_info(jobs[1], state="failed", failed_by="Training diverged: all losses are NaN.")

    def carry_out(job):
        if kept_runs.diverged(job.path):
            raise RuntimeError("Training diverged")

    monkeypatch.setattr(kept_runs, "carry_out", carry_out)
    monkeypatch.setattr(kept_runs, "curve_of", lambda path, label: str(path))
    assert kept_runs.run_all(jobs, 1) == {}
    assert set(kept_runs.run_all(jobs, 1, keep_rest=True)["dlora"]) == {0, 2}
    assert set(kept_runs.run_all([jobs[0], jobs[2]], 1)["dlora"]) == {0, 2}


def test_a_run_with_a_preset_is_made_and_read_again(tmp_path):
    words = [
        "devices.count=9",
        "rounds=1",
        "method.local_steps=1",
        "method.batch_rows=2",
        "evaluate.rows_per_task=2",
    ]
    job = kept_runs.make_job("dlora", 0, "indoor", words, tmp_path)
    kept_runs.carry_out_here(job)
    stamp = (job.path / "rounds.parquet").stat().st_mtime_ns
    kept_runs.carry_out(job)
    assert (job.path / "rounds.parquet").stat().st_mtime_ns == stamp


def test_inputs_are_read_once_by_all_threads(tmp_path, data, monkeypatch):
    import dfl_ray.simulation.experiment as experiment

    job, built, build = one_run(tmp_path, data), [], experiment.build_experiment
    kept_runs.carry_out_here(job)
    monkeypatch.setattr(experiment, "build_experiment", lambda c: built.append(1) or build(c))
    kept_runs.run_all([job] * 4, 4)
    assert built == [1]


def test_a_failure_is_told_when_the_other_runs_are_made(tmp_path, monkeypatch):
    made = []

    def carry_out(job):
        made.append(job.seed)
        if job.seed == 0:
            raise RuntimeError("dlora, seed 0, failed: no space left")

    monkeypatch.setattr(kept_runs, "carry_out", carry_out)
    jobs = [kept_runs.make_job("dlora", seed, None, [], tmp_path) for seed in range(3)]
    with pytest.raises(SystemExit, match="no space left"):
        kept_runs.run_all(jobs, 1)
    assert made == [0, 1, 2]


def test_paths_are_the_callers(tmp_path, monkeypatch):
    asked = {}

    def run(command, **how):
        asked.update(how, command=command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(kept_runs.subprocess, "run", run)
    kept_runs.carry_out(kept_runs.make_job("local", 0, None, ["tasks.path=small"], tmp_path))
    assert "cwd" not in asked and "-P" in asked["command"] and "tasks.path=small" in asked["command"]
    assert asked["env"]["PYTHONPATH"].split(":")[0] == str(kept_runs.ROOT)


def fail_diverged(job):
    if kept_runs.diverged(job.path):
        raise RuntimeError("Training diverged")


def test_a_method_that_diverged_is_left_out_of_the_league(tmp_path, monkeypatch, capsys):
    setting = league.Setting(2, 2, 1, (), tmp_path, None, (1e-2,), 0, 8, 0)
    monkeypatch.setattr(league, "carry_out_here", fail_diverged)
    monkeypatch.setattr(league, "curve_of", lambda path, label: label)
    bad = setting.job("ffa:learning_rate=9", 1, trial=False)
    write_info(bad, state="failed", failed_by="Training diverged: all losses are NaN.")
    chosen = {"dlora": "dlora:learning_rate=0.01", "ffa": "ffa:learning_rate=9"}
    curves = league.all_curves(setting, chosen, 3, finished=False)
    assert curves == {"dlora": {0: "dlora", 1: "dlora", 2: "dlora"}}
    assert "ffa:learning_rate=9 diverged with seed 1" in capsys.readouterr().err


def test_the_finished_part_of_a_league_makes_no_trial(tmp_path, monkeypatch):
    setting = league.Setting(2, 2, 1, (), tmp_path, None, (1e-2,), 0, 8, 0)
    monkeypatch.setattr(league, "carry_out_here", lambda job: pytest.fail("a run was made"))
    job = setting.job("dlora:learning_rate=0.01", league.FIRST_SEED, trial=True)
    for state in ("failed", "running"):
        write_info(job, state=state, failed_by="the disk is full")
        assert league.tuned_rate(setting, "dlora", 1, finished=True) is None
    write_info(job, state="failed", failed_by="Training diverged: all losses are NaN.")
    monkeypatch.setattr(league, "carry_out_here", fail_diverged)
    found = league.tuned_rate(setting, "dlora", 1, finished=True)
    assert found == {"best": "dlora:learning_rate=0.01", "trials": {"0.01": 0.0}}
