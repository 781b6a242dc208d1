"""A sweep as a list of runs, and its summary, against figures worked out by hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.cli import sweep as sweep_cli
from dfl_ray.config.load import resolved_yaml
from dfl_ray.errors import InputError
from dfl_ray.simulation.launch import launch
from dfl_ray.simulation.sweep import (
    is_done,
    make_trials,
    of_same_words,
    split_words,
    summary_lines,
    summary_rows,
)
from tests.conftest import SMALL_RUN
from tests.fake_run import Fake, write_fake_run


def test_words_are_told_apart() -> None:
    fixed, grid, own = split_words(
        [
            "rounds=3",
            "method=dlora,ffa",
            "tasks.names=[a,b]",
            "topology={type: ring, order: index},grid",
            "seeds=2",
        ]
    )
    assert fixed == ["rounds=3", "tasks.names=[a,b]"]
    assert grid == {"method": ["dlora", "ffa"], "topology": ["{type: ring, order: index}", "grid"]}
    assert own == {"seeds": 2}


def test_every_point_for_every_seed() -> None:
    trials = make_trials({"method": ["dlora", "ffa"], "method.rank": ["4", "8"]}, seeds=2, first_seed=5)
    assert [(t.point, t.seed) for t in trials[:3]] == [
        (("method=dlora", "method.rank=4"), 5),
        (("method=dlora", "method.rank=4"), 6),
        (("method=dlora", "method.rank=8"), 5),
    ]
    assert len({t.name for t in trials}) == len(trials) == 8
    assert [t.seed for t in make_trials({"seed": ["3", "1"]})] == [3, 1]


def test_a_sample_of_the_points_is_the_same_each_time() -> None:
    grid = {"method.rank": [str(r) for r in range(1, 30)]}
    first = make_trials(grid, samples=4)
    assert first == make_trials(grid, samples=4)
    assert len({t.point for t in first}) == 4


@pytest.mark.parametrize(
    "words", [["rounds=3"], ["seeds=1"], ["seeds=x"], ["samples=0", "rounds=1,2"], ["seed=a,b"]]
)
def test_what_is_no_sweep_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) == 2
    assert capsys.readouterr().err.startswith("dfl-ray: ")


def test_a_wrong_point_is_refused_before_anything_runs(tmp_path, capsys) -> None:
    assert main(["sweep", "method.rank=4,0", f"runtime.runs_dir={tmp_path}", "name=s"]) == 2
    assert "`method.rank`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_differences_are_taken_seed_by_seed() -> None:
    trials = make_trials({"method": ["dlora", "ffa"]}, seeds=2)
    accuracy = dict(zip([t.name for t in trials], [0.2, 0.6, 0.3, 0.7], strict=True))
    found = {n: {"accuracy_mean": a, "payload_bytes": 10, "energy_j": 1.0} for n, a in accuracy.items()}
    first, second = summary_rows(trials, found)
    assert (first["accuracy"], first["difference"]) == (pytest.approx(0.4), None)
    # Half width with one degree of freedom: t = 12.706, s / sqrt(2) = 0.2.
    assert first["interval"] == pytest.approx(12.706 * 0.2, rel=1e-3)
    assert second["difference"] == pytest.approx(0.1)
    assert second["difference_interval"] == pytest.approx(0.0, abs=1e-12)
    del found[trials[3].name]
    assert summary_rows(trials, found)[1]["runs"] == 1
    assert "+10.0" in summary_lines(summary_rows(trials, found))[1]


def test_a_point_without_a_finished_run_has_no_figures() -> None:
    trials = make_trials({"method": ["dlora", "ffa"]})
    rows = summary_rows(trials, {})
    assert [row["accuracy"] for row in rows] == [None, None]
    assert len(summary_lines(rows)) == 2
    with pytest.raises(InputError, match="Nothing is swept"):
        make_trials({})


@pytest.mark.parametrize("track", ["track=none", "track=wandb", "rounds=2"])
def test_the_runs_share_a_group_however_tracking_is_chosen(track: str, tmp_path: Path) -> None:
    _, trials, configs = sweep_cli._runs(
        ["method=dlora,local", "seeds=2", "name=mine", f"runtime.runs_dir={tmp_path}", track]
    )
    assert len(trials) == len(configs) == 4
    assert {c.track.wandb.group for c in configs} == {"mine"}
    assert configs[0].track.trackers == (("wandb",), ("none",))[track == "track=none"]


def test_the_group_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    words = ["seeds=2", "name=mine", f"runtime.runs_dir={tmp_path}", "track.wandb.group=theirs"]
    assert {config.track.wandb.group for config in sweep_cli._runs(words)[2]} == {"theirs"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=dlora,dlora"], "names a value twice"),
        (["seed=1,2", "seeds=2"], "both say which seeds"),
        (["name=a,b"], "`name` cannot be swept, since it names the sweep"),
        (["track=wandb,none"], "`track` cannot be swept"),
        (["track.wandb.mode=online,offline"], "`track.wandb.mode` cannot be swept"),
        (["runtime.runs_dir=a,b"], "lie in its folder"),
        (["runtime.backend=ray,local"], "no result depends on it"),
        (["runtime.address=a:1,b:1"], "one Ray serves"),
    ],
)
def test_words_that_would_be_dropped_or_that_no_sweep_can_vary_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        split_words(words)


def test_a_sweep_under_the_name_of_another_is_refused(tmp_path):
    words = [*SMALL_RUN, "method.rank=2,4", "name=s", f"runtime.runs_dir={tmp_path}", "rounds=3"]
    folder, trials, configs = sweep_cli._runs(words)
    for trial, config in zip(trials, configs, strict=True):
        (folder / trial.name).mkdir(parents=True)
        (folder / trial.name / "run.json").write_text('{"schema_version": 9}')
        (folder / trial.name / "config.yaml").write_text(resolved_yaml(config))
    assert sweep_cli._runs(words)[2] == configs
    assert {config.rounds for config in sweep_cli._runs([*words, "rounds=5"])[2]} == {5}
    with pytest.raises(InputError, match="is longer than this sweep"):
        sweep_cli._runs([*words, "rounds=2"])
    with pytest.raises(InputError, match="is another experiment"):
        sweep_cli._runs([*words, "devices.faults.share=0.25"])


def begin(words: list[str], state: str) -> Path:
    """The folders of a sweep's runs as they are once all have the same state."""
    folder, trials, configs = sweep_cli._runs(words)
    for trial, config in zip(trials, configs, strict=True):
        (folder / trial.name).mkdir(parents=True)
        (folder / trial.name / "run.json").write_text(f'{{"schema_version": 9, "state": "{state}"}}')
        (folder / trial.name / "config.yaml").write_text(resolved_yaml(config))
    return folder


