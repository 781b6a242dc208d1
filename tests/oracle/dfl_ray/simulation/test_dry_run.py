"""The plan is the run without training: every transfer, and bytes, airtime and radio energy, of every method."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from channels.settings import RadioSettings
from dfl_ray.methods.table import METHODS
from dfl_ray.simulation.dry_run import dry_run, totals
from dfl_ray.simulation.radio_tables import bytes_on_air, transfer_table
from dfl_ray.simulation.round_loop import RoundLoop, WallTimes
from dfl_ray.simulation.sampled_rounds import chosen_rounds
from dfl_ray.simulation.schedules import Barrier, no_barrier
from tests.conftest import small_config

RUN = (
    "runtime.backend=local", "rounds=6", "devices.count=5", "devices.area_m=[350,350]", "method.local_steps=1",
    "method.batch_rows=2", "evaluate.every=6", "evaluate.rows_per_task=2", "tasks.train_rows=60",
)  # fmt: skip
KEYS = ["round", "source", "destination", "kind", "payload_bytes", "attempts", "delivered"]
SPARSE = (
    "method.exchange_every=2",
    "method.replicas_every=2",
    "method.prune_end=0.8",
    "method.sketch_prompts=8",
)
SETTINGS = {
    **{name: (f"method={name}",) for name in METHODS.own},
    "sparse_orthogonal": ("method=sparse_orthogonal", *SPARSE),
    "every_second": ("method=dlora", "method.exchange_every=2"),
    "push_sum": ("method=ffa", "method.aggregation=push_sum", "method.precision=float32"),
    "few_kept": ("method=choco", "method.keep_share=0.02", "method.precision=int8"),
    "ranks": ("method=hetlora", "method.ranks=[8,4,2]"),
    "rows_disjoint": (*SPARSE, "method.mask=row", "method.disjoint=true", "method.a_exchange=send"),
    "global_sum": (*SPARSE, "method.budget=global", "method.aggregation=push_sum", "method.density=0.1"),
    "dlora_per_task": ("method=dlora_per_task", "method.exchange_every=2", "method.replicas_every=2"),
    "through": (*SPARSE, "method.replicas_every=3", "method.publish=through", "method.publish_mixed=true"),
    "mixed": ("method=ffa_per_task", "method.exchange_every=6", "method.publish_mixed=true"),
    "no_barrier": (
        "method=dlora",
        "schedule=async",
        "devices.class_figures={slow: {share: 0.5, frequency_hz: 4e8}}",
    ),
    "experts_no_barrier": (
        *SPARSE,
        "schedule=async",
        "rounds=14",
        "devices.class_figures={phone: {frequency_hz: 1e8}, slow: {share: 0.5, frequency_hz: 4e7}}",
    ),
    "dense_float16": ("method.density=1", "method.precision=float16", "method.sketch_precision=float32"),
    "control_variates": ("method=rolora", "method.control_variates=true", "method.precision=int8"),
    "star_of_two": (
        "method=fedavg_star",
        "method.exchange_every=2",
        "method.server=3",
        "method.precision=int8",
    ),
}
SAME_LAW = (
    "dec_lora",
    "adf_lora",
    "tad_lora",
    "fedex",
    "flora_na",
    "lora_fair",
    "decaf",
    "exact_diffusion",
    "fed_sb",
)
"""Methods with the law of `dlora`, all that is trained to all neighbours: asked by `pytest -m exhaustive` only."""
SEEDS = {name: 1 if name.endswith("_per_task") else 3 for name in METHODS.own}
"""Of more than one seed all but the first are asked by `pytest -m exhaustive` only."""


def run_of(tmp_path, words):
    from dfl_ray.records import load_run
    from dfl_ray.simulation.launch import launch

    return load_run(launch(small_config(tmp_path, "name=run", *RUN, *words), json=True).folder)


def table_of(rounds):
    names = [str(t) for t in range(9)]
    tables = [transfer_table(p.plan, p.hops, p.requests, names).assign(round=r) for r, p in rounds.items()]
    return pd.concat(tables, ignore_index=True)


def planned(config):
    found = dry_run(config)
    return found, table_of(found.played)


def played(config):
    """The rounds of the run itself, with real training, messages and channel, without records and evaluation."""
    from dfl_ray.simulation.backend import LocalBackend
    from dfl_ray.simulation.experiment import build_experiment

    run = build_experiment(config)
    backend = LocalBackend(run.setup, run.channel)
    schedule = Barrier() if config.schedule == "sync" else no_barrier(run)
    loop = RoundLoop(
        backend, run.channel.classes, run.setup.graph.relays, run.flops_per_token, schedule=schedule
    )
    return {r: loop.play(r, WallTimes()) for r in range(1, config.rounds + 1)}


@pytest.mark.parametrize(
    ("setting", "seed"),
    [
        pytest.param(name, seed, marks=[pytest.mark.exhaustive] if seed or name in SAME_LAW else [])
        for name in SETTINGS
        for seed in range(SEEDS.get(name, 1))
    ],
)
def test_every_transfer_of_the_run_is_planned(tmp_path, setting, seed):
    # A weak radio, so that hops are lost, tried again and overtaken.
    words = (*SETTINGS[setting], f"seed={seed}", "radio.tx_power_dbm=8", "radio.max_attempts=1")
    config = small_config(tmp_path, *RUN, *words)
    found, transfers = planned(config)
    run = played(config)
    expected = table_of(run)
    pd.testing.assert_frame_equal(transfers, expected)
    sums, plans = totals(found), [p.plan for p in run.values()]
    assert sums["payload_bytes"] == sum(bytes_on_air(p) for p in plans)
    for name, real in (
        ("airtime_s", sum(p.airtime_s for p in plans)),
        ("radio_energy_j", sum(p.radio_energy_j.sum() for p in plans)),
        ("compute_energy_j", sum(p.compute_energy_j.sum() for p in plans)),
        ("simulated_s", plans[-1].end_s),
    ):
        assert sums[name] == pytest.approx(real, rel=1e-9, abs=1e-12), name
    sends = setting not in ("local", "centralized") and len(found.outline.deployment.topology.edges) > 0
    assert (len(transfers) > 0) == sends


def test_the_records_of_a_run_are_what_was_planned(tmp_path):
    words = (*SPARSE, "radio.tx_power_dbm=8", "radio.max_attempts=1")
    run = run_of(tmp_path, words)
    found, transfers = planned(small_config(tmp_path, *RUN, *words))
    pd.testing.assert_frame_equal(transfers[KEYS], run.transfers[KEYS], check_dtype=False)
    sums = totals(found)
    assert sums["payload_bytes"] == run.rounds["payload_bytes"].sum()
    for name in ("airtime_s", "radio_energy_j", "compute_energy_j", "energy_j"):
        assert sums[name] == pytest.approx(run.rounds[name].sum(), rel=1e-9, abs=1e-12), name
    assert sums["simulated_s"] == pytest.approx(run.rounds["simulated_s"].iloc[-1], rel=1e-9)


def test_a_size_that_depends_on_trained_values_is_planned_within_two_per_cent(tmp_path):
    words = (*SPARSE, "method.budget=effective_rank", "method.density=0.25")
    run = run_of(tmp_path, words)
    found, transfers = planned(small_config(tmp_path, *RUN, *words))
    assert transfers[KEYS[:4]].equals(run.transfers[KEYS[:4]].astype(transfers[KEYS[:4]].dtypes.to_dict()))
    assert totals(found)["payload_bytes"] == pytest.approx(run.rounds["payload_bytes"].sum(), rel=0.02)
    sizes = (
        transfers.groupby("kind")["payload_bytes"].sum()
        / run.transfers.groupby("kind")["payload_bytes"].sum()
    )
    assert (np.abs(sizes - 1) < 0.02).all()


def test_what_sends_nothing_is_planned_to_send_nothing(tmp_path):
    for method in ("local", "centralized"):
        found, transfers = planned(small_config(tmp_path, *RUN, f"method={method}"))
        assert len(transfers) == 0
        assert totals(found)["payload_bytes"] == 0
        # What neither sends nor awaits anything idles.
        idle_w = RadioSettings().idle_power_w
        assert totals(found)["radio_energy_j"] == pytest.approx(5 * idle_w * totals(found)["simulated_s"])


def test_fewer_rounds_are_spread_over_those_that_send(tmp_path):
    config = small_config(tmp_path, *RUN, "rounds=24", "method=dlora", "method.exchange_every=3")
    whole, some = dry_run(config), dry_run(config, rounds=4)
    assert sorted(some.played) == [3, 9, 18, 24]
    assert chosen_rounds(whole.outline.law, 10, 24, 100) == list(range(1, 25))
    a, b = totals(whole), totals(some)
    assert b["payload_bytes"] == pytest.approx(a["payload_bytes"], rel=0.15)
    assert b["compute_energy_j"] == pytest.approx(a["compute_energy_j"], rel=1e-9)
    assert b["simulated_s"] == pytest.approx(a["simulated_s"], rel=0.35)
    assert any("4 of 24 rounds are planned" in note for note in some.notes)


@pytest.mark.parametrize("kind", ["crash", "silent"])
def test_rounds_left_out_know_who_fails(tmp_path, kind):
    words = (*RUN, "rounds=24", "method=dlora", f"devices.faults.kind={kind}", "devices.faults.share=0.5")
    whole, some = (dry_run(small_config(tmp_path, *words), rounds=r) for r in (None, 4))
    asked = [
        sum(int(p.requests.payload_bytes.sum()) for p in found.played.values())
        + sum(found.skipped_bytes.values())
        for found in (whole, some)
    ]
    assert asked[0] == asked[1] > 0
    energy_j = [totals(found)["compute_energy_j"] for found in (whole, some)]
    assert energy_j[0] == pytest.approx(energy_j[1], rel=1e-9)


def test_a_plan_of_some_rounds_says_that_it_does_not_follow_batteries(tmp_path):
    words = (*RUN, "rounds=24", "method=dlora", "devices.battery_j=50", "stop.joules=1e6")
    some = dry_run(small_config(tmp_path, *words), rounds=4)
    assert any("does not count for batteries and `stop.joules`" in note for note in some.notes)
    assert not any("does not count" in note for note in dry_run(small_config(tmp_path, *words)).notes)


def test_an_empty_battery_ends_plan_and_run_alike(tmp_path):
    words = ("method=dlora", "devices.battery_j=0.05", "rounds=4")
    found = dry_run(small_config(tmp_path, *RUN, *words))
    run = run_of(tmp_path, words)
    assert ("stopped_by" in run.info) == any(p.nobody_left for p in found.played.values())
    alive = {r: p.plan.alive.tolist() for r, p in found.played.items()}
    assert alive == run.devices.groupby("round")["alive"].apply(list).to_dict()
    assert any(p.emptied for p in found.played.values())
