"""`benchmarks/growth.py`: slopes of known laws, whose time is whose, bytes of a run against its folder."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from benchmarks import growth
from benchmarks.growth_axes import DIMENSIONS, write_model, write_tasks
from benchmarks.growth_run import PartClock, tree_bytes, whole_run
from dfl_ray.config.load import load_config
from dfl_ray.simulation.launch import launch
from tests.conftest import SMALL_RUN
from tests.unit.benchmarks.test_result import check

SIZES = (10, 32, 100, 316, 1000, 3162, 10000)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.3, 2.0])
def test_the_slope_of_a_power_is_its_exponent(power: float) -> None:
    assert growth.slope(SIZES, [3.0 * n**power for n in SIZES]) == pytest.approx(power, abs=1e-12)


def test_a_constant_part_counts_in_the_lower_half_alone() -> None:
    assert [SIZES[k] for k in growth.upper_half(SIZES)] == [1000, 3162, 10000]
    assert [SIZES[k] for k in growth.upper_half(SIZES[:2])] == [10, 32]
    # 100 n^0 is ten times the other part at the lower end and a hundredth of it at the upper one.
    law = [100.0 + n**1.0 for n in SIZES]
    whole = math.log(law[-1] / law[0]) / math.log(SIZES[-1] / SIZES[0])
    assert whole < 0.75 < 0.9 < growth.slope(SIZES, law) < 1.0
    bent = [n + 1e-5 * n**2 for n in SIZES]
    assert growth.slope(SIZES, bent) < growth.slope(SIZES[-2:], bent[-2:])


def size(value: int, seconds: float, count: float) -> dict[str, object]:
    return {"value": value, "seconds": {"plan": seconds, "rows": 0.001}, "counts": {"record bytes": count}}


def test_what_is_above_its_bar_is_named_and_what_is_too_short_has_no_slope() -> None:
    sizes = [size(n, 1e-3 * n**1.3, 50.0 * n) for n in SIZES]
    slopes = growth.slopes_of(DIMENSIONS["devices"], sizes)
    assert set(slopes) == {"plan", "record bytes"}
    assert growth.above(DIMENSIONS["devices"], slopes) == ["plan: slope 1.30, wanted at most 1.05"]
    assert growth.above(DIMENSIONS["tasks"], slopes) == []
    flat = growth.slopes_of(
        DIMENSIONS["rounds"], [size(n, 1.0, 1.0) | {"counts": {"checkpoint bytes": n}} for n in SIZES]
    )
    assert growth.above(DIMENSIONS["rounds"], flat) == ["checkpoint bytes: slope 1.00, wanted at most 0.05"]


def test_time_between_stages_goes_to_the_part_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"s": 0.0}
    monkeypatch.setattr(time, "process_time", lambda: now["s"])

    def spend(seconds: float) -> None:
        now["s"] += seconds

    watch = PartClock()
    with watch.step("radio and topology"):
        spend(7)
    for _ in range(2):
        spend(1000)  # before a round, nobody's
        with watch.stage("train"):
            spend(1)
        spend(2)  # requests joined, hops expanded
        with watch.stage("plan"):
            spend(4)
        spend(8)
        with watch.stage("exchange"):
            spend(16)
        spend(32)  # tables made
        with watch.stage("evaluate"):
            spend(8)
            with watch.stage("sketch all layers"), watch.step("deeper"):
                spend(56)
        spend(128)  # tables written
        watch.update({})
        spend(1000)
        with watch.stage("checkpoint"):
            spend(256)
    assert dict(watch.seconds) == {
        "graph and radio": 7, "train": 2, "plan": 28, "exchange": 32, "records": 320, "evaluate": 128,
        "checkpoint": 512,
    }  # fmt: skip


def test_a_runs_bytes_are_those_of_its_folder(tmp_path: Path) -> None:
    words = [*SMALL_RUN, "runtime.backend=local", "track.trackers=[]"]
    found = whole_run(words)
    path = launch(load_config(None, [*words, f"runtime.runs_dir={tmp_path}", "name=run"]), quiet=True).folder
    newest = path / "checkpoints" / "round-000004"
    arrays = [a for part in newest.glob("devices-*.safetensors") for a in load_file(part).values()]
    assert found.counts["checkpoint bytes"] == tree_bytes(newest)
    assert found.counts["state bytes"] == sum(a.nbytes for a in arrays)
    assert (
        found.counts["network bytes"]
        == tree_bytes(path / "topology") + (path / "partition.parquet").stat().st_size
    )
    assert found.counts["links"] == 3
    assert set(found.seconds) == set(growth.PARTS) - {"requests"}
    assert min(found.seconds.values()) > 0


def test_tasks_and_models_that_are_varied(tmp_path: Path) -> None:
    names = write_tasks(tmp_path / "tasks", 3)
    assert sorted(p.name for p in (tmp_path / "tasks").iterdir()) == names and len(names) == 3
    made = json.loads((write_model(tmp_path, 48) / "config.json").read_text())
    assert (made["hidden_size"], made["num_attention_heads"], made["num_hidden_layers"]) == (48, 3, 4)


def test_times_too_short_to_tell_have_no_panel(tmp_path: Path) -> None:
    sizes = [{"value": n, "seconds": {"plan": 1e-4}, "counts": {"record bytes": 100.0 * n}} for n in (10, 20)]
    growth.draw(tmp_path / "a.svg", DIMENSIONS["radio"], sizes, {"record bytes": {"slope": 1.0}})
    drawn = (tmp_path / "a.svg").read_text()
    assert "record (1.00)" in drawn and "processor s" not in drawn


def test_a_tiny_range_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--axes",
        "radio",
        "--small",
        "--repeats",
        "1",
        "--charts",
        str(tmp_path),
        "--keep",
        str(tmp_path),
    ]
    growth.main([*words, "--json"])
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("plan ") for line in said) and any(line.startswith("above: ") for line in said)
    result = json.loads(said[-1])
    check(result)
    sizes = result["axes"]["radio"]["sizes"]
    assert [one["value"] for one in sizes] == [20, 30, 40]
    assert all(one["counts"]["record bytes"] > 0 and one["seconds"]["plan"] > 0 for one in sizes)
    assert "requests" in sizes[0]["seconds"] and "train" not in sizes[0]["seconds"]
    assert "<svg" in (tmp_path / "growth_radio.svg").read_text()
    monkeypatch.setattr("subprocess.run", lambda *_args, **_more: pytest.fail("measured again"))
    growth.main(words)
    assert capsys.readouterr().out.splitlines() == said[:-1]
