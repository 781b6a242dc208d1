"""Sizes of change that a run orders its messages by, against adapters kept apart; replanned, resumed and planned."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dfl_ray.devices.group import DeviceGroup
from dfl_ray.errors import Interrupted
from dfl_ray.methods.changes import Told, change_of
from dfl_ray.methods.laws import Planned
from dfl_ray.records import load_run
from dfl_ray.simulation.driver import Driver
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.wire.codec import decode_mask, decode_values
from dfl_ray.wire.message import Kind, unpack
from tests.conftest import small_config
from tests.records import assert_same_records, assert_same_traffic
from tests.unit.dfl_ray.simulation.test_local_run import stop_after

WORDS = ("runtime.backend=local", "radio.priority=information", "radio.max_attempts=1", "radio.deadline_s=0.06",
         "method.replicas_every=1", "method.exchange_every=1", "evaluate.every=4", "radio.scheduler=tdma",
         "devices.count=6", "evaluate.rows_per_task=2")  # fmt: skip
"""Losses, lateness, experts published in every round, and an order that everything goes by."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run, and what its messages said: (round, origin, number) -> values, by each message's own bytes or adapter."""
    said, patch = {}, pytest.MonkeyPatch()

    def train(self, round_index, absent=(), ended=None):
        found = own_train(self, round_index, absent, ended)
        for (device, number), data in self._outbox.payloads.items():
            message, rows = unpack(data), self.devices[device]
            values = None
            if message.kind is Kind.ADAPTER:
                values = rows.state.theta[rows.adapter_tasks.index(message.task)].numpy().copy()
            elif message.kind is Kind.EXPERT:
                cut = 4 + int.from_bytes(message.body[:4], "little")
                mask = decode_mask(message.body[4:cut], self.method.layout.size)
                values = np.zeros(len(mask), np.float32)
                values[mask] = decode_values(message.body[cut:], message.precision, int(mask.sum()))
            said[round_index, device, number] = values
        return found

    own_train = DeviceGroup.train
    patch.setattr(DeviceGroup, "train", train)
    path = tmp_path_factory.mktemp("changes")
    run = load_run(launch(small_config(path, "name=whole", *WORDS), json=True).folder)
    patch.undo()
    return run, said


def test_a_runs_changes_are_those_to_what_last_arrived(recorded):
    """Row by row in float64: |v - u| / max(|v|, |u|), u what the same sender last got to the same receiver."""
    run, said = recorded
    last, sizes = {}, []
    for _, rows in run.transfers.groupby("round"):
        for row in rows.itertuples():
            v, about = (
                said[row.round, row.origin, row.message],
                (row.kind, row.task, row.origin, row.receiver),
            )
            u = last.get(about)
            if v is None or u is None:
                expected = 1.0
            else:
                size = max(math.sqrt(math.fsum(x.astype(float) ** 2)) for x in (v, u))
                expected = (
                    math.sqrt(math.fsum((v.astype(float) - u.astype(float)) ** 2)) / size if size else 0.0
                )
                sizes.append(expected)
            assert row.change == pytest.approx(expected, rel=2**-11, abs=1e-7)
        for row in rows[rows["delivered"]].itertuples():
            last[row.kind, row.task, row.origin, row.receiver] = said[row.round, row.origin, row.message]
    kinds = set(run.transfers["kind"])
    assert {"adapter", "expert", "sketch"} <= kinds
    assert len(set(np.round(sizes, 4))) > 10 and 0 < min(sizes) < 0.5


def test_what_is_on_air_goes_by_them(recorded):
    """One at a time: no transmission of a round starts before one that carries a larger change and was there too."""
    run, _ = recorded
    sent = run.transfers[run.transfers["attempts"] > 0].sort_values(["round", "start_s"])
    # Messages to several receivers go as one, by their largest change.
    units = sent.groupby(["round", "source", "message"], as_index=False).agg(
        change=("change", "max"), start_s=("start_s", "min")
    )
    ordered, all_rows = 0, 0
    for _, rows in units.sort_values(["round", "start_s"]).groupby("round"):
        ordered += int((np.diff(rows["change"]) <= 0).sum())
        all_rows += len(rows) - 1
    assert ordered / all_rows > 0.8
    late = run.transfers[run.transfers["outcome"] == "late"]
    assert len(late) and run.transfers["delivered"].any()
    heard = run.transfers[run.transfers["delivered"] & (run.transfers["round"] > 1)]
    assert late[late["round"] > 1]["change"].mean() < heard["change"].mean()


def test_replanned_resumed_and_planned(recorded, tmp_path, monkeypatch):
    """The same radio gives the same figures, a cut run the same records; the plan says that it knows no sizes."""
    run, _ = recorded
    assert_same_traffic(run)
    monkeypatch.setattr(Driver, "_evaluate_base", stop_after(Driver._evaluate_base, 2))
    with pytest.raises(Interrupted):
        launch(small_config(tmp_path, "name=cut", *WORDS), json=True)
    monkeypatch.undo()
    resumed = load_run(resume(tmp_path / "cut", json=True).folder)
    assert_same_records(run, resumed, exact=True)
    plan = dry_run(small_config(tmp_path, *WORDS))
    assert sum("knows no trained values" in note for note in plan.notes) == 1
    assert all(np.isnan(done.requests.change).all() for done in plan.played.values())


def test_sizes_by_hand():
    """3-4-5 and its double, the same again, nothing before, nothing at all, and another number of values."""
    u, v = np.array([3.0, 4.0], np.float32), np.array([6.0, 8.0], np.float32)
    assert change_of(v, u) == change_of(u, v) == 0.5
    assert change_of(-u, u) == 2.0 and change_of(u, u) == 0.0
    assert change_of(u, None) == 1.0 and change_of(0 * u, None) == 1.0 and change_of(u, np.zeros(3)) == 1.0
    assert change_of(0 * u, 0 * u) == 0.0 and change_of(0 * u, u) == 1.0
    assert change_of(np.array([1.0]), np.array([1 + 1e-4])) == float(np.float16(1e-4 / (1 + 1e-4)))


def test_what_a_sender_remembers():
    """Version 1 gets to device 1 alone; of version 2 nobody knows yet; then device 2 gets that one."""
    told = Told()
    values = [np.array([x, 0.0], np.float32) for x in (1.0, 2.0, 4.0)]
    one, two, three = (Planned(Kind.ADAPTER, -1, (1, 2), 100, version) for version in (1, 2, 3))
    assert told.changes(one, values[0]) == (1.0, 1.0)
    told.arrived(one, (1,))
    told.forget()
    assert told.changes(two, values[1]) == (0.5, 1.0)
    told.forget([two])
    assert sorted(key[2] for key in told.values) == [1, 2]
    told.arrived(two, (2,))
    assert told.changes(three, values[2]) == (0.75, 0.5)
    told.forget([three])
    assert sorted(key[2] for key in told.values) == [1, 2, 3]
    told.arrived(three, (1, 2))
    told.forget()
    assert [key[2] for key in told.values] == [3]
    assert told.changes(Planned(Kind.SKETCH, 0, (1,), 100, 1), None) == (1.0,)
    pd.testing.assert_index_equal(pd.Index(sorted(told.reached)), pd.Index([(1, -1, 1), (1, -1, 2)]))
