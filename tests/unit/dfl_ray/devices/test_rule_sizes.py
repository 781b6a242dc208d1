"""Rules that form dense updates are asked as far as the model's size allows."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.devices import rule_sizes
from dfl_ray.devices.routing import OPEN
from dfl_ray.devices.rule_sizes import DENSE_LIMIT, with_rules_in_reach
from dfl_ray.devices.rules import InferenceRule, checked_routes
from dfl_ray.errors import InputError, RunError
from dfl_ray.experts.table import RULES
from dfl_ray.lora.layout import LayerShape
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config

WIDE = (
    LayerShape("wide", out_features=2**14, in_features=2**12),
)  # 2^26 values of an update: 4 tasks fit, 5 do not


def test_all_rules_are_those_that_the_size_allows_and_the_others_are_told():
    config = load_config(None, ["evaluate.rules=[all]"])
    assert with_rules_in_reach(config, WIDE, 4) == (config, ())
    left, (said,) = with_rules_in_reach(config, WIDE, 5)
    assert "ties" not in left.evaluate.rules and {"likelihood", "oracle", "filter_full"} <= set(
        left.evaluate.rules
    )
    assert "`ties`" in said and f"{5 * 2**26:,}" in said and f"{DENSE_LIMIT:,}" in said
    assert with_rules_in_reach(load_config(None, ["method=dlora"]), WIDE, 5)[1] == ()
    assert with_rules_in_reach(load_config(None, []), WIDE, 5)[1] == ()


def test_a_rule_that_is_named_and_too_large_is_refused_before_anything_is_started():
    config = load_config(None, ["evaluate.rules=[oracle,ties]"])
    with pytest.raises(InputError, match="`ties`") as caught:
        with_rules_in_reach(config, WIDE, 5)
    assert "evaluate.rules" in str(caught.value)


def test_a_run_and_its_plan_go_without_them(monkeypatch, tmp_path):
    monkeypatch.setattr(rule_sizes, "DENSE_LIMIT", 1)
    config = small_config(tmp_path, "name=one", "runtime.backend=local", "rounds=1", "evaluate.rules=[all]")
    run = launch(config, json=True)
    from dfl_ray.records import load_run

    asked = set(load_run(run.folder).evaluation["rule"])
    assert {"likelihood", "filter"} <= asked and not asked & {"ties", "filter_full"}
    assert any("`ties`" in note and "`filter_full`" in note for note in dry_run(config).notes)


def test_an_installed_rule_that_answers_nothing_is_refused_at_the_start(monkeypatch):
    monkeypatch.setitem(RULES._loaded, "own", InferenceRule())
    monkeypatch.setattr(
        type(RULES), "__contains__", lambda self, name: name in self._loaded or name in self.own
    )
    config = load_config(None, [])
    evaluate = config.evaluate.model_copy(update={"rules": ("own",)})
    with pytest.raises(InputError, match=r"The inference rule `own`.*neither `route` nor `merge`"):
        with_rules_in_reach(config.model_copy(update={"evaluate": evaluate}), WIDE, 4)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "Got: 0 arrays"),
        (3, "Got: a int"),
        ([np.full(3, 99), np.zeros(2, int)], "99 for a row of task 0"),
        ([np.zeros(3, int), np.array([0, OPEN])], "-1 for a row of task 1"),
        ([np.zeros(3, int), np.zeros(3, int)], r"\(3,\) int64 for task 1"),
        ([np.zeros(3), np.zeros(2, int)], r"\(3,\) float64 for task 0"),
        ([np.zeros(3, int), [0, 0]], "a list for task 1"),
    ],
)
def test_routes_that_lead_nowhere_name_the_rule(found, said):
    with pytest.raises(RunError, match=f"`own` does not say.*{said}.*Expected: 2 arrays"):
        checked_routes("own", found, (3, 2), 2, merges=False)


def test_right_routes_are_left_as_they_are():
    found = [np.zeros(3, int), np.array([OPEN, 1])]
    assert checked_routes("own", found, (3, 2), 2, merges=True) is found


def test_a_run_with_a_rule_that_routes_nowhere_says_so(monkeypatch, tmp_path):
    rule = InferenceRule(route=lambda router, device: [np.full(3, 99)])
    monkeypatch.setitem(RULES._loaded, "own", rule)
    config = small_config(tmp_path, "name=own", "runtime.backend=local", "rounds=1")
    evaluate = config.evaluate.model_copy(update={"rules": ("own",)})
    with pytest.raises(
        RunError, match=r"The inference rule `own` does not say which expert answers which row"
    ):
        launch(config.model_copy(update={"evaluate": evaluate}), json=True)
