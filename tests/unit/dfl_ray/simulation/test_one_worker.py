"""Methods in which one device works: what the clock does while it is off, and what is said when it is empty."""

from __future__ import annotations

import pytest

from dfl_ray.errors import RunError
from dfl_ray.records import load_run
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config

LOCAL = ("runtime.backend=local", "evaluate.every=4", "tasks.train_rows=60", "evaluate.rows_per_task=4")


@pytest.mark.parametrize("method", ["random_walk", "centralized"])
def test_while_the_worker_is_off_the_clock_goes_to_its_return(tmp_path, method):
    (tmp_path / "on.csv").write_text("device,t_s,on,speed\n0,0,1,1\n0,0.02,0,1\n0,5,1,1\n")
    words = (f"method={method}", f"devices.availability.path={tmp_path / 'on.csv'}", "rounds=4")
    config = small_config(tmp_path, *LOCAL, *words)
    rounds = load_run(launch(config, json=True).folder).rounds
    # The round in which nobody who is on has anything to do lasts until the worker is back, at 5 s.
    assert 5.0 in rounds["simulated_s"].round(9).tolist()
    back = rounds[rounds["simulated_s"] > 5.0]
    assert len(back) and back["train_loss"].notna().all()
    planned = {r: played.plan.end_s for r, played in dry_run(config).played.items()}
    assert planned == pytest.approx(dict(zip(rounds["round"], rounds["simulated_s"], strict=True)))


@pytest.mark.parametrize("method", ["random_walk", "centralized"])
def test_a_run_whose_worker_is_empty_ends_with_a_word(tmp_path, method):
    config = small_config(
        tmp_path, *LOCAL, f"method={method}", "devices.battery_j=0.05", "rounds=4", "name=a"
    )
    with pytest.raises(RunError, match=r"energy and work.*devices\.battery_j"):
        launch(config, json=True)
    found = load_run(tmp_path / "a")
    assert found.info["state"] == "failed" and 0 < found.last_round < 4
    assert any("energy and work" in note for note in dry_run(config).notes)


def test_batteries_that_run_out_in_the_last_round_leave_a_run_that_is_done(tmp_path):
    words = ("method=dlora", "devices.battery_j=0.05")
    with pytest.raises(RunError, match="All devices had empty batteries in round"):
        launch(small_config(tmp_path, *LOCAL, *words, "rounds=9", "name=a"), json=True)
    last = load_run(tmp_path / "a").last_round
    config = small_config(tmp_path, *LOCAL, *words, f"rounds={last}", "name=b")
    done = load_run(launch(config, json=True).folder)
    assert done.info["state"] == "done" and done.last_round == last
    assert not any("empty batteries" in note for note in dry_run(config).notes)
