"""Devices that have no part in a round: nothing of theirs moves, and nobody is taken for the cause of what they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.devices.records import EvaluationReport
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.methods.due import exchanged
from dfl_ray.network.local_rounds import LocalRound
from dfl_ray.network.traffic import TransferOutcomes
from dfl_ray.records import load_run
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.launch import launch
from dfl_ray.simulation.round_tables import state_metrics
from tests.conftest import small_config

LOCAL = ("runtime.backend=local", "evaluate.every=4", "tasks.train_rows=60", "evaluate.rows_per_task=4")


@pytest.mark.parametrize(
    "method", ["gradient_tracking", "exact_diffusion", "choco", "dlora", "sparse_orthogonal"]
)
def test_a_device_that_is_out_does_not_move(tmp_path, method):
    setup = build_experiment(small_config(tmp_path, f"method={method}", "method.local_steps=2")).setup
    group, away = DeviceGroup(setup, sorted(setup.held)), 1
    before = None
    for number in range(1, 7):
        report, _ = group.train(number, (away,) if number > 3 else ())
        requests = report.requests
        apart = (
            (requests.source != away) & (requests.destination != away)
            if number > 3
            else np.ones(len(requests), bool)
        )
        group.exchange(number, TransferOutcomes(requests, apart))
        now = group.devices[away].state.theta.clone()
        if number > 3:
            assert before is not None and bool((now == before).all())
        before = now


def test_a_slow_device_begins_afresh_after_the_exchanges_that_it_makes_up_for():
    config, law = SimpleNamespace(hub=None, exchange_every=4), SimpleNamespace(busy=lambda _round: False)
    due = [
        exchanged(law, config, 40, LocalRound(1, since, window, 0.0))
        for since, window in ((3, 6), (4, 6), (7, 8))
    ]
    assert due == [True, False, True]


def test_a_diverged_device_does_not_end_a_round_in_which_nobody_trains(tmp_path, monkeypatch):
    speak = DeviceGroup._speak

    def poisoned(self, part, result):
        for device in part:
            if device.index == 2 and self._rounds[2].number == 1:
                device.state.theta.fill_(float("nan"))
        return speak(self, part, result)

    monkeypatch.setattr(DeviceGroup, "_speak", poisoned)
    run = load_run(launch(small_config(tmp_path, *LOCAL, "method=fedavg_star", "rounds=4"), json=True).folder)
    assert run.info["state"] == "done" and run.rounds["skipped_devices"].tolist() == [1, 1, 0, 0]
    assert run.rounds["train_loss"].isna().tolist() == [False, True, False, True]


def test_the_server_s_death_does_not_end_what_others_train():
    words = ("method={type: fedavg_star}", "rounds=60", "method.local_steps=3", "devices.battery_j=2")
    played = dry_run(load_config(None, [*words, "devices.partition.min_holders=1"])).played
    alone = [r for r, done in played.items() if not done.plan.alive[0] and done.plan.alive.any()]
    assert len(alone) >= 2 and played[max(played)].nobody_left
    assert any(played[r].plan.compute_energy_j.sum() > 0 for r in [*alone[1:], max(played)])


def test_what_a_graph_in_parts_gives_does_not_hang_on_the_packing(tmp_path):
    """Every task has an author in each part: the same counts however devices are packed into groups."""
    rings = [(0, 2), (2, 4), (4, 0), (1, 3), (3, 5), (5, 1)]
    (tmp_path / "edges.csv").write_text("source,target\n" + "".join(f"{a},{b}\n" for a, b in rings))
    words = (
        "method=sparse_orthogonal", f"topology={{type: file, path: {tmp_path / 'edges.csv'}}}", "devices.count=6",
        "devices.partition.tasks_per_device=2", "method.local_steps=2",
    )  # fmt: skip
    setup = build_experiment(small_config(tmp_path, *words)).setup
    assert set(setup.graph.authority.values()) == {0, 1}
    whole, halves = DeviceGroup(setup, range(6)), [DeviceGroup(setup, one) for one in ((3, 1, 4), (0, 2, 5))]
    references = [whole.full_sketches()]
    parts = [half.full_sketches() for half in halves]
    assert not set(parts[0]) & set(parts[1]) and set(parts[0]) | set(parts[1]) == set(references[0])
    for task, sketch in (parts[0] | parts[1]).items():
        np.testing.assert_array_equal(sketch, references[0][task])


def test_the_masks_that_count_are_those_of_the_first_author():
    mask = {name: np.array(bits, bool) for name, bits in {"a": [1, 0], "b": [0, 1], "c": [1, 1]}.items()}
    reports = [
        EvaluationReport({}, {}, masks, {}, {}, 0.0)
        for masks in ({0: (3, mask["a"]), 1: (5, mask["c"])}, {0: (2, mask["b"])})
    ]
    layout = Layout((LayerShape("x", 1, 2),), 1, ("b",))
    both = [state_metrics(order, layout)["collision_b"] for order in (reports, reports[::-1])]
    assert both[0] == both[1] == 0.5
