"""Tuning: the same number of trials for every method, and the best of them."""

from __future__ import annotations

import pytest

from benchmarks import tuning
from benchmarks.kept_runs import settings_of
from dfl_ray.config.load import load_config


@pytest.mark.parametrize("method", ["sparse_orthogonal", "dlora", "choco", "dlora:precision=int8"])
def test_every_method_has_the_same_budget_and_the_best_trial_wins(method):
    asked = []

    def measure(labels):
        asked.extend(labels)
        return {x: 0.5 + 0.1 * ("learning_rate=0.01" in x) + 0.01 * (len(asked) > 5) for x in labels}

    found = tuning.tuned(method, measure)
    assert len(set(asked)) == len(found["trials"]) == 8
    assert found["accuracy"] == max(found["trials"].values())
    assert "learning_rate=0.01" in found["best"]
    for label in asked:
        load_config(None, settings_of(label))
