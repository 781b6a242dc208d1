"""Wrong input: one paragraph, exit code 2, before any actor starts, and nothing written."""

from __future__ import annotations

import json
import sys

import pytest

from dfl_ray.cli import main
from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from tests.conftest import SMALL_RUN

ROWS = [{"prompt": f"Say {w}:", "answer": w} for w in ("one", "two", "one", "two")]


def write_task(folder, name, train, test):
    (folder / name).mkdir(parents=True)
    for split, rows in (("train", train), ("test", test)):
        lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def good(folder):
    write_task(folder, "a", ROWS, [{"prompt": f"Tell {i}:", "answer": "one"} for i in range(4)])
    return folder


CASES = {
    "unknown key": (["methd.rank=4"], ["methd", "did you mean `method`"]),
    "unknown nested key": (["method.rnak=4"], ["method.rnak", "did you mean `method.rank`"]),
    "wrong type": (["rounds=many"], ["rounds", "many"]),
    "out of range": (["devices.count=0"], ["devices.count", "0"]),
    "not an override": (["--nonsense"], ["nonsense"]),
    "missing config": (["no-such.yaml"], ["no-such.yaml"]),
    "missing tasks": (
        ["tasks.source=files", "model.name=embedded", "tasks.path=/nowhere"],
        ["tasks.path", "/nowhere"],
    ),
    "unknown task": (["tasks.names=[topik]"], ["topik", "topic"]),
    "T*r > d": (["method.rank=64"], ["T*r = ", "method.rank", "method.projection=gaussian"]),
    "too many actors": (
        ["devices.count=190", "runtime.devices_per_actor=1", "runtime.memory_per_actor_mb=8000"],
        ["190", "runtime.devices_per_actor"],
    ),
    "too much cpu": (["runtime.cpus_per_actor=500"], ["cannot hold", "runtime.cpus_per_actor"]),
    "no gpu": (["runtime.gpus_per_actor=1"], ["cannot hold", "GPU", "runtime.gpus_per_actor"]),
    "unreachable cluster": (["runtime.address=127.0.0.1:1"], ["runtime.address=127.0.0.1:1", "ray start"]),
    "impossible holders": (["devices.count=2", "devices.min_holders=3"], ["holders"]),
    "too few rows": (
        ["devices.count=90", "tasks.train_rows=20", "runtime.backend=local"],
        ["`topic`", " 20 ", " 45 ", "tasks.train_rows"],
    ),
    "unknown topology": (["topology=rign"], ["rign", "ring"]),
    "unknown path loss": (["radio.path_loss=umu"], ["umu", "um"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_paragraph_exit_code_2_nothing_written(case, tmp_path, capfd):
    words, expected = CASES[case]
    small = [w for w in SMALL_RUN if w.split("=")[0] not in {x.split("=")[0] for x in words}]
    if case == "impossible holders":
        small = [w for w in small if not w.startswith("devices")]
    if case in (
        "impossible holders",
        "T*r > d",
    ):  # seen once the scene is built; one such case beside Ray is enough
        small.append("runtime.backend=local")
    runs = tmp_path / "runs"
    assert main(["run", *words, *small, f"runtime.runs_dir={runs}"]) == 2
    said = capfd.readouterr().err.strip()
    assert "Traceback" not in said
    for part in expected:
        assert part in said
    assert not runs.exists()
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: write_task(f, "b", [ROWS[0], "{oops", ROWS[1]], ROWS), ["train.jsonl", "2"]),
        (lambda f: write_task(f, "b", [ROWS[0], {"prompt": "x"}], ROWS), ["train.jsonl", "2", "answer"]),
        (lambda f: write_task(f, "b", ROWS, []), ["b", "test"]),
    ],
    ids=["not json", "no answer", "no test rows"],
)
def test_bad_rows_name_file_and_line(damage, expected, tmp_path, capfd):
    folder = good(tmp_path / "tasks")
    damage(folder)
    runs = tmp_path / "runs"
    words = [w for w in SMALL_RUN if not w.startswith("tasks")]
    code = main(
        [
            "run",
            *words,
            "tasks.source=files",
            "model.name=embedded",
            f"tasks.path={folder}",
            f"runtime.runs_dir={runs}",
        ]
    )
    said = capfd.readouterr().err
    assert code == 2
    for part in expected:
        assert part in said
    assert not runs.exists()


def test_a_model_folder_without_weights(tmp_path, capfd):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("{}")
    assert main(["run", *SMALL_RUN, f"model.name={model}", f"runtime.runs_dir={tmp_path / 'runs'}"]) == 2
    said = capfd.readouterr().err
    assert str(model) in said
    assert "safetensors" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["seed=[1,2]", "seed=3-5", "method.rank=4..8", "seed=0,1"])
def test_several_values_where_one_is_taken_are_answered_with_the_sweep(word: str) -> None:
    with pytest.raises(InputError, match="several values are a sweep"):
        load_config(None, [word])


def test_an_unknown_choice_lists_all_once() -> None:
    with pytest.raises(InputError) as error:
        load_config(None, ["topology=random"])
    assert str(error.value).count("erdos_renyi") == 1
