"""The benchmark that compares methods: budgets, intervals and bars on made-up curves, and two real small runs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import methods
from benchmarks.comparison import (
    Curve,
    Interval,
    at_equal,
    common_budget,
    headline,
    over_bytes,
    paired,
    plain,
    share_to_reach,
)
from tests.conftest import SMALL_RUN


def curve(label, seed, spent, accuracy):
    rounds = np.arange(len(spent))
    points = pd.DataFrame(
        {"round": rounds, "payload_bytes": spent, "airtime_s": np.asarray(spent) / 10.0, "accuracy": accuracy}
    )
    points["radio_energy_j"], points["worst_task"] = points["airtime_s"], accuracy
    figures = {"accuracy": accuracy[-1], "energy_j": 100.0, **{a: float(points[a].iloc[-1]) for a in
               ("payload_bytes", "airtime_s", "radio_energy_j")}}  # fmt: skip
    return Curve(label, seed, points, figures, {"single": accuracy[-1]})


@pytest.fixture
def curves():
    return {
        "ours": {0: curve("ours", 0, [0, 4, 8], [0.0, 0.6, 0.9]), 1: curve("ours", 1, [0, 5, 8], [0.0, 0.7, 0.8])},
        "dlora": {0: curve("dlora", 0, [0, 50, 100], [0.0, 0.3, 0.6]),
                  1: curve("dlora", 1, [0, 40, 80], [0.1, 0.2, 0.7])},
        "local": {0: curve("local", 0, [0, 0, 0], [0.0, 0.3, 0.4]), 1: curve("local", 1, [0, 0, 0], [0.0, 0.3, 0.5])},
    }  # fmt: skip


def test_accuracy_is_interpolated_and_kept_beyond_the_end(curves):
    one = curves["ours"][0]
    assert [one.at("payload_bytes", b) for b in (0, 2, 6, 8, 99)] == pytest.approx([0, 0.3, 0.75, 0.9, 0.9])
    assert one.cost_of("payload_bytes", 0.75) == pytest.approx(6)
    assert one.cost_of("payload_bytes", 0.0) == 0
    assert one.cost_of("payload_bytes", 0.95) == float("inf")


def test_a_run_that_ends_early_keeps_its_last_values_in_the_chart():
    long, short = (
        curve("dlora", 0, [0, 2e6, 4e6, 6e6], [0.1, 0.2, 0.4, 0.6]),
        curve("dlora", 1, [0, 2e6, 4e6], [0.1, 0.4, 0.8]),
    )
    for one in (long, short):
        one.points["round"] = np.arange(len(one.points))
    spent, accuracy = over_bytes({0: long, 1: short})
    assert spent == pytest.approx([2, 4, 5])
    assert [a.mean for a in accuracy] == pytest.approx([0.3, 0.6, 0.7])
    late = curve("dlora", 2, [0, 9e6], [0.1, 0.9])
    late.points["round"] = [0, 2]
    assert over_bytes({0: long, 2: late})[0] == pytest.approx([6.5, 7.5])


def test_common_budget_is_the_cheapest_that_sends(curves):
    assert common_budget(curves, "payload_bytes") == {0: 8.0, 1: 8.0}
    columns = at_equal(curves, "payload_bytes", "dlora")
    assert columns["common"]["ours"].mean == pytest.approx(0.85)
    assert columns["common"]["dlora"].mean == pytest.approx((0.3 * 8 / 50 + 0.1 + 0.1 * 8 / 40) / 2)
    assert columns["common"]["local"].mean == pytest.approx(0.45)
    assert columns["100%"]["dlora"].mean == pytest.approx(0.65)


def test_paired_interval_is_students(curves):
    found = paired(curves, "ours", lambda c: c.figures["accuracy"])["dlora"]
    low, high = stats.ttest_rel([0.9, 0.8], [0.6, 0.7]).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx((high - low) / 2)
    assert np.isnan(Interval.of([1.0]).half_width)
    assert Interval.of([0.5, 0.7]).text(100) == "60.0 ± 127.1"


def test_headline_says_what_is_met(curves):
    assert share_to_reach(curves, "dlora", "payload_bytes")["ours"].mean == pytest.approx((0.04 + 5 / 80) / 2)
    found = headline(curves, "ours", "dlora")
    assert found["accuracy_gain"][0] == pytest.approx(0.2)
    assert found["share_of_reference"]["payload_bytes"][0] == pytest.approx(0.09)
    assert found["met"] == {
        "ten_points_better": True, "a_tenth_of_payload_bytes": True, "a_tenth_of_airtime_s": True,
        "a_tenth_of_radio_energy_j": True, "its_accuracy_at_3_percent_of_its_bytes": False,
    }  # fmt: skip
    assert plain({"x": (float("inf"), Interval(0.5, float("nan"), 1))}) == {"x": [None, [0.5, None]]}


@pytest.mark.exhaustive  # two whole commands
@pytest.mark.slow
def test_two_methods_end_to_end_and_again_from_what_is_there(tmp_path, capsys):
    small = [o for o in SMALL_RUN if not o.startswith(("evaluate.every", "track"))]
    command = [
        "--methods",
        "sparse_orthogonal,local",
        "--seeds",
        "1",
        "--folder",
        str(tmp_path),
        "--json",
        *small,
    ]
    first = methods.main([*command, "rounds=2"])
    out = capsys.readouterr()
    said = json.loads(out.out.splitlines()[-1])
    assert set(said["equal_rounds"]) == {"sparse_orthogonal", "local"}
    assert set(said["tasks"]) == {"base model", *said["rules"]}
    assert len(said["tasks"]["base model"]) == len(said["tasks"]["sparse_orthogonal"]) > 0
    assert set(said["rules"]["sparse_orthogonal"]) >= {"likelihood", "oracle", "ties", "arrow", "filter_full"}
    assert said["equal_rounds"]["local"]["payload_bytes"][0] == 0
    assert said["equal_rounds"]["sparse_orthogonal"]["payload_bytes"][0] > 0
    assert "Equal rounds" in out.out and "Accuracy % at equal airtime_s" in out.out
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/rounds.parquet")}
    assert len(stamps) == 2
    again = methods.main([*command, "rounds=2"])
    assert plain(again["equal_rounds"]) == plain(first["equal_rounds"])
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/rounds.parquet")} == stamps
    with pytest.raises(SystemExit, match="No method nothing; there are sparse_orthogonal, dlora"):
        methods.main(["--methods", "nothing"])
