"""The league table: where ours loses, Pareto fronts, equal spending, and one rate chosen under one budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import league, league_tables
from benchmarks.comparison import Curve
from dfl_ray.config.load import load_config
from dfl_ray.methods.table import METHODS


def curve(method, seed, spent, accuracy):
    steps = np.arange(len(accuracy))
    points = pd.DataFrame({"round": steps, "accuracy": accuracy, **dict.fromkeys(league_tables.AXES, 0.0)})
    for axis in league_tables.AXES:
        points[axis] = np.asarray(spent, float)
    return Curve(method, seed, points, {"accuracy": accuracy[-1], "own_tasks": accuracy[-1]}, {})


@pytest.fixture
def curves():
    return {
        "sparse_orthogonal": {s: curve("ours", s, [0, 1, 2], [0.0, 0.5, 0.8 + 0.01 * s]) for s in (0, 1)},
        "dlora": {s: curve("dlora", s, [0, 20, 40], [0.0, 0.4, 0.9]) for s in (0, 1)},
        "dear": {s: curve("dear", s, [0, 30, 60], [0.0, 0.4, 0.85]) for s in (0, 1)},
        "cheap": {s: curve("cheap", s, [0, 0.5, 1], [0.0, 0.3, 0.4]) for s in (0, 1)},
        "centralized": {s: curve("top", s, [0, 0, 0], [0.0, 0.9, 1.0]) for s in (0, 1)},
    }


def test_a_front_holds_what_no_other_beats_in_both(curves):
    assert league_tables.front(curves, "payload_bytes") == ["cheap", "sparse_orthogonal", "dlora"]


def test_equal_spending_reads_the_curve_at_the_other_method_s_total(curves):
    ways = league_tables.ways(curves)
    assert ways["MB of sparse_orthogonal"](curves["dlora"][0]) == pytest.approx(0.4 * 2 / 20)
    assert ways["MB of dlora"](curves["dear"][0]) == pytest.approx(0.4 + 0.45 * 10 / 30)
    assert ways["2 rounds"](curves["dear"][1]) == pytest.approx(0.85)
    assert "40.0 ± 0.0*" in league_tables.equal_table(curves).split("cheap")[1]


def test_losses_are_told_first_and_sure_ones_before_the_others(curves):
    found = league_tables.losses(curves)
    assert {(c, m) for c, m, _ in found} >= {("2 rounds", "dlora"), ("MB of dlora", "dlora")}
    assert not any(m in ("cheap", "centralized") for _, m, _ in found)
    sure = [gap.mean + gap.half_width < 0 for _, _, gap in found]
    assert sure == sorted(sure, reverse=True) and any(sure)
    chosen = {method: f"{method}:learning_rate=0.01" for method in curves}
    assert league_tables.report(curves, chosen).startswith("Where sparse_orthogonal loses")
    best = {m: curves[m] for m in ("sparse_orthogonal", "cheap")}
    assert league_tables.losses_table({**best, "dlora": best["cheap"]}) == "Nowhere by the mean."


@pytest.fixture
def tried(monkeypatch):
    """Replaces the trials: the accuracy of a rate falls with its distance from what is best for its method."""
    asked, best = [], {"dlora": 0.01, "choco": 0.003, "ffa": 0.08, "adf_lora": 0.025 / 1.4}

    def trial(setting, label, seed):
        method, rate = label.split(":learning_rate=")
        asked.append((method, float(rate), seed))
        return 0.9 - abs(np.log(float(rate) / best[method]))

    monkeypatch.setattr(league, "trial", trial)
    return asked


@pytest.mark.parametrize(
    ("method", "rates", "best"),
    [
        ("dlora", [4e-3, 1e-2, 2.5e-2], "0.01"),
        ("choco", [4e-3, 1e-2, 2.5e-2, 1.6e-3], "0.004"),  # one more beyond it, and that is worse
        ("ffa", [4e-3, 1e-2, 2.5e-2, 6.25e-2], "0.0625"),
        ("adf_lora", [4e-3, 1e-2, 2.5e-2, 6.25e-2], "0.025"),
    ],
)
def test_one_rule_of_trials_for_all_and_the_best_rate_is_taken(method, rates, best, tried, tmp_path):
    setting = league.Setting(12, 12, 6, (), tmp_path)
    found = league.tuned_rate(setting, method, 2, False)
    assert [(r, s) for _, r, s in tried] == [
        (pytest.approx(r), league.FIRST_SEED + k) for r in rates for k in (0, 1)
    ]
    assert found is not None
    assert found["best"] == f"{method}:learning_rate={best}" and len(found["trials"]) == len(rates)
    assert league.tuned_rate(setting, method, 1, True) is None, "no run is there"
    assert f"| {method} |" in league_tables.tuning_table({method: found})
    assert league_tables.tuning_table({method: found}).count("**") == 2


def test_a_trial_is_as_long_as_a_reported_run_unless_asked(monkeypatch, tmp_path):
    lengths = []

    def tuned(setting, method, seeds, finished):
        lengths.append((setting.trial_rounds, setting.rounds))

    monkeypatch.setattr(league, "tuned_rate", tuned)
    for more in ([], ["--trial-rounds", "4"]):
        with pytest.raises(SystemExit, match="No seed is whole"):
            league.main(["--methods", "sparse_orthogonal,dlora", "--finished", "--rounds", "9", *more])
    assert lengths == [(9, 9), (9, 9), (4, 9), (4, 9)]


def test_every_run_has_settings_that_a_configuration_takes(tmp_path):
    setting = league.Setting(12, 6, 6, (), tmp_path)
    for method in METHODS:
        for trial in (True, False):
            job = setting.job(f"{method}:learning_rate=0.01", 0, trial=trial)
            config = load_config(None, list(job.arguments))
            assert bool(config.tasks.validation_rows) == trial


def test_the_picture_names_every_method_with_a_cost(curves, tmp_path):
    league_tables.draw(tmp_path / "front.svg", curves)
    text = (tmp_path / "front.svg").read_text(encoding="utf-8")
    assert "sparse_orthogonal" in text and ">dear<" in text and "centralized" not in text


def test_a_rate_that_is_given_is_not_tuned(monkeypatch, tmp_path, curves):
    asked = []

    def tuned(setting, method, seeds, finished):
        asked.append(method)
        return {"best": f"{method}:learning_rate=0.02", "trials": {"0.02": 0.5}}

    def all_curves(setting, chosen, seeds, finished):
        assert chosen == {m: f"{m}:learning_rate={r}" for m, r in rates.items()}
        return {m: curves[m] for m in chosen}

    rates = {"sparse_orthogonal": 0.02, "dlora": 0.3, "cheap": 0.02}
    monkeypatch.setattr(league, "tuned_rate", tuned)
    monkeypatch.setattr(league, "all_curves", all_curves)
    result = league.main(["--methods", ",".join(rates), "--rate", "dlora=0.3", "--folder", str(tmp_path)])
    assert asked == ["sparse_orthogonal", "cheap"] and set(result["tuning"]) == set(asked)


def test_another_preset_has_its_own_rates_and_runs_in_processes(monkeypatch, tmp_path, tried):
    ran = []
    monkeypatch.setattr(league, "carry_out", ran.append)
    monkeypatch.setattr(league, "carry_out_here", lambda job: pytest.fail("in this process"))
    setting = league.Setting(
        10, 10, 2, ("method.precision=int8", "tasks.path=."), tmp_path, "smollm2", (2e-3, 4e-3), 0.0, 32, 2
    )
    found = league.tuned_rate(setting, "choco", 1, False)
    assert found is not None and set(found["trials"]) == {"0.002", "0.004"}, "no trial beyond the ends"
    job = setting.job(found["best"], 0, trial=False)
    setting.make(job)
    assert ran == [job] and job.arguments[0] == "smollm2"
    config = load_config(job.arguments[0], list(job.arguments[1:]))
    assert (config.method.type, config.method.precision, config.rounds) == ("choco", "int8", 10)
    assert config.method.learning_rate == 4e-3 and config.checkpoint.every < 100
    assert setting.each(lambda x: x + 1, [1, 2, 3]) == [2, 3, 4]


def test_the_command_line_takes_rates_in_any_order():
    asked = league.parse(["--preset", "smollm2", "--rates", "4e-3,2e-3", "--step", "0", "rounds=3"])
    assert asked.rates == (2e-3, 4e-3) and not asked.step and asked.overrides == ["rounds=3"]
