"""The benchmark of router controls: which runs it makes, and what its tables say of a method."""

from __future__ import annotations

import pytest

from benchmarks import router_controls
from benchmarks.claim import Facts, facts, markdown
from benchmarks.kept_runs import settings_of
from dfl_ray.config.describe import describe
from dfl_ray.config.load import load_config


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("sparse_orthogonal", Facts("yes", "int8, feedback")),
        ("local_per_task", Facts("yes", "int8, feedback")),
        ("dlora", Facts("no", "float16")),
        ("dlora:precision=int8", Facts("no", "int8, feedback")),
        ("dlora:precision=int8:error_feedback=false", Facts("no", "int8")),
        ("flexlora:precision=int8", Facts("no", "int8")),
        ("hetlora:precision=int8", Facts("no", "int8")),
        ("choco:precision=int8", Facts("no", "int8, feedback")),
        ("centralized", Facts("no", "–")),
    ],
)
def test_a_row_says_what_its_method_uses_and_how_it_codes(label, expected):
    assert facts(label) == expected


def test_every_row_is_a_setting_that_loads():
    for cue in router_controls.CUES:
        for label in router_controls.rows_at(cue).values():
            assert load_config(None, settings_of(label)).tasks.cue == cue
    strong, weak = (router_controls.rows_at(c) for c in ("strong", "weak"))
    assert set(strong) - set(weak) == set(router_controls.MULTICAST_ROWS)


def test_the_configuration_says_whether_task_labels_are_used():
    assert "`dlora` does not use the task" in describe(load_config(None, ["method=dlora"]))
    assert "`ffa_per_task` uses the task" in describe(load_config(None, ["method=ffa_per_task"]))


def test_a_markdown_table_has_a_line_a_row():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
