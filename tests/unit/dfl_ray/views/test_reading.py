"""What pages and reports read of a run's records: no more than they show, and once."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dfl_ray.records import Run, load_run
from dfl_ray.records.faults import asked_devices
from dfl_ray.records.results import evaluated_words, summary
from dfl_ray.records.words import share
from dfl_ray.simulation.model_card import accuracies_at, model_card
from dfl_ray.tracking.summary import closing_table
from dfl_ray.tracking.wandb_tracker import device_table
from dfl_ray.views import groups
from dfl_ray.views.catalog import device_count
from dfl_ray.views.groups import find_groups
from dfl_ray.views.tables import result_tables
from tests.fake_run import Fake, write_fake_run


def config_of_card(run: Run) -> dict[str, Any]:
    return {**run.config, "model": {"name": "tiny"}, "method": {"type": "dlora", "rank": 8, "alpha": 16.0}}


def test_what_a_page_says_of_the_last_round_reads_no_whole_table(tmp_path: Path):
    run = load_run(write_fake_run(tmp_path, "one", Fake(devices=6, rounds=4, every=2)))
    whole = load_run(run.path)
    assert device_count(run) == 6 and asked_devices(run) == "all devices" and summary(run)["rounds"] == 4
    of_card = replace(run, config=config_of_card(run))
    assert model_card(of_card, 3, ["sum"], 4, accuracies_at(run, 4)).count("\n| sum |") == len(
        whole.evaluation.query("device == 3 and task == 'sum' and round == 4")
    )
    table = device_table(run)
    sums = whole.devices.groupby("device")["energy_j"].sum()
    assert len(table) == 6 and table["energy_j"].tolist() == sums.tolist()
    for read in (run, of_card):
        assert not {"devices", "evaluation", "topology_nodes", "topology_edges"} & set(vars(read))


@pytest.mark.parametrize("exported", [1, 2, 3])
def test_a_model_card_gives_figures_of_its_own_round_alone(tmp_path: Path, exported: int):
    run = replace(load_run(write_fake_run(tmp_path, "one", Fake(rounds=4, every=2))), last_round=3)
    assert set(run.evaluation["round"]) == {0, 2}
    card = model_card(
        replace(run, config=config_of_card(run)), 3, ["sum"], exported, accuracies_at(run, exported)
    )
    shown = [line.split(" | ")[2] for line in card.splitlines() if line.startswith(("| sum |", "| topic |"))]
    if exported == 2:
        own = run.evaluation.query("device == 3 and task in ['sum', 'topic'] and round == 2")
        assert shown == [share(value) for value in own["accuracy"]] and shown
        assert "accuracy on held-out rows after round 2 |" in card
    else:
        assert not shown and f"nothing was evaluated after round {exported}, so no accuracies" in card
        assert "of another state, after round 2" in card


def test_accuracies_beside_costs_of_later_rounds_name_their_round(tmp_path: Path):
    ended = load_run(write_fake_run(tmp_path, "ended", Fake(rounds=4, every=2)))
    broken = replace(ended, last_round=3)
    assert [summary(run)["accuracy_round"] for run in (ended, broken)] == [4, 2]
    assert evaluated_words(ended) == "" and "<h3>Accuracy per task</h3>" in result_tables(ended)
    assert "<h3>Accuracy per task after round 2 of 3</h3>" in result_tables(broken)
    console = Console(width=120, record=True, file=StringIO())
    console.print(closing_table(broken))
    assert "Accuracy after round 2 of 3, sparse_orthogonal" in console.export_text()


def test_many_groups_flatten_each_configuration_once(run: Run, monkeypatch):
    runs = [
        replace(run, config={"method": {"type": m, "rank": rank}, "seed": 0})
        for rank in range(8)
        for m in ("dlora", "ffa")
    ]
    flattened: list[object] = []
    flat = groups._flat
    monkeypatch.setattr(
        groups, "_flat", lambda section, before="": flattened.append(before) or flat(section, before)
    )
    first, again = find_groups(runs), find_groups(runs)
    assert [g.label for g in first] == [
        f"{r.config['method']['type']} (rank={i // 2})" for i, r in enumerate(runs)
    ]
    assert [g.variant for g in first] == [g.variant for g in again] == [i // 2 for i in range(16)]
    assert flattened.count("") == len(runs)
