"""`from dfl_ray import load_config, run, plan, load_run`, and what may change when a run is gone on with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfl_ray import Run, load_config, load_run, plan, run, views
from dfl_ray import resume as resume_run
from dfl_ray.cli import main
from dfl_ray.cli.again import begun
from dfl_ray.config.load import resolved_yaml
from dfl_ray.config.locations import with_absolute_paths
from dfl_ray.errors import InputError
from dfl_ray.methods.expert_law import update_rounds
from dfl_ray.records import comparable
from dfl_ray.simulation import library
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.simulation.lengthen import ends_kept, resumed_config, rounds_changed, same_experiment
from tests.conftest import small_config

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of six rounds that its caller ends after the third."""
    seen: list[int] = []

    def enough(so_far: Any) -> bool:
        seen.append(so_far.last_round)
        return so_far.last_round == 3

    folder = tmp_path_factory.mktemp("library")
    config = small_config(
        folder, "name=early", "rounds=6", "evaluate.every=5", "runtime.backend=local", "runtime.report=true"
    )
    found = run(config, on_round_end=enough)
    assert seen == [1, 2, 3]
    return found


def test_a_run_ended_by_its_caller_is_done_with_report_and_adapters(early: Any) -> None:
    assert (early.info["state"], early.last_round, early.info["ended_early_after"]) == ("done", 3, 3)
    assert (early.path / "report.html").is_file()
    assert sorted(early.adapters) == ["agree", "topic"]
    assert sorted(early.info["adapters_of_device"]) == ["agree", "topic"]
    partition = early.partition
    assert not partition.duplicated(["task", "row"]).any()
    assert partition.groupby("task").row.count().to_dict() == {"agree": 200, "topic": 200}
    assert set(early.evaluation.query("round == 3").rule) > {"likelihood", "oracle"}
    own = early.evaluation.query("round == 3 and rule == 'likelihood'").accuracy.mean()
    assert early.rounds.accuracy_mean[2] == pytest.approx(own)
    assert early.rounds["round"].tolist() == [1, 2, 3]


def test_a_run_ended_in_a_round_that_is_evaluated_anyway_is_asked_by_all_rules(tmp_path: Path) -> None:
    config = small_config(tmp_path, "rounds=4", "runtime.backend=local", "stop.simulated_s=1e-9")
    folder = launch(config, json=True).folder
    whole = load_run(launch(small_config(tmp_path, "rounds=1", "runtime.backend=local"), json=True).folder)
    found = load_run(folder)
    assert found.last_round == 1 and set(found.evaluation.query("round == 1").rule) == set(
        whole.evaluation.query("round == 1").rule
    )
    assert not found.evaluation.duplicated(["round", "rule", "device", "task"]).any()
    assert not found.experts.duplicated(["round", "device", "task"]).any()
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_without_ray_numpy_has_the_threads_of_the_settings(tmp_path: Path, threads: int) -> None:
    import scipy.linalg  # noqa: F401 - its BLAS is another than numpy's
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas_threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    found: list[int] = []

    def look(_so_far: Any) -> bool:
        found.extend(blas_threads())
        return False

    with threadpool_limits(3, user_api="blas"):
        config = small_config(
            tmp_path,
            f"name=threads{threads}",
            "rounds=1",
            "runtime.backend=local",
            f"runtime.threads={threads}",
        )
        run(config, on_round_end=look)
        assert set(blas_threads()) == {3}
    assert set(found) == {threads}


def test_overrides_may_be_a_mapping_and_wrong_arguments_are_told() -> None:
    words = [
        "rounds=3",
        "method=dlora",
        "tasks.names=[topic,agree]",
        "method.learning_rate=0.003",
        "tasks.path=null",
    ]
    values = {
        "rounds": np.int64(3), "method": "dlora", "tasks.names": ["topic", "agree"], "method.learning_rate": 0.003,
        "tasks.path": None,
    }  # fmt: skip
    assert load_config("indoor", values) == load_config("indoor", words)
    assert load_config("indoor", "rounds=3") == load_config("indoor", ["rounds=3"])
    assert load_config(None, {"runtime.runs_dir": Path("a b: c")}).runtime.runs_dir == "a b: c"
    for call in (lambda: run("indoor"), lambda: plan({"rounds": 3})):  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"takes a configuration.*load_config"):
            call()
    with pytest.raises(InputError, match="`on_round_end` cannot be called"):
        run(load_config(), on_round_end=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "ends"), [(np.bool_(True), True), (np.bool_(False), False), (None, False)]
)
def test_what_ends_a_run(answer: Any, ends: bool) -> None:
    assert library._ends(answer) is ends


