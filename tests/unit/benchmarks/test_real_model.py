"""The benchmark on a real model: its runs are settings that load, with what was tuned."""

from __future__ import annotations

import pytest

from benchmarks import real_model
from benchmarks.kept_runs import settings_of
from dfl_ray.config.load import load_config


@pytest.mark.parametrize("graph", ["clustered", "k_regular"])
def test_every_row_loads_on_every_graph_with_the_tuned_rate(graph):
    best = {"dlora": {"best": "dlora:learning_rate=0.02"}}
    for row, label in real_model.rows_on(graph, best).items():
        config = load_config(None, [*real_model.SETTING, "tasks.path=x", *settings_of(label)])
        assert config.topology.type == graph
        assert (config.method.learning_rate == 0.02) == row.startswith("dlora") * (
            config.method.name == "dlora"
        )
        if "equal coding" in row:
            assert config.method.precision == "int8"
        assert (config.radio.scheduler == "broadcast") == ("multicast" in row)


def test_only_some_rows_and_each_methods_best_graph():
    rows = real_model.rows_on("clustered", {}, ["ffa, equal coding"])
    assert list(rows) == ["sparse_orthogonal", "dlora", "ffa, equal coding"]
    with pytest.raises(ValueError, match="no row"):
        real_model.rows_on("clustered", {}, ["ffa"])
    chosen = {
        "clustered": {"dlora": {"accuracy": 0.5}, "choco": {"accuracy": 0.7}},
        "k_regular": {"dlora": {"accuracy": 0.6}, "choco": {"accuracy": 0.2}},
    }
    lines = real_model.best_graphs(chosen).splitlines()
    assert [x.strip() for x in lines[2].strip("| ").split("|")] == ["dlora", "50.0", "60.0", "k_regular"]
    assert [x.strip() for x in lines[3].strip("| ").split("|")] == ["choco", "70.0", "20.0", "clustered"]
