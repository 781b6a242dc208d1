"""A group's evaluation: what is saved by scoring each (expert, row) once must change no figure."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pandas as pd
import pytest
import torch

from dfl_ray.devices.rules import inference_rule
from dfl_ray.evaluation.scorer import Scorer
from tests.conftest import small_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The setup and the devices' state at the end of a small run, strong enough to answer some rows."""
    from dfl_ray.simulation.checkpoint import load_checkpoint
    from dfl_ray.simulation.experiment import build_experiment
    from dfl_ray.simulation.launch import launch
    from dfl_ray.tracking.progress import make_progress

    config = small_config(
        tmp_path_factory.mktemp("runs"), "runtime.backend=local", "name=x", "method.learning_rate=0.02",
        "method.local_steps=6", "method.batch_rows=8", "evaluate.rules=[oracle]",
    )  # fmt: skip
    folder = launch(config, json=True).folder
    return build_experiment(config, make_progress(quiet=True).step).setup, load_checkpoint(
        folder / "checkpoints"
    )


def evaluated(trained, rules, **method):
    from dfl_ray.devices.group import DeviceGroup

    setup, checkpoint = trained
    changed = setup.config.method.model_copy(update=method)
    config = setup.config.model_copy(update={"method": changed})
    group = DeviceGroup(replace(setup, config=config), sorted(setup.held))
    group.restore(checkpoint.state.devices)
    rows = pd.DataFrame(group.evaluate(4, rules).rows)
    return rows.set_index(["rule", "device", "task"]).sort_index(), group


@pytest.mark.parametrize("temperature", [0.05, 20.0, 3000.0])
def test_a_mixture_of_one_expert_is_that_expert(trained, temperature, monkeypatch):
    rules = ["likelihood", "likelihood_soft"]
    saved, group = evaluated(trained, rules, soft_temperature=temperature)
    router = group._evaluator.router
    alone = np.concatenate([np.concatenate(router.sole_experts(d)) >= 0 for d in group.devices.values()])
    assert {0.05: alone.all(), 20.0: True, 3000.0: not alone.all()}[temperature]
    monkeypatch.setattr("dfl_ray.devices.routing.ALONE", -1.0)
    whole, group = evaluated(trained, rules, soft_temperature=temperature)
    assert all((r == -1).all() for r in group._evaluator.router.sole_experts(group.devices[0]))
    assert 0 < whole["right"].sum() < whole["asked"].sum()
    pd.testing.assert_frame_equal(saved, whole)


def test_the_average_is_that_of_the_experts_a_device_has(trained):
    """The mean of B A over the experts held, by hand; of a task whose expert has not come there is nothing to count."""
    _, group = evaluated(trained, ["average"])
    merger, device, method = group._evaluator.merger, group.devices[0], group.method
    experts = [method.expert(device, t) for t in range(len(group.setup.tasks))]
    for some in ([None, *experts[1:]], [experts[0], *[None] * (len(experts) - 1)], [None] * len(experts)):
        found = inference_rule("average").merge(merger.task(device, some, None))
        mine = [e for e in some if e is not None]
        for layer in range(len(method.layout.layers)):
            total = sum(
                method.layout.views(e.values[None], "b")[layer][0] @ method.static_a([e.owner])[layer][0]
                for e in mine
            )
            merged = found.b[layer] @ found.a[layer]
            torch.testing.assert_close(merged, total / len(mine) if mine else torch.zeros_like(merged))


def test_rules_asked_together_are_as_asked_alone(trained):
    rules = ["likelihood", "oracle", "likelihood_soft", "sum", "average", "ties", "arrow", "filter_full"]
    together, _ = evaluated(trained, rules)
    for rule in rules:
        alone, _ = evaluated(trained, [rule])
        pd.testing.assert_frame_equal(alone, together.loc[[rule]])


def asked_of(group, monkeypatch):
    """A group's evaluation, and how many adapters were scored by each call."""
    scored: list[int] = []
    score = Scorer.score

    def counted(self, wanted, adapter):
        scored.append(len(wanted))
        return score(self, wanted, adapter)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", counted)
        return group.evaluate(4, ["single"]), scored


@pytest.mark.parametrize("method", ["fedavg_star", "ffa", "fed_sb", "flora"])
def test_equal_adapters_are_scored_once_and_no_figure_changes(tmp_path, method, monkeypatch):
    """Device 5 has other values than the rest, and with FLoRA devices 1 and 2 have another base."""
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.simulation.experiment import build_experiment

    words = (f"method={method}", "devices.count=6", "evaluate.rows_per_task=32", "evaluate.score=choice")
    setup = build_experiment(small_config(tmp_path, *words)).setup
    group = DeviceGroup(setup, sorted(setup.held))
    drawn = torch.randn(2, group.method.layout.size, generator=torch.Generator().manual_seed(0))
    for d in group.devices.values():
        d.state.theta[0] = 0.5 * drawn[d.index // 5]
        if method == "flora":
            group.method.begin(d, 1)
            d.memory.merged += 0.05 * (d.index in (1, 2))
    once, scored = asked_of(group, monkeypatch)
    assert scored == [3 if method == "flora" else 2]
    names = count()
    for module in ("shared", "merged"):
        monkeypatch.setattr(
            f"dfl_ray.methods.{module}.contents_digest", lambda *_parts: next(names).to_bytes(8, "big")
        )
    each, scored = asked_of(group, monkeypatch)
    assert scored == [6]
    pd.testing.assert_frame_equal(pd.DataFrame(once.rows), pd.DataFrame(each.rows))
    assert once.experts == each.experts and once.experts["author"] == once.experts["device"]
    ((mine, all_), (mine_squares, all_squares)) = zip(once.sums[-1][1:], each.sums[-1][1:], strict=True)
    assert (mine == all_).all() and mine_squares == all_squares
    answers = pd.DataFrame(once.rows).pivot(index="device", columns="task", values="right")
    assert answers.loc[0].equals(answers.loc[4]) and not answers.loc[0].equals(answers.loc[5])