async def _coroutine() -> bool:
    return True


@pytest.mark.parametrize("answer", [1, "yes", np.float64(1.0), [True]])
def test_other_answers_are_refused(answer: Any) -> None:
    with pytest.raises(InputError, match="neither yes nor no"):
        library._ends(answer)
    with pytest.raises(InputError, match="neither yes nor no"):
        library._ends(_coroutine())


def test_a_round_whose_callback_fails_is_saved(tmp_path: Path) -> None:
    def fail(_so_far: Any) -> bool:
        raise LookupError

    config = small_config(tmp_path, "name=a", "rounds=3", "runtime.backend=local", "checkpoint.every=0")
    with pytest.raises(LookupError):
        run(config, on_round_end=fail)
    assert load_run(tmp_path / "a").info["state"] == "failed"
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] != []


WRONG = [
    (lambda run: load_run(5), "opens a folder"),
    (lambda run: load_run(b"runs/a"), "opens a folder"),
    (lambda run: run.table(5), "`name` is no text"),
    (lambda run: run.table("round"), "no record table"),
    (lambda run: run.table("rounds", columns="round"), "no list of names"),
    (lambda run: run.table("rounds", columns=["rouns"]), "no column `rouns`"),
    (lambda run: run.table("rounds", rounds=5), "no pair"),
    (lambda run: run.table("rounds", rounds=(None, 2)), "whole number"),
    (lambda run: run.of_device("devices", "x", ["round"]), "`device`"),
    (lambda run: run.of_device("nope", 0, ["round"]), "no record table"),
    (lambda run: run.topology_at("x"), "`round`"),
    (lambda run: run.topology_at(True), "`round`"),
    (lambda run: run.confusion("nonsense"), "rule=nonsense"),
    (lambda run: run.confusion(round=99), "round=99"),
    (lambda run: views.accuracy_by_task(str(run.path)), "draws runs"),
    (lambda run: views.accuracy_by_task(run, over="x"), "no axis"),
    (lambda run: views.cost_bars(run), "draws runs"),
    (lambda run: views.cost_bars([]), "at least one run"),
    (lambda run: views.device_map(run, 99), "`round`"),
    (lambda run: views.device_map(run, 1.5), "`round`"),
    (lambda run: views.draw("device_map", run), "draws runs"),
    (lambda run: views.draw(5, [run]), "`name` is no text"),
    (lambda run: views.draw("device_map", [run], round=True), "`round`"),
    (lambda run: views.write_report(str(run.path), "a.html"), "no list"),
    (lambda run: views.write_report([run.path], None), "one file"),
    (lambda run: views.write_report([run.path], run.path), "one file"),
]


