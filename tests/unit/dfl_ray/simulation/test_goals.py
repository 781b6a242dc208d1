"""`stop`: a run ends after the first round that reaches what was asked for, and its plan too."""

from __future__ import annotations

from dfl_ray.config.schema import StopConfig
from dfl_ray.records import load_run
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.goals import Goals
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config


def test_what_is_reached_first_ends_the_run():
    goals = Goals(StopConfig(simulated_s=10, joules=5, accuracy=0.8))
    assert goals.spent(1.0, 2.0) is None and goals.learnt(0.79) is None
    assert goals.spent(9.9, 2.9) is None and goals.learnt(None) is None
    assert "5 J spent" in (goals.spent(9.95, 0.1) or "")
    assert "stop.simulated_s" in (Goals(StopConfig(simulated_s=10)).spent(10.0, 1.0) or "")
    assert "80.0%" in (Goals(StopConfig(accuracy=0.8)).learnt(0.8) or "")
    nothing = Goals(StopConfig())
    assert nothing.spent(1e9, 1e9) is None and nothing.learnt(1.0) is None


def test_a_run_and_its_plan_end_together(tmp_path):
    whole = dry_run(small_config(tmp_path, "runtime.backend=local"))
    first, second = (whole.played[r].plan.energy_j.sum() for r in (1, 2))
    words = (f"stop.joules={float(first + second / 2)!r}", "runtime.backend=local", "name=short")
    run = load_run(launch(small_config(tmp_path, *words), json=True).folder)
    assert run.last_round == 2 and run.info["state"] == "done"
    assert "stop.joules" in run.info["stopped_by"]
    assert set(run.evaluation.loc[run.evaluation["round"] == 2, "rule"]) > {"likelihood"}
    planned = dry_run(small_config(tmp_path, *words))
    assert max(planned.played) == 2 and any("stop.joules" in note for note in planned.notes)
