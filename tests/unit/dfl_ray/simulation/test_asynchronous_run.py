"""Whole small runs without a barrier: recorded, resumed bit for bit, and as with one where it makes no difference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dfl_ray.errors import InputError, Interrupted
from dfl_ray.records import load_run
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.driver import Driver
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.simulation.round_loop import RoundLoop, WallTimes
from dfl_ray.simulation.schedules import Barrier, NoBarrier
from tests.asynchrony import OneServerRadio, classes_of
from tests.conftest import small_config
from tests.records import assert_same_records
from tests.unit.dfl_ray.simulation.test_local_run import stop_after

WORDS = ("schedule=async", "rounds=10", "devices.count=6", "evaluate.every=10", "method.prune_start=0.1",
         "method.exchange_every=2", "method.replicas_every=4", "method.local_steps=1",
         "devices.class_figures={phone: {frequency_hz: 1e8}, slow: {share: 1.0, frequency_hz: 2e7}}")  # fmt: skip
"""Half of the devices, or so, are five times as slow; training takes longer than sending."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("asynchronous")
    return load_run(
        launch(small_config(path, "name=whole", "runtime.backend=local", *WORDS), json=True).folder
    )


def test_every_local_round_has_one_row(whole):
    table = whole.local_rounds
    for _, mine in table.groupby("device"):
        assert mine["local_round"].tolist() == list(range(1, len(mine) + 1))
        assert (mine["end_s"].diff().dropna() > 0).all()
        assert (mine["end_s"].diff().iloc[1:] >= mine["compute_s"].iloc[1:] - 1e-12).all()
    counts = table["device"].value_counts()
    assert counts.max() > 2 * counts.min()
    losses = whole.devices[whole.devices["loss"].notna()]
    assert set(zip(losses["round"], losses["device"], strict=True)) == set(
        zip(table["round"], table["device"], strict=True)
    )
    assert table["messages"].sum() > 0
    assert whole.rounds["refused"].sum() == 0
    assert whole.rounds["simulated_s"].is_monotonic_increasing


def test_resumed_between_windows_equals_undisturbed(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(Driver, "_evaluate_base", stop_after(Driver._evaluate_base, 5))
    with pytest.raises(Interrupted, match="after round 5 of 10"):
        launch(small_config(tmp_path, "name=cut", "runtime.backend=local", *WORDS), json=True)
    monkeypatch.undo()
    resumed = load_run(resume(tmp_path / "cut", json=True).folder)
    assert_same_records(whole, resumed, exact=True)
    pd.testing.assert_frame_equal(whole.local_rounds, resumed.local_rounds, check_exact=True)


class Quick(LocalBackend):
    """Devices whose radio takes no time."""

    def use(self, count):
        self.radio = OneServerRadio(count, 0.0)

    def plan(self, round_index, transfers, ready_s, compute_energy_j):
        return self.radio.plan(transfers, ready_s, ready_s)


def test_equal_devices_and_a_quick_radio_are_the_synchronous_run(tmp_path):
    """The same adapters and moments, bit for bit."""
    found = []
    for schedule in ("sync", "async"):
        run = build_experiment(small_config(tmp_path, f"schedule={schedule}", "method=ffa"))
        backend = Quick(run.setup, run.channel)
        backend.use(4)
        classes = classes_of(4)
        waits = Barrier() if schedule == "sync" else NoBarrier(classes, lambda _device, _number: 1.0)
        loop = RoundLoop(backend, classes, {}, 1.0, schedule=waits)
        for r in range(1, 4):
            loop.play(r, WallTimes())
        found.append(backend._group.state)
    assert not np.allclose(found[0].theta.numpy(), 0)
    for name in ("theta", "exp_avg", "exp_avg_sq", "steps"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=choco"], "`schedule: async` is not for the method `choco`.*one of .*dlora"),
        (["method=centralized"], "not for the method `centralized`"),
        (["radio.bandwidth_hz=-5"], "`radio.bandwidth_hz`.*a finite number > 0"),
        (["radio.deadline_s=2"], "`radio.deadline_s` limits a round that all devices share"),
        (["devices.availability.path=on.csv"], "`devices.availability` acts between rounds that all share"),
        (["devices.faults.share=0.2"], "`devices.faults` begin in a round that all devices share"),
        (["method=dlora", "method.aggregation=push_sum"], "async.staleness: constant"),
        (
            [
                "method=dlora",
                "method.aggregation=push_sum",
                "async.staleness=constant",
                "devices.mobility=gauss_markov",
            ],
            "devices.mobility: static",
        ),
    ],
)
def test_what_needs_a_barrier_is_refused(tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        small_config(tmp_path, "schedule=async", *words)