@pytest.mark.parametrize("other", ["evaluate.rows_per_task=2", "evaluate.score=choice", "stop.joules=7.0"])
def test_runs_that_were_measured_otherwise_are_averaged_with_no_others(other: str, tmp_path, capsys):
    words = [*SMALL_RUN, "name=s", f"runtime.runs_dir={tmp_path}", "rounds=3", "seeds=2"]
    begin(words, "done")
    assert len(sweep_cli._runs([*words, "seeds=3", "runtime.threads=2", "checkpoint.keep=9"])[2]) == 3
    with pytest.raises(InputError, match=rf"000-s0 is done and was measured otherwise.*{other} in place of"):
        sweep_cli._runs([*words, "seeds=3", other])
    # What is to be longer is not done: it ends by the new measure.
    sweep_cli._runs([*words, other, "rounds=4"])
    assert f"000-s1 has begun and goes on with {other} in place of" in capsys.readouterr().err


def test_runs_are_found_in_a_grid_of_other_points(tmp_path, capsys):
    words = [*SMALL_RUN, "name=s", f"runtime.runs_dir={tmp_path}", "method.rank=2,4"]
    folder = begin([*words, "rounds=1,2"], "done")
    before = {path.name for path in folder.iterdir()}
    assert before >= {"000-rank=2-rounds=1-s0", "002-rank=4-rounds=1-s0"}
    _, trials, configs = sweep_cli._runs([*words, "rounds=1,2,3", "seeds=2"])
    assert [c.name for c in configs] == [t.name for t in trials] and len({t.name for t in trials}) == 12
    points = {t.name: t.point for t in trials if t.name in before}
    assert set(points) == before and points["002-rank=4-rounds=1-s0"] == ("method.rank=4", "rounds=1")
    assert [c.name for c in configs if not is_done(folder / str(c.name), c.rounds)] == [
        t.name for t in trials if t.name not in before
    ]
    capsys.readouterr()
    assert {c.name for c in sweep_cli._runs([*words, "rounds=2,3"])[2]} & before == {
        "001-rank=2-rounds=2-s0",
        "003-rank=4-rounds=2-s0",
    }
    said = capsys.readouterr().err
    assert "none of these and are not compared: 000-rank=2-rounds=1-s0, 002-rank=4-rounds=1-s0" in said


