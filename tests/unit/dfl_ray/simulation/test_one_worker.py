"""Methods in which one device works: what the clock does while it is off, and what is said when it is empty."""

from __future__ import annotations

import pytest

from dfl_ray.errors import InputError, RunError
from dfl_ray.records import load_run
from dfl_ray.records.states import run_state
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.simulation.replan import replan
from dfl_ray.views.report import write_report
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
    config = small_config(tmp_path, *LOCAL, f"method={method}", "devices.battery_j=0.05", "rounds=4")
    found = load_run(launch(config, json=True).folder)
    assert found.info["state"] == "done" and 0 < found.last_round < 4
    assert "energy and work" in found.info["stopped_by"] and "devices.battery_j" in found.info["stopped_by"]
    # It ends in the round that emptied the worker, which answers for it once more.
    last = found.devices.query("round == @found.last_round")
    assert (
        last["compute_energy_j"].sum() > 0
        and 0 in found.evaluation.query("round == @found.last_round")["device"].tolist()
    )
    with pytest.raises(InputError, match="no device that has energy and work"):
        resume(found.path, json=True)
    assert any("energy and work" in note for note in dry_run(config).notes)


@pytest.mark.parametrize("control", ["free", "charged"])
def test_a_worker_that_is_off_for_good_ends_the_run_though_others_are_on(tmp_path, control):
    (tmp_path / "on.csv").write_text(
        "device,t_s,on,speed\n0,0,1,1\n0,0.02,0,1\n1,0,1,1\n1,50,0,1\n1,60,1,1\n"
    )
    words = (
        "method=random_walk",
        f"devices.availability.path={tmp_path / 'on.csv'}",
        f"radio.control={control}",
    )
    config = small_config(tmp_path, *LOCAL, *words, "rounds=30")
    found = load_run(launch(config, json=True).folder)
    assert found.last_round < 30 and "is ever on again" in found.info["stopped_by"]
    assert any("is ever on again" in note for note in dry_run(config).notes)


def test_a_run_whose_batteries_are_all_empty_is_done_and_whole(tmp_path, capsys):
    words = ("method=sparse_orthogonal", "devices.battery_j=0.05")
    config = small_config(tmp_path, *LOCAL, *words, "rounds=9", "name=a")
    found = load_run(launch(config).folder)
    last = found.last_round
    assert 0 < last < 9 and found.info["state"] == "done" and found.info["ended_early_after"] == last
    assert not found.devices.query("round == @last")["alive"].any()
    told = " ".join(capsys.readouterr().out.split())
    assert f"Ended after round {last}: all devices have empty batteries" in told
    # As after a last round: an evaluation by all rules, and the adapters.
    rules = set(found.evaluation.query("round == @last")["rule"])
    assert {"likelihood", "oracle", "average"} <= rules
    assert any((tmp_path / "a" / "adapters").iterdir())
    assert f"ended after round {last}: all devices" in run_state(tmp_path / "a").note
    assert (
        "all devices have empty batteries" in write_report([tmp_path / "a"], tmp_path / "r.html").read_text()
    )
    assert any(f"after round {last} of 9: all devices" in note for note in dry_run(config).notes)
    with pytest.raises(
        InputError, match=f"cannot go on: after round {last} all devices have empty batteries"
    ):
        resume(tmp_path / "a", json=True)
    assert load_run(tmp_path / "a").last_round == last


def test_a_round_lasts_until_the_training_that_a_battery_cuts_is_cut(tmp_path):
    """Half the energy of a training is half its time; replanned without idle power the run is as planned so."""
    words = (*LOCAL, "method=local", "rounds=6", "evaluate.every=9")
    whole = load_run(launch(small_config(tmp_path, *words, "rounds=1"), json=True).folder)
    need_j, takes_s = whole.devices["compute_energy_j"].max(), whole.devices["compute_s"].max()
    alike = need_j * whole.devices["compute_s"] / whole.devices["compute_energy_j"]
    assert alike.max() == pytest.approx(takes_s)
    half = load_run(
        launch(
            small_config(tmp_path, *words, f"devices.battery_j={need_j / 2}", "name=half"), json=True
        ).folder
    )
    last = half.devices[half.devices["compute_energy_j"] > 0].groupby("device")["round"].max()
    assert (last == 1).any() and not half.devices.query("round == 1")["alive"].all()
    assert half.rounds["simulated_s"].iloc[0] == pytest.approx(alike.max() / 2, rel=1e-6)
    radio = "radio.idle_power_w=0"
    replanned = replan(tmp_path / "half", [radio])
    planned = dry_run(small_config(tmp_path, *words, f"devices.battery_j={need_j / 2}", radio)).played
    assert replanned.rounds["alive_devices"].tolist()[: len(planned)] == [
        int(p.plan.alive.sum()) for p in planned.values()
    ]


def test_batteries_that_run_out_in_the_last_round_end_nothing_early(tmp_path):
    words = ("method=dlora", "devices.battery_j=0.05")
    last = load_run(launch(small_config(tmp_path, *LOCAL, *words, "rounds=9"), json=True).folder).last_round
    config = small_config(tmp_path, *LOCAL, *words, f"rounds={last}", "name=b")
    done = load_run(launch(config, json=True).folder)
    assert done.info["state"] == "done" and done.last_round == last and "stopped_by" not in done.info
    assert not any("empty batteries" in note for note in dry_run(config).notes)


def test_what_a_run_failed_of_is_told_in_its_folder(tmp_path):
    words = ("method=dlora", "method.learning_rate=1e9", "rounds=2", "name=a")
    with pytest.raises(RunError, match="Training diverged"):
        launch(small_config(tmp_path, *LOCAL, *words), json=True)
    assert load_run(tmp_path / "a").info["failed_by"].startswith("Training diverged")
    state = run_state(tmp_path / "a")
    assert state.state == "failed" and state.note.startswith("Training diverged")
    assert "Training diverged" in write_report([tmp_path / "a"], tmp_path / "r.html").read_text()
