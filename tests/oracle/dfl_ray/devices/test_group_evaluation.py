"""A group's evaluation: what is saved by scoring each (expert, row) once must change no figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

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


def test_rules_asked_together_are_as_asked_alone(trained):
    rules = ["likelihood", "oracle", "likelihood_soft", "sum", "average", "ties", "arrow", "filter_full"]
    together, _ = evaluated(trained, rules)
    for rule in rules:
        alone, _ = evaluated(trained, [rule])
        pd.testing.assert_frame_equal(alone, together.loc[[rule]])
