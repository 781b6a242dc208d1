"""A run is told when its masks come too late, and ends with the densities that it was told."""

from __future__ import annotations

import re

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.records import load_run
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config


def late(notes):
    return [note for note in notes if "groups of holders" in note]


@pytest.mark.parametrize("words", [["method=dlora"], ["method.density=1"], []])
def test_nothing_is_said_where_every_mask_comes_in_time(words):
    assert not late(dry_run(load_config(None, words)).notes)


def test_the_density_that_is_told_is_the_one_that_the_run_ends_with(tmp_path):
    words = ("name=late", "rounds=6", "method.prune_end=1", "method.prune_start=0.1", "method.prune_steps=6",
             "runtime.backend=local", "method.local_steps=1", "devices.count=2", "tasks.names=[topic,add]",
             "devices.min_holders=2", "devices.tasks_per_device=2")  # fmt: skip
    config = small_config(tmp_path, *words)
    (note,) = late(dry_run(config).notes)
    run = load_run(launch(config, json=True).folder)
    ended = float(run.rounds["density"].dropna().iloc[-1])  # two holders of each task: one delay for all
    told = float(re.search(r"density of up to ([0-9.]+)", note)[1])
    assert ended == pytest.approx(told, rel=0.02) and config.method.density < told < 1
    assert note in run.info["warnings"] or note in (run.path / "log.txt").read_text()
