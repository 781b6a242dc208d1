"""`evaluate --harness` against a plain lm-eval of what `export` wrote, on a local task file; words it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfl_ray import run
from dfl_ray.cli import main
from dfl_ray.errors import InputError
from dfl_ray.models.paths import embedded_path
from dfl_ray.simulation.harness import harness_settings
from tests.conftest import small_config

TASK = """
task: words
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{choices.index(answer)}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def local_task(folder: Path) -> Path:
    """Questions of the embedded suite as a task file of lm-eval and the JSON lines it reads."""
    from dfl_ray.tasks.synthetic import make_tasks

    task = make_tasks(("topic",), seed=5, train_rows=1, test_rows=40)[0]
    choices = sorted({row.answer for row in task.test})
    rows = [{"prompt": row.prompt, "answer": row.answer, "choices": choices} for row in task.test]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "words.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return folder


def plain(folder: Path, arguments: str) -> dict[str, float]:
    """The harness alone, on folders."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(
        model="hf", model_args=f"{arguments},dtype=float32", tasks=["words"], task_manager=manager, batch_size=8,
        device="cpu", log_samples=False,
    )  # fmt: skip
    assert found is not None
    return {k: v for k, v in found["results"]["words"].items() if isinstance(v, float)}


@pytest.mark.parametrize("method", ["dlora", "sparse_orthogonal"])
def test_figures_are_those_of_the_exported_folder(
    method: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'dfl-ray[harness]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words = ["method.local_steps=20", "method.learning_rate=0.02", "runtime.backend=local", "name=one"]
    path = run(small_config(tmp_path, f"method={method}", *words)).path
    tasks = local_task(tmp_path / "tasks")
    asked = ["--harness", "tasks=words", f"include={tasks}"]

    def figures(*more: str) -> dict[tuple[int, str], dict[str, float]]:
        assert main(["evaluate", str(path), "--json", *more, *asked]) == 0
        out: dict[tuple[int, str], dict[str, float]] = {}
        for row in json.loads(capsys.readouterr().out.splitlines()[-1])["harness"]:
            kept = out.setdefault((row["device"], row["expert"]), {})
            kept[f"{row['metric']},{row['filter']}"] = row["value"]
            kept[f"{row['metric']}_stderr,{row['filter']}"] = row["stderr"]
            assert row["samples"] == 40
        return out

    everybody = figures()
    assert sorted(device for device, _ in everybody) == [0, 1, 2, 3]
    assert figures("--device", "2") == {(2, ""): everybody[2, ""]}
    assert main(["export", str(path), str(tmp_path / "merged"), "--device", "2", "--merged"]) == 0
    assert plain(tasks, f"pretrained={tmp_path / 'merged'}") == pytest.approx(everybody[2, ""], abs=1e-9)
    if method == "dlora":
        assert main(["evaluate", str(path), "--experts", *asked]) == 2
        assert "has no experts" in capsys.readouterr().err
        return
    assert main(["export", str(path), str(tmp_path / "experts"), "--device", "1", "--experts"]) == 0
    base = plain(tasks, f"pretrained={embedded_path()}")
    for (_, expert), found in figures("--device", "1", "--experts").items():
        folder = tmp_path / "experts" / expert
        assert plain(tasks, f"pretrained={embedded_path()},peft={folder}") == pytest.approx(found, abs=1e-9)
        if expert == "topic":
            assert found["acc,none"] > base["acc,none"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["include=."], "names no task"),
        (["tasks=a", "fewshot=2"], "num_fewshot"),
        (["tasks=a", "limit=x"], "no number"),
        (["tasks=a", "batch_size=0"], "at least 1"),
        (["tasks=a", "limit=0"], "above 0"),
        (["tasks=a", "include=nowhere"], "no folder"),
    ],
)
def test_words_that_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        harness_settings(words)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfl_ray.simulation.harness.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"dfl-ray\[harness\]"):
        harness_settings(["tasks=a"])
