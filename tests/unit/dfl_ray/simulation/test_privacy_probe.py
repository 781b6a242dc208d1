"""`evaluate --privacy` attacks what a method trains: its layout, its merged update, its mask, its rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dfl_ray.evaluation.leakage import token_inputs
from dfl_ray.simulation import privacy_probe
from dfl_ray.simulation.export_device import open_saved
from dfl_ray.simulation.launch import launch
from dfl_ray.simulation.privacy_probe import _leaked, _probed, probe_privacy
from tests.conftest import small_config

WORDS = ("rounds=3", "evaluate.every=3", "runtime.backend=local", "runtime.report=false", "track.trackers=[]")


def saved(tmp_path, method, *words):
    return open_saved(launch(small_config(tmp_path, f"method={method}", *WORDS, *words), quiet=True).folder)


def loss_by_hand(one, row):
    """Mean token loss of a row under the adapter that the evaluation answers with, what is merged included."""
    from dfl_ray.devices.evaluate import Evaluator
    from dfl_ray.engines.batches import collate
    from dfl_ray.lora.inject import Binding

    group = one.run.group
    adapter = Evaluator(group.setup, group.model, group.method)._adapter(
        group.method.expert(group.devices[one.device], one.task)
    )
    batch = collate([row])
    bound = Binding([a[None] for a in adapter.a], [b[None] for b in adapter.b], None, one.scale)
    with torch.no_grad():
        logits = group.model.logits(batch, bound)
    return float(torch.nn.functional.cross_entropy(logits, batch.targets))


@pytest.mark.parametrize("method", ["flora", "fedex", "fed_sb", "ffa", "dlora", "sparse_orthogonal"])
def test_what_is_attacked_answers_as_the_device_does_and_only_what_is_trained_tells(method, tmp_path):
    run = saved(tmp_path, method)
    one = _probed(run, 0, run.experiment.setup.held[0][0])
    assert one.layout is run.group.method.layout
    table, mine = run.experiment.setup.tasks[one.task].train, run.experiment.setup.rows[0][0]
    row = (table, int(mine[0]))
    loss = privacy_probe.row_losses(
        one.model, one.layout, one.theta[0], [row], scale=one.scale, static_a=one.static_a, frozen=one.frozen
    )
    assert float(loss[0]) == pytest.approx(loss_by_hand(one, row), rel=1e-4)
    row_b, row_a, round_b, round_a = _leaked(one, token_inputs(run.group.model), [row])
    trained = "a" in one.layout.trains
    assert np.isnan(round_a) == (not trained)
    # the gradient of A is B^T g x^T, which is 0 where B is, as after a merge
    assert np.isfinite([row_b, round_b]).all() and (trained or np.isnan(row_a))


def test_a_mask_holds_in_the_round_that_is_attacked(tmp_path, monkeypatch):
    run = saved(
        tmp_path, "sparse_orthogonal", "method.density=0.3", "method.prune_start=0", "method.prune_end=0.4"
    )
    seen = []
    train = privacy_probe.train_adapters

    def spy(*given, **named):
        before = given[2].theta.clone()
        found = train(*given, **named)
        seen.append((named["keep"], given[2].theta != before))
        return found

    monkeypatch.setattr(privacy_probe, "train_adapters", spy)
    probe_privacy(run, 8)
    masked = [(keep, moved) for keep, moved in seen if keep is not None]
    assert masked and all(not bool((moved & ~keep).any()) and bool(moved.any()) for keep, moved in masked)


def test_factors_that_take_turns_are_attacked_in_their_own_rounds(tmp_path):
    run = saved(tmp_path, "tad_lora", "method.switch_every=2")
    one = _probed(run, 1, run.experiment.setup.held[1][0])
    turns = one.turns()
    for factor, other in (("a", "b"), ("b", "a")):
        assert all(bool(v.all()) for v in one.layout.views(turns[factor], factor))
        assert not any(bool(v.any()) for v in one.layout.views(turns[factor], other))
    assert probe_privacy(run, 8)[["round_a", "round_b"]].notna().all(axis=None)


def test_the_learner_of_all_rows_is_attacked_by_all_of_them_and_nobody_else(tmp_path, monkeypatch):
    run = saved(tmp_path, "centralized")
    members = []
    monkeypatch.setattr(
        privacy_probe, "_membership", lambda one, own, others, most: members.append((one.task, own)) or 0.5
    )
    found = probe_privacy(run, 10**6)
    assert isinstance(found, pd.DataFrame) and set(found["device"]) == {0}
    setup = run.experiment.setup
    for task, own in members:
        wanted = {
            int(i) for d, held in setup.held.items() if task in held for i in setup.rows[d][held.index(task)]
        }
        assert {i for _, i in own} == wanted
    assert {task for task, _ in members} == {t for held in setup.held.values() for t in held}
