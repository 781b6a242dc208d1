"""`dfl-ray plan --nodes`: a run's speed on a cluster that is not there."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dfl_ray.cli import main
from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.packing.actors import Packing
from dfl_ray.packing.partition import Node
from dfl_ray.simulation.chosen_packing import choose_packing
from dfl_ray.simulation.dry_run import DryRun, dry_run
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.node_estimate import (
    EXCHANGE_S,
    PADDED,
    Machines,
    check_forecast,
    node_figures,
    node_lines,
)

WORDS = [
    "devices.count=60", "devices.partition={type: one_each}", "rounds=4", "method.local_steps=1", "method.batch_rows=2",
    "method.exchange_every=1",
]  # fmt: skip
RATE = 1e9


@pytest.fixture(scope="module")
def found() -> DryRun:
    return dry_run(load_config(None, WORDS), timed=True)


@pytest.fixture(scope="module")
def chosen() -> Packing:
    """What a run on three nodes of one CPU decides."""
    nodes = [Node(f"{k}", 1.0) for k in range(3)]
    return choose_packing(build_experiment(load_config(None, WORDS)), {"CPU": 3.0}, nodes, forks=False)


def device_s(found: DryRun) -> np.ndarray:
    """(rounds, devices) seconds of each device's training, from its tokens."""
    config, run = found.outline.config, found.outline
    tokens = [[run.tokens.of(d, r) for d in range(config.devices.count)] for r in range(1, config.rounds + 1)]
    padded = (1 - PADDED) * np.array(tokens) + PADDED * np.mean(tokens, axis=1, keepdims=True)
    return padded * run.flops_per_token / RATE


def test_words_of_the_command_line_are_read():
    machines = Machines.of("2x8,4@0.5", "100:2.5")
    assert [n.cpus for n in machines.nodes] == [8.0, 8.0, 4.0]
    assert machines.speeds == (1.0, 1.0, 0.5)
    assert (machines.link_mbit_s, machines.link_ms) == (100.0, 2.5)
    assert Machines.of("16").link_mbit_s == math.inf


@pytest.mark.parametrize("nodes", ["", "x", "3x", "0", "2x0", "4@0", "4,,4", "-1", "4@", "1e3", "0x4"])
def test_nodes_that_cannot_be_read_are_refused(nodes):
    with pytest.raises(InputError, match="nodes cannot be read"):
        Machines.of(nodes)


@pytest.mark.parametrize("link", ["fast", "0", "0:1", "100:", ":5", "-1"])
def test_links_that_cannot_be_read_are_refused(link):
    with pytest.raises(InputError, match="link cannot be read"):
        Machines.of("2", link)


def test_devices_and_bytes_lie_as_in_a_run(found, chosen):
    one, two, three = node_figures(found, Machines.of("3x1"), RATE)
    assert [one["nodes"], two["nodes"], three["nodes"]] == [1, 2, 3]
    assert three["inside_fraction"] == pytest.approx(chosen.inside)
    assert sorted(three["devices"]) == sorted(map(len, chosen.groups))
    assert one["crossing_bytes"] == 0.0 and sum(two["devices"]) == 60
    sent = sum(int(p.requests.payload_bytes.sum()) for p in found.played.values())
    assert three["crossing_bytes"] == pytest.approx(sent * (1 - chosen.inside), rel=0.1)


def test_times_are_those_of_the_devices_tokens(found, chosen):
    speeds = (1.0, 1.0, 0.5)
    row = node_figures(found, Machines.of("2x1,1@0.5"), RATE)[-1]
    each = device_s(found)
    actors = np.stack(
        [
            each[:, list(g)].sum(axis=1) / speeds[int(n)]
            for g, n in zip(chosen.groups, chosen.nodes, strict=True)
        ]
    )
    assert row["train_s"] == pytest.approx(actors.max(axis=0).mean())
    assert row["straggler_s"] == pytest.approx((actors.max(axis=0) - actors.mean(axis=0)).mean())
    arrived = np.zeros((4, 60))
    for number, played in found.played.items():
        for to, size, got in zip(
            played.requests.destination, played.requests.payload_bytes, played.arrived, strict=True
        ):
            arrived[number - 1, to] += size * got
    taking = np.stack(
        [
            arrived[:, list(g)].sum(axis=1) / speeds[int(n)]
            for g, n in zip(chosen.groups, chosen.nodes, strict=True)
        ]
    )
    assert row["exchange_s"] == pytest.approx(EXCHANGE_S * taking.max(axis=0).mean())
    serial = float(np.median(found.radio_s))
    assert row["round_s"] == pytest.approx(row["train_s"] + row["exchange_s"] + serial)
    whole = each.sum(axis=1).mean() + EXCHANGE_S * arrived.sum(axis=1).mean() + serial
    assert row["speed_up"] == pytest.approx(whole / row["round_s"])


