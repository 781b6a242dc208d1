"""A model's configuration alone gives a plan the layers and sizes that its weight files give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dfl_ray import load_config, plan, run
from dfl_ray.engines.adapted_layers import planned_targets, targets_of
from dfl_ray.errors import InputError
from dfl_ray.models.base import load_base
from dfl_ray.models.paths import embedded_path
from dfl_ray.simulation.planned_rows import planned_rows
from tests.oracle.architectures.tiny import tiny_model


def only_config(folder: Path, to: Path) -> Path:
    to.mkdir()
    shutil.copy(folder / "config.json", to)
    return to


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_layers_and_sizes_are_those_of_the_weight_files(model_type: str, tmp_path: Path) -> None:
    tiny_model(model_type).save_pretrained(tmp_path / "whole")
    whole = planned_targets(tmp_path / "whole", "all-linear")
    told = planned_targets(only_config(tmp_path / "whole", tmp_path / "config"), "all-linear")
    adapted = targets_of(load_base(tmp_path / "whole"), "all-linear")
    # The files of Mixtral name every expert's layers; a run holds them joined and adapts attention alone.
    assert told.layers == whole.layers == adapted.layers
    assert (told.parameters, told.shape) == (whole.parameters, whole.shape)
    assert told.parameters == adapted.parameters
    assert "has no weights: planned from its config.json" in told.notes[0]


def test_a_plan_by_config_alone_counts_rows_by_their_characters(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("test", 8)):
        rows = [
            {"prompt": f"{split} {n:02}" + "p" * (28 + 10 * (n % 2)), "answer": ("yeah", "nope")[n % 2]}
            for n in range(count)
        ]
        file = tmp_path / "tasks" / "one" / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    folder = only_config(embedded_path(), tmp_path / "config")
    words = [
        f"model.name={folder}", "tasks.source=files", f"tasks.path={tmp_path / 'tasks'}", "devices.count=4",
        "devices.tasks_per_device=1", "devices.min_holders=2", "rounds=2", "track=none", "runtime.backend=local",
        "method=dlora", "method.exchange_every=1", "method.local_steps=3", "method.batch_rows=2",
    ]  # fmt: skip
    config = load_config(None, words)
    rows = planned_rows(config)
    prompts = [len(f"train {n:02}") + 28 + 10 * (n % 2) for n in range(30)]
    assert rows.means == pytest.approx([(sum(prompts) / 30 + 4) / 4])
    figures = plan(config)
    assert any("a token is taken for every 4 characters" in note for note in figures["notes"])
    # The default's base and adapters, which are the same model's.
    embedded = plan(load_config(None, ["method=dlora", "rounds=1", "track=none"]))
    for name in ("base_mb", "device_state_mb"):
        assert figures["memory"][name] == embedded["memory"][name]
    with pytest.raises(InputError, match="has no weights"):
        run(config)


def test_a_configuration_that_nobody_can_make_a_model_of_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}', encoding="utf-8")
    with pytest.raises(InputError, match="can't be told from its config"):
        planned_targets(tmp_path, "all-linear")