@pytest.mark.parametrize(("call", "said"), WRONG)
def test_wrong_arguments_of_what_reads_and_draws_are_told(early: Any, call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(early)


def test_a_run_prints_nothing_and_a_plan_neither(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path, "rounds=1", "runtime.backend=local")
    assert plan(config)["rounds"] == run(config).last_round == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rounds", [-1, 0, 2.5, "2", True, float("nan")])
def test_a_plan_of_no_number_of_rounds_is_refused(rounds: Any) -> None:
    with pytest.raises(InputError, match="whole number from 1"):
        plan(rounds=rounds)


def test_an_evaluation_is_asked_again_and_the_run_is_lengthened(
    early: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = early.evaluation
    assert (
        main(["evaluate", str(early.path), "evaluate.rows_per_task=12", "-o", str(tmp_path / "e.csv")]) == 0
    )
    assert "after round 3" in capsys.readouterr().out
    import pandas as pd

    again = pd.read_csv(tmp_path / "e.csv")
    saved = before.query("round == 3").reset_index(drop=True)
    assert comparable(again)[["rule", "device", "task", "accuracy"]].equals(
        comparable(saved)[["rule", "device", "task", "accuracy"]].astype(again[["rule", "task"]].dtypes)
    )
    monkeypatch.chdir(tmp_path)
    resume(early.path, ["rounds=8"], json=True)
    longer = load_run(early.path)
    assert (longer.info["state"], longer.last_round, longer.config["rounds"]) == ("done", 8, 8)
    assert longer.rounds.refused.sum() == 0
    assert longer.info["early_ends"] == [3] and "ended_early_after" not in longer.info


@pytest.mark.parametrize(("rounds", "more"), [(6, 8), (20, 33), (30, 100), (7, 1000)])
def test_a_lengthened_run_keeps_its_pruning(tmp_path: Path, rounds: int, more: int) -> None:
    config = small_config(tmp_path, f"rounds={rounds}", "method.prune_steps=4")
    from dfl_ray.config.load import resolved_yaml

    path = tmp_path / "config.yaml"
    path.write_text(resolved_yaml(config), encoding="utf-8")
    longer = resumed_config(config, [f"rounds={more}"], str(path), rounds)
    assert longer.rounds == more
    assert update_rounds(longer.method, more) == update_rounds(config.method, rounds)
    for words, said in ((["seed=1"], "cannot change its `seed`"), (["rounds=1"], "less than")):
        with pytest.raises(InputError, match=said):
            resumed_config(config, words, str(path), rounds)
    last = max(update_rounds(config.method, rounds))
    with pytest.raises(InputError, match=r"before its pruning does"):
        resumed_config(config, [f"rounds={last - 1}"], str(path), 1)
    shorter = resumed_config(config, [f"rounds={last}"], str(path), 1)
    assert update_rounds(shorter.method, last) == update_rounds(config.method, rounds)


def test_what_a_resume_with_other_rounds_notes() -> None:
    assert rounds_changed({}, 10, 4) == {"lengthened": [10]}
    assert rounds_changed({"lengthened": [10]}, 20, 20) == {"lengthened": [10, 20], "ended_after": [20]}


def test_a_resume_keeps_the_ends_whose_records_stay() -> None:
    assert ends_kept({}, 3) == {}
    assert ends_kept({"ended_early_after": 3, "early_ends": [2]}, 3) == {"early_ends": [2, 3]}
    info = {"ended_early_after": 9, "early_ends": [2, 6], "ended_after": [4, 8]}
    assert ends_kept(info, 5) == {"early_ends": [2], "ended_after": [4]}


def test_one_command_line_begins_goes_on_and_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--resume"]) == 2
    assert "needs a `name`" in capsys.readouterr().err
    folder, words = (
        tmp_path / "queue",
        ["name=queue", "rounds=6", "method.rank=4", f"runtime.runs_dir={tmp_path}"],
    )
    assert begun(load_config(None, words), words) is None
    folder.mkdir()
    own = with_absolute_paths(load_config(None, words))
    (folder / "config.yaml").write_text(resolved_yaml(own))
    (folder / "run.json").write_text('{"schema_version": 9, "state": "interrupted"}')
    assert begun(load_config(None, words), words) == (folder, [])
    now = [*words, "runtime.backend=local"]
    assert begun(load_config(None, now), now) == (folder, ["runtime.backend=local"])
    (folder / "run.json").write_text('{"schema_version": 9, "state": "done"}')
    few = [
        "name=queue",
        f"runtime.runs_dir={tmp_path}",
    ]  # the default has more rounds, but nobody asks for them
    for same in (words, [*words, "rounds=5"], few):
        assert main(["run", "--resume", *same]) == 0
        assert "done already" in capsys.readouterr().out
    for more in ([*words, "rounds=9"], [*few, "rounds=9"]):
        assert begun(load_config(None, more), more) == (folder, ["rounds=9"])
    # Lengthened by hand, its pruning is where it was: the first words still mean this run.
    longer = resumed_config(own, ["rounds=9"], str(folder / "config.yaml"), 6)
    (folder / "config.yaml").write_text(resolved_yaml(longer))
    (folder / "run.json").write_text('{"schema_version": 9, "state": "done", "lengthened": [6]}')
    for same in (words, [*words, "rounds=9"], [*few, "rounds=9"]):
        assert main(["run", "--resume", *same]) == 0 and "done already" in capsys.readouterr().out
    twice = resumed_config(longer, ["rounds=31"], str(folder / "config.yaml"), 9)
    assert same_experiment(twice, load_config(None, [*words, "rounds=31"]), folder) == set()
    with pytest.raises(InputError, match="another `method`"):
        same_experiment(longer, load_config(None, [*words, "rounds=9", "method.prune_end=0.9"]), folder)
    for other in ("method=dlora", "seed=1", "method.prune_steps=3"):
        assert main(["run", "--resume", *words, other]) == 2
        assert "is another experiment" in capsys.readouterr().err


def test_the_page_is_a_program_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    code = code.replace('"rounds=3"', '"rounds=1", "runtime.backend=local", "method.local_steps=1"')
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["found"].last_round == 1 and scope["picture"].data


def test_a_round_tells_of_the_rows_it_was_trained_on_alone(early: Any) -> None:
    """Rows that a round of two steps of four rows has not drawn change nothing of what the round is found to tell."""
    from dfl_ray.simulation.export_device import open_saved
    from dfl_ray.simulation.privacy_probe import probe_privacy

    run = open_saved(early.path)
    drawn, more = (probe_privacy(run, rows)[["round_b", "round_a"]] for rows in (8, 32))
    assert drawn["round_b"].notna().all() and drawn["round_a"].isna().all() and drawn.equals(more)


def test_rows_of_the_two_kinds_have_the_same_labels() -> None:
    """Sorted held-out rows would be of one label; open answers, which are alike nowhere, are all taken."""
    from dfl_ray.evaluation.membership import matched_rows

    own, others = list("abab"), list("aaaab")
    assert matched_rows(own, others) == ([0, 1, 2], [0, 1, 4])
    assert matched_rows(list("wxyz"), list("uvw")) == ([0, 1, 2, 3], [0, 1, 2])


def test_the_order_of_held_out_rows_says_nothing_of_membership(
    early: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loss that hangs on the label alone nothing can be told, though held-out rows are sorted by it."""
    import numpy as np

    from dfl_ray.simulation import privacy_probe
    from dfl_ray.simulation.export_device import open_saved

    run = open_saved(early.path)
    for table in run.experiment.setup.tasks:
        order = np.argsort([int(table.test.answer(i)[0]) for i in range(len(table.test))], kind="stable")
        rows = [table.test.row(int(i)) for i in order]
        starts = table.test.answer_start[order]
        table.test.ids[:] = np.concatenate(rows)
        table.test.offsets[1:] = np.cumsum([len(r) for r in rows])
        table.test.answer_start[:] = starts
    monkeypatch.setattr(
        privacy_probe, "row_losses", lambda _m, _l, _t, rows, **_: [float(t.answer(i)[0]) for t, i in rows]
    )
    assert (privacy_probe.probe_privacy(run, 8)["membership_auc"] - 0.5).abs().max() < 1e-9


def test_saved_adapters_are_attacked(early: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every device and held task is attacked, and a row's plain gradient tells more than guessing."""
    import json

    import pandas as pd

    out = tmp_path / "attacks.csv"
    assert main(["evaluate", str(early.path), "--privacy", "--json", "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["privacy"]
    rows = pd.read_csv(out)
    assert sorted(rows["device"]) == [0, 1, 2, 3] and set(rows["task"]) == {"agree", "topic"}
    assert told["row_b"] == pytest.approx(rows["row_b"].mean()) and told["row_b"] > 0.6
    assert rows["membership_auc"].between(0, 1).all()
    assert main(["evaluate", str(early.path), "--privacy", "evaluate.rows_per_task=3"]) == 2
    assert "says nothing to --privacy" in capsys.readouterr().err


def test_the_library_goes_on_with_a_run_as_the_command_does(tmp_path: Path) -> None:
    words = ("rounds=4", "evaluate.every=2", "runtime.backend=local")
    whole = run(small_config(tmp_path, "name=whole", *words))

    def stopped(so_far: Run) -> None:
        if so_far.last_round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_config(tmp_path, "name=cut", *words), on_round_end=stopped)
    seen: list[int] = []
    found = resume_run(tmp_path / "cut", on_round_end=lambda so_far: seen.append(so_far.last_round))
    assert seen == [3, 4] and found.info["state"] == "done"
    assert comparable(found.devices).equals(comparable(whole.devices))
    longer = resume_run(found, {"rounds": 6}, on_round_end=lambda so_far: so_far.last_round == 5)
    assert (longer.last_round, longer.info["ended_early_after"], longer.info["ended_after"]) == (5, 5, [4])
    assert repr(longer) == f"Run('{tmp_path / 'cut'}', done, 5 rounds)"
    for wrong, said in ((3, "takes a run"), (tmp_path / "none", "none")):
        with pytest.raises(InputError, match=said):
            resume_run(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot change its `seed`"):
        resume_run(longer, ["seed=3"])


@pytest.mark.parametrize(
    "source", [{"rounds": 3}, 3, load_config(None), str(load_config(None)), "rounds: 3\nseed: 1"]
)
def test_what_is_no_preset_and_no_path_says_where_values_go(source: Any) -> None:
    with pytest.raises(InputError, match=r"load_config\(None, \{"):
        load_config(source)