def test_a_run_of_the_same_words_and_another_experiment_is_not_taken_for_it(tmp_path):
    words = [*SMALL_RUN, "name=s", f"runtime.runs_dir={tmp_path}", "rounds=3"]
    begin([*words, "method.rank=1,2"], "done")
    # Both keys are `rank` in the name of a folder; the second is no key of this method, so the words are made by hand.
    trials = make_trials({"other.rank": ["0", "1", "2"]})
    assert of_same_words(["000-rank=1-s0", "001-rank=2-s0"], trials[1]) == ["000-rank=1-s0"]
    assert (
        sweep_cli._runs([*words, "method.rank=3,1", "devices.faults.share=0.25"])[1][1].name
        == "001-rank=1-s0"
    )


def test_the_points_are_told_before_any_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("actors.sweep.run_trials", lambda _f, _c, say: say("begun") or {})
    words = ["sweep", *SMALL_RUN, "seeds=2", f"runtime.runs_dir={tmp_path}"]
    assert main([*words, "name=s", "tasks.system_prompt=Answer briefly, please", "method.rank=2, 4"]) == 0
    said = capsys.readouterr().out.split("begun")[0].splitlines()
    assert said == [
        "4 points, seeds 0, 1",
        "tasks.system_prompt: 2 values: `Answer briefly`, ` please`. One text with commas is written in quotes: "
        """'tasks.system_prompt="Answer briefly, please"'""",
        "method.rank: 2 values: `2`, ` 4`",
    ]
    quoted = shlex.split(said[1].rpartition(": ")[2])
    assert main([*words, "name=t", *quoted]) == 0
    assert capsys.readouterr().out.startswith("1 point, seeds 0, 1\nbegun")


def test_a_sweep_into_the_folder_of_a_run_or_of_other_files_is_refused_before_anything_is_made(
    tmp_path, capsys
):
    run = write_fake_run(tmp_path, "a", Fake(devices=2, rounds=1, every=1))
    (tmp_path / "files").mkdir()
    (tmp_path / "files/x").touch()
    before = sorted(tmp_path.rglob("*"))
    for words in (["name=a"], ["name=files"], ["name=new", f"runtime.runs_dir={run}"]):
        assert main(["sweep", *SMALL_RUN, f"runtime.runs_dir={tmp_path}", "seeds=2", *words]) == 2
    said = capsys.readouterr().err
    assert "a run in state `done`" in said and "other files: x" in said and "the folder of the run" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x #1", "\N{HORSE} é"])
def test_a_sweep_lies_in_the_folder_that_is_named_whatever_its_name(name, tmp_path):
    folder, _, configs = sweep_cli._runs(
        ["method.rank=2,4", "name=s", f"runtime.runs_dir='{tmp_path / name}'"]
    )
    assert {config.runtime.runs_dir for config in configs} == {str(folder)} == {str(tmp_path / name / "s")}


def test_long_points_keep_their_seeds_and_their_folders_apart():
    long = "{type: sparse_orthogonal, density: 0.1, mask: row, " + "x" * 90
    grid = {"method": [f"{long}, publish: through}}", f"{long}, publish: never}}"]}
    names = [trial.name for trial in make_trials(grid, seeds=12)]
    assert len(set(names)) == 24 and all(len(name) <= 125 for name in names)
    assert [name.rsplit("-", 1)[1] for name in names] == [f"s{seed}" for seed in range(12)] * 2
    # Under one name two sweeps have the same first letters, and not one folder.
    one, other = (make_trials({"method": [text]}, seeds=2)[0].name for text in grid["method"])
    assert one[:100] == other[:100] and one != other
    short = make_trials({"method.rank": ["4", "8"], "method": ["{type: dlora}"]}, seeds=2)
    assert [t.name for t in short[:2]] == [f"000-rank=4-method=_type_dlora_-s{s}" for s in (0, 1)]


