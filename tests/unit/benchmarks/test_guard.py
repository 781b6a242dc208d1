"""The benchmark guard: which ratios it names, of which machine, and that its two stores learn the same."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import cold_state, guard
from benchmarks.guard import compared, keep, kept_ratios, kind
from benchmarks.namespaces import Unsupported
from benchmarks.scaling import overrides

HERE = {"processor": "A 1000", "cpus": 2, "python": "3.11.7"}
THERE = {"processor": "B 9", "cpus": 2}


def test_only_what_is_worse_by_more_than_a_tenth_is_named():
    before = {"same": 1.0, "a little": 1.0, "worse": 1.0, "better": 2.0, "gone": 1.0}
    found = {"same": 1.0, "a little": 1.09, "worse": 1.2, "better": 1.0, "added": 9.0}
    lines, worse = compared(found, before)
    assert worse == ["worse", "gone"]
    said = {line[:36].strip(): line[36:].split() for line in lines}
    assert said["worse"] == ["1.000", "1.200", "+20", "%", "WORSE"]
    assert said["better"] == ["2.000", "1.000", "-50", "%"]
    assert said["gone"] == ["1.000", "-", "not", "measured"] and said["added"] == ["-", "9.000", "new"]


def test_figures_are_kept_by_kind_of_machine(tmp_path):
    path = tmp_path / "guard.json"
    assert kept_ratios(path, HERE) == {}
    keep(path, THERE, {"a": 1.5})
    keep(path, HERE, {"a": 1.0, "b": 1.23456})
    keep(path, HERE, {"a": 1.1})
    assert kept_ratios(path, {**HERE, "python": "3.13.0"}) == {"a": 1.1}
    assert kept_ratios(path, THERE) == {"a": 1.5} and kept_ratios(path, {**HERE, "cpus": 4}) == {}


@pytest.mark.parametrize(("now", "code"), [(1.05, 0), (1.2, 1)])
def test_the_exit_code_tells_of_a_regression(now, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(guard, "KEPT", tmp_path / "guard.json")
    monkeypatch.setattr(guard, "machine", lambda: HERE)
    monkeypatch.setattr(guard, "measured", lambda: {"round / bare": now})
    keep(guard.KEPT, HERE, {"round / bare": 1.0})
    assert guard.main(["--json"]) == code
    out = capsys.readouterr().out.splitlines()
    assert out[0] == kind(HERE) == "A 1000 x 2"
    assert json.loads(out[-1])["worse"] == (["round / bare"] if code else [])
    assert guard.main(["--keep"]) == 0
    assert kept_ratios(guard.KEPT, HERE) == {"round / bare": now}


@pytest.mark.exhaustive  # two groups learn for two rounds
def test_the_ratio_of_a_file_is_of_two_that_learn_the_same():
    assert 0.1 < guard.file_ratio(10, 2) < 10.0


def test_a_cold_state_learns_the_same_and_leaves_no_group_behind():
    """On machines whose control groups may be used; the limit is set behind the first round."""
    try:
        found = cold_state.compare(10, 2, 0.1, 64.0, [])
    except Unsupported as reason:
        pytest.skip(str(reason))
    assert found["rounds"] == 1 and found["limit_mb"] > found["budget_mb"] + 64
    assert not list(cold_state.ROOT.glob(f"**/dfl-ray-{os.getpid()}"))


def test_a_budget_is_a_share_of_the_state():
    experiment = cold_state.make_experiment([*overrides(10, 1, ()), "method.rank=2"])
    _, budget = cold_state.make_group(experiment, 0.25)
    whole = cold_state.make_group(experiment, 1.0)[1]
    assert budget == pytest.approx(whole / 4, abs=1)
    assert cold_state.make_group(experiment, None)[1] == 0