def test_actors_that_share_cpus_take_as_long_as_their_node(found):
    config = load_config(None, [*WORDS, "devices.count=18", "runtime.devices_per_actor=1"])
    few = dry_run(config)
    row = node_figures(few, Machines.of("2"), RATE)[0]
    tokens = np.zeros(18)
    total = []
    for played in few.played.values():
        for report in played.trained:
            tokens[report.devices] = report.tokens
        total.append(tokens.sum())
    assert row["actors"] == 18
    assert row["train_s"] == pytest.approx(np.mean(total) * few.outline.flops_per_token / RATE / 2)


def test_a_link_takes_its_time(found):
    free = node_figures(found, Machines.of("3x1"), RATE)[-1]
    slow = node_figures(found, Machines.of("3x1", "10:5"), RATE)
    bits = 8 * free["crossing_bytes"] / 4
    assert slow[0]["network_s"] == 0.0
    assert slow[-1]["network_s"] == pytest.approx(4 * 0.005 + bits / (10e6 * 3))
    assert slow[-1]["round_s"] == pytest.approx(free["round_s"] + slow[-1]["network_s"])


def test_large_clusters_are_told_in_powers_of_two(found):
    rows = node_figures(found, Machines.of("6x1"), RATE)
    assert [row["nodes"] for row in rows] == [1, 2, 4, 6]
    assert [name for name, _ in node_lines(rows)] == ["on 1 node", "on 2 nodes", "on 4 nodes", "on 6 nodes"]


@pytest.mark.parametrize("word", ["schedule=async", "runtime.gpus_per_actor=1"])
def test_what_is_not_forecast_is_refused(word, capsys):
    assert main(["plan", *WORDS, word, "--nodes", "2x4"]) == 2
    said = capsys.readouterr().err
    assert "--nodes" in said and word.split("=")[1] in said


def test_the_command_prints_a_line_a_size(capsys):
    assert main(["plan", "rounds=1", "--nodes", "2x1", "--link", "100:2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["nodes"] for row in told["on_nodes"]] == [1, 2]
    assert main(["plan", "rounds=1", "--nodes", "2x1"]) == 0
    said = capsys.readouterr().out
    assert "on 2 nodes" in said and "cross between nodes" in said


def test_a_link_without_nodes_is_refused(capsys):
    assert main(["plan", *WORDS, "--link", "100"]) == 2
    assert "--nodes" in capsys.readouterr().err


def test_a_single_planned_round_is_timed_without_the_loading_of_loops():
    one = dry_run(load_config(None, WORDS), rounds=1, timed=True)
    more = dry_run(load_config(None, WORDS))
    assert len(one.radio_s) == 1
    first, again = next(iter(one.played.values())), more.played[next(iter(one.played))]
    assert first.plan.end_s == again.plan.end_s  # planned twice from the same state
    assert first.plan.table.equals(again.plan.table)


def test_parts_of_a_cluster_that_cannot_hold_the_run_are_left_out():
    words = [*WORDS, "devices.count=6", "devices.min_holders=1", "runtime.devices_per_actor=1"]
    words += ["runtime.cpus_per_actor=1"]
    few = dry_run(load_config(None, words))
    rows = node_figures(few, Machines.of("6x1"), RATE)
    assert [row["nodes"] for row in rows] == [6] and rows[0]["speed_up"] == 1.0
    assert "times the speed of 6, the fewest that hold the actors" in node_lines(rows)[0][1]
    with pytest.raises(InputError, match="cannot hold"):
        node_figures(few, Machines.of("5x1"), RATE)


@pytest.mark.parametrize("nodes", ["0x16,4", "4,0x16", "999999999x1", "9999x1,2x1", "3x0"])
def test_no_node_is_dropped_and_their_number_is_bounded(nodes):
    with pytest.raises(InputError, match="nodes cannot be read"):
        Machines.of(nodes)


def test_a_run_in_one_process_is_on_no_cluster():
    with pytest.raises(InputError, match="on a cluster"):
        check_forecast(load_config(None, ["runtime.backend=local"]))