def launched(_folder: Path, configs, _say) -> dict[str, str]:
    for config in configs:
        launch(config, json=True)
    return {}


def test_a_sweep_some_of_whose_runs_could_ask_nobody_has_its_summary_and_report(
    tmp_path, monkeypatch, capsys
):
    """At the end of round 2 the honest device is off, and the other crashed."""
    monkeypatch.setattr("actors.sweep.run_trials", launched)
    (tmp_path / "on.csv").write_text("device,t_s,on\n" + "".join(f"{d},0.001,0\n{d},5,1\n" for d in (0, 1)))
    words = [
        *SMALL_RUN, "devices.count=2", "devices.partition.min_holders=1", "rounds=1,2", "evaluate.every=4",
        "evaluate.rows_per_task=4", "devices.faults={kind: crash, share: 0.5}", f"runtime.runs_dir={tmp_path}",
        f"devices.availability.path={tmp_path / 'on.csv'}", "name=s",
    ]  # fmt: skip
    assert main(["sweep", *words, "seeds=2"]) == 0
    rows = json.loads((tmp_path / "s" / "summary.json").read_text())["rows"]
    assert [row["accuracy"] is None for row in rows] == [False, True]
    assert rows[1]["difference"] is None and [row["runs"] for row in rows] == [2, 2]
    assert "comparison.html" in capsys.readouterr().out and (tmp_path / "s" / "comparison.html").is_file()
    trials = make_trials({"rounds": ["1", "2"]}, seeds=2)
    one = {"payload_bytes": 1, "energy_j": 1.0}
    found = {
        t.name: {"accuracy_mean": a, **one} for t, a in zip(trials, (0.5, 0.25, None, 0.75), strict=True)
    }
    assert summary_rows(trials, found)[1]["difference"] == 0.5


def test_bad_rows_are_told_once_and_whole_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("actors.sweep.run_trials", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "data/a").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / f"data/a/{split}.csv").write_text("prompt,answer\nx,y\n" + "z\n" * (split == "train"))
    words = [
        *SMALL_RUN,
        "seeds=2",
        "tasks.source=files",
        "tasks.names=[a]",
        f"tasks.path={tmp_path / 'data'}",
        "model.name=embedded",
    ]
    assert main(["sweep", *words, f"runtime.runs_dir={tmp_path / 'runs'}", "name=s"]) == 2
    said = capsys.readouterr().err
    assert said.count("train.csv: 1 bad row") == said.count("line 3") == 1 and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_one_reason_of_several_runs_is_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "actors.sweep.run_trials", lambda *_: {"x": "Bad.\nThis.", "y": "Bad.\nThis.", "z": "No."}
    )
    assert main(["sweep", *SMALL_RUN, "seeds=3", f"runtime.runs_dir={tmp_path}", "name=s"]) == 1
    said = capsys.readouterr().out
    assert "failed: x, y: Bad.\nThis.\n" in said and "failed: z: No.\n" in said
    assert json.loads((tmp_path / "s/summary.json").read_text())["failed"]["y"] == "Bad.\nThis."


def test_a_sweep_says_once_which_keys_a_method_drops_and_q_quietens_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("actors.sweep.run_trials", lambda *_: {"x": "ValueError: no"})
    source = tmp_path / "mine.yaml"
    source.write_text("method: {type: sparse_orthogonal, rank: 8, density: 0.2}\n")
    words = ["sweep", str(source), "method=dlora,ffa", "seeds=2", f"runtime.runs_dir={tmp_path}", "name=s"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.err.count("density") == 2 and "the same words and name=s" in said.out
    for quiet in ([*words, "-q", "name=t"], ["-q", *words, "name=u"]):
        assert main(quiet) == 1
        said = capsys.readouterr()
        assert said.out == "" and "failed: x: ValueError: no" in said.err


def test_a_sweep_that_is_interrupted_says_to_repeat_its_words(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("actors.sweep.run_trials", stop)
    assert main(["sweep", *SMALL_RUN, "seeds=2", f"runtime.runs_dir={tmp_path}", "name=s"]) == 130
    said = capsys.readouterr().err
    assert said == "dfl-ray: Interrupted. Go on with the same words and name=s\n"
