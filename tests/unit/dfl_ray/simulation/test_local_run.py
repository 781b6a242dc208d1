"""Whole small runs in one process: repeatable, resumable, honest about bytes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dfl_ray.devices import snapshots
from dfl_ray.errors import InputError, Interrupted, RunError
from dfl_ray.methods.table import METHODS
from dfl_ray.records import load_run
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.checkpoint import load_checkpoint
from dfl_ray.simulation.driver import Driver
from dfl_ray.simulation.launch import launch, resume
from tests.conftest import small_config
from tests.records import assert_asked_again_as_it_was, assert_same_records, assert_same_traffic

LOCAL = "runtime.backend=local"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished")
    return load_run(launch(small_config(path, "name=one", LOCAL), json=True).folder)


def test_same_seed_same_records_bit_for_bit(finished, tmp_path):
    again = load_run(launch(small_config(tmp_path, "name=two", LOCAL), json=True).folder)
    assert_same_records(finished, again, exact=True)


def test_the_requests_over_the_runs_own_radio_give_the_runs_figures(finished):
    assert_same_traffic(finished)


def test_another_seed_gives_other_records(finished, tmp_path):
    other = load_run(
        launch(small_config(tmp_path, "name=two", LOCAL, "seed=1", "rounds=1"), json=True).folder
    )
    assert not np.allclose(other.devices["loss"].iloc[:4], finished.devices["loss"].iloc[:4])


def test_micro_batches_change_nothing_but_rounding(finished, tmp_path):
    one = small_config(tmp_path, "name=two", LOCAL, "runtime.micro_devices=1")
    assert_same_records(finished, load_run(launch(one, json=True).folder), exact=False)


OFTEN = ("sparse_orthogonal", "choco", "local_per_task")
"""Methods whose checkpoints hold most kinds of state, tried at every change; the others when all is asked for."""


FAULTY = {
    "dlora": ("devices.faults.share=0.5", "devices.faults.kind=stale_replay", "method.aggregation=median"),
    "local_per_task": (
        "devices.faults.share=0.5",
        "devices.faults.kind=label_flip",
        "devices.faults.from_round=3",
    ),
}
"""Faulty devices beside: what one says again and again is state, and one begins after the interruption."""


@pytest.mark.parametrize(
    "method",
    [m if m in OFTEN else pytest.param(m, marks=pytest.mark.exhaustive) for m in sorted(METHODS)],
)
def test_interrupted_and_resumed_equals_undisturbed(method, tmp_path, monkeypatch):
    """The whole run has its state in memory, the cut one in a file, of which next to nothing may be mapped."""
    words = (LOCAL, f"method={method}", *FAULTY.get(method, ()))
    whole = load_run(launch(small_config(tmp_path, "name=whole", *words), json=True).folder)
    monkeypatch.setattr(Driver, "_evaluate_base", stop_after(Driver._evaluate_base, 2))
    monkeypatch.setattr(snapshots, "PART_BYTES", 1)
    with pytest.raises(Interrupted, match=r"after round 2 of 4 .*dfl-ray resume"):
        launch(small_config(tmp_path, "name=cut", *words, "runtime.state_memory_mb=0.001"), json=True)
    monkeypatch.undo()
    assert load_run(tmp_path / "cut").info["state"] == "interrupted"
    saved = load_checkpoint(tmp_path / "cut" / "checkpoints")
    assert (saved.round_index, len(saved.state.devices.files)) == (2, whole.devices["device"].nunique())
    resumed = load_run(resume(tmp_path / "cut", json=True).folder)
    assert resumed.info["state"] == "done"
    assert_same_records(whole, resumed, exact=True)


def stop_after(original, rounds):
    """Ask the driver to stop once so many rounds are done, as Ctrl-C does."""

    def start(self):
        original(self)
        self.stop_wanted = lambda: (
            self.folder.path.joinpath("rounds.parquet").exists()
            and (len(load_run(self.folder.path).rounds) >= rounds)
        )

    return start


def test_crash_inside_a_round_is_undone_by_resume(finished, tmp_path, monkeypatch):
    def fail(self, round_index, rules, references):
        if round_index == 4:
            raise RuntimeError("power cut")
        return evaluate(self, round_index, rules, references)

    evaluate = LocalBackend.evaluate
    monkeypatch.setattr(LocalBackend, "evaluate", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        launch(small_config(tmp_path, "name=cut", LOCAL), json=True)
    monkeypatch.undo()
    assert load_run(tmp_path / "cut").info["state"] == "failed"
    assert_same_records(finished, load_run(resume(tmp_path / "cut", json=True).folder), exact=True)


def test_charged_bytes_are_the_encoded_lengths(finished):
    """Dense float messages have a known length; masks only ever make them shorter."""
    from dfl_ray.wire.codec import encoded_size
    from dfl_ray.wire.message import HEADER_BYTES

    transfers = finished.transfers
    dense = HEADER_BYTES + encoded_size(8 * sum(s.out_features for s in embedded_layers()), "int8")
    adapters = transfers[transfers["kind"] == "adapter"]
    assert (adapters[adapters["round"] == 1]["payload_bytes"] == dense).all()
    assert (adapters["payload_bytes"] <= dense).all()
    # Every attempt carries the whole message, and one that serves several receivers is charged once.
    attempts = finished.attempts.merge(transfers, on=["round", "transfer"], suffixes=("", "_whole"))
    assert (attempts["payload_bytes"] == attempts["payload_bytes_whole"]).all()
    once = attempts.drop_duplicates(["round", "transmission"])
    np.testing.assert_array_equal(
        once.groupby("round")["payload_bytes"].sum(), finished.rounds["payload_bytes"]
    )
    assert len(once) < len(attempts)


@pytest.mark.parametrize("scheduler", ["greedy_sinr", "broadcast"])
def test_bytes_count_once_for_their_sender_and_once_for_each_receiver(scheduler, finished, tmp_path):
    run = finished
    if scheduler == "broadcast":
        words = ("name=b", LOCAL, "rounds=2", "method=dlora", "radio.scheduler=broadcast")
        run = load_run(launch(small_config(tmp_path, *words), json=True).folder)
    once = run.attempts.drop_duplicates(["round", "transmission"])
    pd.testing.assert_series_equal(
        once.groupby(["round", "source"])["payload_bytes"].sum(),
        run.devices[run.devices["sent_bytes"] > 0].groupby(["round", "device"])["sent_bytes"].sum(),
        check_names=False,
        check_index_type=False,
    )
    per_round = once.groupby("round")["payload_bytes"].sum()
    assert per_round.tolist() == run.rounds["payload_bytes"].tolist()
    assert len(once) < len(run.attempts)
    received = run.devices.groupby("round")["received_bytes"].sum()
    assert received.tolist() == run.rounds["message_bytes"].tolist()
    assert (run.rounds["message_bytes"] > 0).all()
    ways = run.transfers.groupby(["round", "origin", "message", "receiver"])
    whole = ways.agg(size=("payload_bytes", "first"), arrived=("delivered", "all")).reset_index()
    assert len(whole) == run.rounds["transfers"].sum()
    arrived = whole[whole["arrived"]].groupby("round")["size"].sum()
    assert arrived.tolist() == run.rounds["message_bytes"].tolist()
    levels = run.attempts.groupby("round")["sinr_db"].median()
    np.testing.assert_allclose(run.rounds["sinr_db_p50"], levels, rtol=1e-6)


def embedded_layers():
    from dfl_ray.lora.inject import find_targets
    from dfl_ray.models.base import load_base
    from dfl_ray.models.build import build_model
    from dfl_ray.models.paths import embedded_path

    return find_targets(build_model(load_base(embedded_path())), "all-linear")


def test_all_rules_are_compared_at_the_end(finished):
    last = finished.evaluation[finished.evaluation["round"] == 4]
    assert set(last["rule"]) == set(METHODS["sparse_orthogonal"].spec.compared)
    assert (last.groupby("rule").size() == 4 * 2).all()
    before = finished.evaluation[finished.evaluation["round"] == 0]
    assert set(before["rule"]) == {"base"}
    assert (before["accuracy"] <= before["chance"]).all()


def test_all_rules_can_be_asked_for(tmp_path):
    asked = small_config(tmp_path, "name=all", LOCAL, "evaluate.rules=[all]", "rounds=2")
    run = load_run(launch(asked, json=True).folder)
    last = run.evaluation[run.evaluation["round"] == 2]
    assert set(last["rule"]) == set(METHODS["sparse_orthogonal"].spec.rules)
    assert (last.groupby("rule").size() == 4 * 2).all()
    assert last["accuracy"].between(0, 1).all()


def test_energy_is_split_into_radio_and_computing(finished):
    for table in (finished.rounds, finished.devices):
        np.testing.assert_allclose(table["radio_energy_j"] + table["compute_energy_j"], table["energy_j"])
        assert (table["compute_energy_j"] > 0).all()
    on_air = finished.transfers.groupby("round")["energy_j"].sum().to_numpy()
    # The rest is listening and idling, at most 33 mW a device over the whole simulated time.
    waiting = finished.rounds["radio_energy_j"].to_numpy() - on_air
    length_s = np.diff(finished.rounds["simulated_s"], prepend=0.0)
    assert (waiting > 0).all() and (waiting <= 4 * 0.033 * length_s * (1 + 1e-9)).all()


def test_a_method_that_sends_nothing_costs_nothing_on_air(tmp_path):
    run = load_run(
        launch(small_config(tmp_path, "name=local", LOCAL, "method=local", "rounds=2"), json=True).folder
    )
    assert not run.rounds[["payload_bytes", "airtime_s", "transfers"]].to_numpy().any()
    idle_j = 4 * 0.0067 * np.diff(run.rounds["simulated_s"], prepend=0.0)
    np.testing.assert_allclose(run.rounds["radio_energy_j"], idle_j, rtol=1e-6)
    assert run.rounds["delivered_fraction"].isna().all()


def test_disjoint_masks_share_no_row(tmp_path):
    tight = ("method.disjoint=true", "method.density=0.5", "method.prune_start=0.0", "rounds=8")
    run = load_run(launch(small_config(tmp_path, "name=disjoint", LOCAL, *tight), json=True).folder)
    assert run.rounds["collision_delta_w"].dropna().iloc[-1] == 0
    assert run.rounds["density"].dropna().iloc[-1] == pytest.approx(0.5, abs=0.02)
    assert "bid" in set(run.transfers["kind"])


def test_disjoint_masks_need_room(tmp_path):
    with pytest.raises(
        InputError, match=r"2 tasks cannot each keep 0.6 .*Set `method.density` to at most 0.5"
    ):
        launch(
            small_config(tmp_path, "name=d", LOCAL, "method.disjoint=true", "method.density=0.6"), json=True
        )


def test_empty_batteries_take_devices_out_of_the_run_visibly(tmp_path):
    mixed = (LOCAL, "devices.classes=mixed", "devices.count=8", "evaluate.every=1")
    mains = load_run(launch(small_config(tmp_path, "name=mains", *mixed), json=True).folder)
    used = mains.devices.groupby(["device", "round"])["energy_j"].sum().unstack().cumsum(axis=1)
    # A tablet's processor draws more than a phone's: this battery lasts the thirstiest two rounds or less.
    limit = used[2].max() * 0.999
    lasting = set(used.index[used[4] < limit * 0.99])
    assert lasting
    run = load_run(
        launch(small_config(tmp_path, "name=bat", *mixed, f"devices.battery_j={limit}"), json=True).folder
    )
    dead = set(run.devices.query("round == 2 and not alive")["device"])
    assert dead
    assert not dead & lasting
    assert run.rounds["alive_devices"].iloc[0] == 8
    assert run.rounds["alive_devices"].iloc[1] == 8 - len(dead)
    later = run.devices[(run.devices["round"] > 2) & run.devices["device"].isin(dead)]
    assert later["loss"].isna().all()
    assert (later["compute_s"] == 0).all()
    transfers = run.transfers[run.transfers["round"] > 2]
    assert not transfers["source"].isin(dead).any()
    assert not transfers[transfers["destination"].isin(dead)]["delivered"].any()
    answered = run.evaluation[run.evaluation["round"] > 2]["device"]
    assert not answered.isin(dead).any()
    assert_asked_again_as_it_was(run)
    assert lasting <= set(answered)
    small = small_config(tmp_path, "name=none", LOCAL, f"devices.battery_j={limit / 1000}")
    last = load_run(launch(small, json=True).folder)
    assert "all devices have empty batteries" in last.info["stopped_by"]
    assert len(last.rounds) == 1 and last.rounds["alive_devices"].tolist() == [0]


def test_a_non_finite_device_is_left_out_and_shown(tmp_path, monkeypatch):
    from dfl_ray.methods.sparse_orthogonal import SparseOrthogonal

    def poisoned(self, device):
        theta = start(self, device)
        return theta + float("nan") if device == 1 else theta

    start = SparseOrthogonal.start
    monkeypatch.setattr(SparseOrthogonal, "start", poisoned)
    run = load_run(launch(small_config(tmp_path, "name=nan", LOCAL, "rounds=2"), json=True).folder)
    assert (run.rounds["skipped_devices"] == 1).all()
    assert run.devices.groupby("device")["loss"].count().tolist() == [2, 0, 2, 2]
    assert not (run.transfers["source"] == 1).any()
    assert np.isfinite(run.rounds["train_loss"]).all()
    assert run.info["state"] == "done"
    assert run.info["warnings"][-1].startswith("1 of 4 devices end with adapters that hold NaN")
    assert run.info["warnings"][-1].endswith("device 1")


@pytest.mark.parametrize("steps", [1, 2])
def test_training_that_diverges_on_every_device_stops_the_run(tmp_path, steps):
    """The loss of the only step is finite: it is taken before the adapters move."""
    far = ("name=far", LOCAL, "method.learning_rate=1e30", f"method.local_steps={steps}", f"rounds={steps}")
    with pytest.raises(
        RunError, match=r"no device had a finite loss .*in round 1 .*method.learning_rate.*1e\+30"
    ):
        launch(small_config(tmp_path, *far), json=True)
    run = load_run(tmp_path / "far")
    assert run.info["state"] == "failed" and run.last_round == 1
    assert run.rounds["skipped_devices"].tolist() == [4] and run.rounds["train_loss"].isna().all()
    assert "no device had a finite loss and finite adapters in round 1" in run.info["warnings"][-1]


def test_how_tasks_are_scored_stands_in_the_records(finished):
    scores = finished.info["scores"]
    assert set(scores) == {"topic", "agree"}
    chance = finished.evaluation.groupby("task")["chance"].first()
    for task, said in scores.items():
        assert said["score"] == "exact_match" and said["why"] == "generated tasks" and said["labels"] is None
        assert said["chance"] == chance[task]
    assert finished.info["warnings"] == []


def test_experts_and_routing_say_who_holds_what_and_what_the_router_chose(finished):
    """The two tables against the sums that `evaluation` and `rounds` have of the same things."""
    experts, routing = finished.experts, finished.routing
    last = finished.evaluation["round"].max()
    assert set(experts["round"]) == set(finished.evaluation["round"]) - {0}
    held = {(d, t) for d, names in zip(*(finished.topology_nodes[c] for c in ("device", "tasks")), strict=True)
            for t in names.split(",")}  # fmt: skip
    now = experts[experts["round"] == last]
    assert {(r.device, r.task) for r in now.itertuples() if r.holding == "own"} == held
    assert (now["author"][now["holding"] == "own"] == now["device"][now["holding"] == "own"]).all()
    ages = now[now["holding"] != "own"]
    age = ages["age_rounds"].fillna(last).groupby(ages["device"]).mean()
    stale = finished.rounds.set_index("round")["replica_staleness_rounds"][last]
    count = finished.topology_nodes["device"].nunique()
    assert age.sum() / count == pytest.approx(stale)
    mine = routing[(routing["round"] == last) & (routing["rule"] == "likelihood")]
    asked = finished.evaluation.query("round == @last and rule == 'likelihood'").set_index(["device", "task"])
    right = mine[mine["task"] == mine["chosen"]].set_index(["device", "task"])["rows"]
    share = right.reindex(asked.index, fill_value=0) / asked["rows"]
    np.testing.assert_allclose(share, asked["routed_right"])
    table = finished.confusion("likelihood")
    assert np.allclose(table.sum(axis=1), 1.0)
    assert np.trace(table) / len(table) == pytest.approx(asked["routed_right"].mean())
