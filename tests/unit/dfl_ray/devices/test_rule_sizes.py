"""Rules that form dense updates are asked as far as the model's size allows."""

from __future__ import annotations

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.devices import rule_sizes
from dfl_ray.devices.rule_sizes import DENSE_LIMIT, with_rules_in_reach
from dfl_ray.errors import InputError
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
