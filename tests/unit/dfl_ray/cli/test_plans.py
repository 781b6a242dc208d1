"""Several configurations planned and compared in one table."""

from __future__ import annotations

import json

import pytest

from dfl_ray.cli import main
from dfl_ray.cli.plans import table_lines
from dfl_ray.simulation import estimate


def figures(name: str, airtime_s: float, delivered: float | None, rounds: int = 2) -> dict[str, object]:
    return {
        "configuration": name, "devices": 1_000, "rounds": rounds, "planned_rounds": 1,
        "run": {"payload_bytes": 2_810_000, "airtime_s": airtime_s, "simulated_s": 197.0, "energy_j": 3.5,
                "radio_energy_j": 1.25, "delivered_fraction": delivered},
        "memory": {"peak_mb": 1234.4}, "notes": ["half of it is sampled"], "on_nodes": [],
    }  # fmt: skip


def test_the_table_has_one_aligned_row_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = table_lines([figures("nr-sidelink", 0.301, 0.981), figures("a", 12.0, None)])
    assert [line.split("  ")[0].strip() for line in lines] == ["", "nr-sidelink", "a"]
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[1].split("  ") if cell.strip()]
    assert cells == ["nr-sidelink", "1,000", "1 of 2", "2.81 MB", "0.301 s", "3 min 17 s", "3.5 J", "1.25 J", "98.1 %",
                     "1,234 MB"]  # fmt: skip
    assert lines[2].split()[-3:] == ["–", "1,234", "MB"]


def test_a_cluster_adds_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    on = [{"nodes": n, "round_s": 8.0 / n, "speed_up": 0.9 * n} for n in (1, 2, 4)]
    lines = table_lines([{**figures("a", 12.0, None), "on_nodes": on}])
    assert lines[0].endswith("a round on 4") and lines[1].endswith("2 s, x3.60")


def test_each_configuration_is_planned_with_the_same_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def plan(config, _step, rounds, machines):
        assert machines is None
        asked.append((config.radio.carrier_hz, config.devices.count, rounds))
        found = figures("", config.radio.carrier_hz / 1e9, 1.0)
        del found["configuration"]
        return found

    monkeypatch.setattr(estimate, "plan", plan)
    words = ["plan", "nr-sidelink", "mmwave-indoor", "devices.count=9", "--rounds", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert asked == [(5.9e9, 9, 1), (28e9, 9, 1)]
    assert shown.index("5.9 s") < shown.index("28 s") and "note  mmwave-indoor: half of it" in shown
    assert "Planning" in shown and main([*words, "-q"]) == 0
    quiet = capsys.readouterr().out
    assert "28 s" in quiet and "Planning" not in quiet
    assert main([*words, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out.splitlines()[-1])["plans"]
    assert [(one["configuration"], one["run"]["airtime_s"]) for one in plans] == [
        ("nr-sidelink", 5.9), ("mmwave-indoor", 28.0)]  # fmt: skip


def test_a_word_that_names_no_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "indoor", "rounds"]) == 2
    assert "`rounds`" in capsys.readouterr().err


def test_a_configuration_named_twice_is_refused(capsys):
    assert main(["plan", "nr-sidelink", "nr-sidelink", "rounds=2"]) == 2
    assert "`nr-sidelink` is named twice" in capsys.readouterr().err
