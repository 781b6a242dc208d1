"""What pages and reports read of a run's records: no more than they show, and once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dfl_ray.records import Run, load_run
from dfl_ray.records.faults import asked_devices
from dfl_ray.records.results import summary
from dfl_ray.simulation.model_card import model_card
from dfl_ray.tracking.wandb_tracker import device_table
from dfl_ray.views import groups
from dfl_ray.views.catalog import device_count
from dfl_ray.views.groups import find_groups
from tests.fake_run import Fake, write_fake_run


def test_what_a_page_says_of_the_last_round_reads_no_whole_table(tmp_path: Path):
    run = load_run(write_fake_run(tmp_path, "one", Fake(devices=6, rounds=4, every=2)))
    whole = load_run(run.path)
    assert device_count(run) == 6 and asked_devices(run) == "all devices" and summary(run)["rounds"] == 4
    config = {**run.config, "model": {"name": "tiny"}, "method": {"type": "dlora", "rank": 8, "alpha": 16.0}}
    of_card = replace(run, config=config)
    assert model_card(of_card, 3, ["sum"], 4).count("\n| sum |") == len(
        whole.evaluation.query("device == 3 and task == 'sum' and round == 4")
    )
    table = device_table(run)
    sums = whole.devices.groupby("device")["energy_j"].sum()
    assert len(table) == 6 and table["energy_j"].tolist() == sums.tolist()
    for read in (run, of_card):
        assert not {"devices", "evaluation", "topology_nodes", "topology_edges"} & set(vars(read))


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
