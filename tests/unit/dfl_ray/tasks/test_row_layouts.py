"""Rows as people have them: conversations, Alpaca, Dolly, field names of single tasks, one split only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfl_ray.config.schema import TasksConfig
from dfl_ray.config.tasks import TaskFields
from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row
from dfl_ray.tasks.files import load_file_tasks
from dfl_ray.tasks.hub import load_hub_tasks

ALPACA = [{"instruction": f"Add one to {n}.", "input": "", "output": str(n + 1)} for n in range(10)]
DOLLY = [
    {"instruction": f"Who is {n}?", "context": f"{n} is X.", "response": "X", "category": "qa"}
    for n in range(10)
]
TALKS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Hello {n}"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": f"Bye {n}"},
        ]
    }
    for n in range(10)
]


def write(folder: Path, rows: list[dict[str, Any]], cut: int = 8, suffix: str = ".jsonl") -> None:
    folder.mkdir(parents=True)
    for split, part in (("train", rows[:cut]), ("test", rows[cut:])):
        path = folder / f"{split}{suffix}"
        if part and suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(part), path)
        elif part:
            path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def load(folder: Path, **keys: Any) -> Any:
    return load_file_tasks(TasksConfig(source="files", path=str(folder), **keys))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_usual_layouts_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "alpaca", ALPACA, suffix=suffix)
    write(tmp_path / "dolly", DOLLY, suffix=suffix)
    write(tmp_path / "talk", TALKS, suffix=suffix)
    loaded = load(tmp_path)
    alpaca, dolly, talk = loaded.tasks
    assert alpaca.train[0] == Row("Add one to 0.", "1")
    assert dolly.train[0] == Row("Who is 0?\n\n0 is X.", "X")
    assert talk.train[0].prompt == "Be brief.\nuser: Hello 0\nassistant: Hi\nuser: And now?\nassistant:"
    assert talk.train[0].answer == "Bye 0"
    assert talk.train[0].messages == tuple((m["role"], m["content"]) for m in TALKS[0]["messages"][:-1])
    said = [note for note in loaded.notes if "rows read as" in note]
    assert [note.split(":")[0] for note in said] == ["task alpaca", "task dolly", "task talk"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_may_leave_out_what_their_instruction_is_about(tmp_path: Path, suffix: str) -> None:
    bare = [{k: v for k, v in row.items() if k != "input"} for row in ALPACA]
    about = [{**row, "input": "as a word"} for row in ALPACA]
    write(tmp_path / "none", bare, suffix=suffix)
    write(tmp_path / "later", [*bare[:3], *about[3:]])
    later, none = load(tmp_path).tasks
    assert none.train == tuple(Row(row["instruction"], row["output"]) for row in ALPACA[:8])
    assert later.train[:3] == none.train[:3]
    assert later.train[3] == Row("Add one to 3.\n\nas a word", "4")
    # A layout that is there in full is read whatever stands beside it.
    write(tmp_path / "more" / "alpaca", [{**row, "context": "x"} for row in ALPACA])
    write(tmp_path / "more" / "talk", [{**row, "context": "x", "input": "y"} for row in TALKS])
    alpaca, talk = load(tmp_path / "more").tasks
    assert alpaca.train[0] == Row("Add one to 0.", "1") and talk.train[0].answer == "Bye 0"
    write(tmp_path / "odd", [{**row, "context": "x"} for row in bare])
    with pytest.raises(InputError, match="no field `prompt`"):
        load(tmp_path, names=["odd"])


def test_a_conversation_without_an_answer_is_a_bad_row(tmp_path: Path) -> None:
    bad = [
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user"}]},
    ]
    write(tmp_path / "talk", [TALKS[0], *bad, *TALKS[1:]])
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    said = str(caught.value)
    for reason in (
        "is text, not a list", "no message of the assistant", "the role 'robot'", "message 1 has no text"
    ):  # fmt: skip
        assert reason in said


def test_each_task_may_have_its_own_fields(tmp_path: Path) -> None:
    write(tmp_path / "one", [{"question": f"q{n}", "target": f"a{n % 2}"} for n in range(10)])
    write(tmp_path / "two", [{"a": n, "b": 1, "answer": str(n + 1)} for n in range(10)])
    fields = {"one": TaskFields(prompt="question", answer="target"), "two": TaskFields(template="{a} + {b}")}
    one, two = load(tmp_path, fields=fields).tasks
    assert one.train[3] == Row("q3", "a1") and two.train[3] == Row("3 + 1", "4")
    with pytest.raises(InputError, match=r"tasks\.fields\.twa.*did you mean `two`"):
        load(tmp_path, fields={"twa": TaskFields(template="{a}")})


def test_a_task_of_one_split_holds_rows_out_by_the_seed(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n // 2}", "answer": "yes" if n % 3 else "no"} for n in range(40)]
    write(tmp_path / "odd", rows, cut=40)
    with pytest.raises(InputError, match=r"tasks\.test_share=0\.1"):
        load(tmp_path)
    config = TasksConfig(source="files", path=str(tmp_path), test_share=0.25)
    first, again, other = (load_file_tasks(config, seed=seed) for seed in (1, 1, 2))
    task = first.tasks[0]
    assert len(task.test) == 10 and len(task.train) == 30
    assert not {r.prompt for r in task.test} & {r.prompt for r in task.train}
    assert again.tasks == first.tasks and other.tasks != first.tasks
    assert "10 of 40 training rows are held out, drawn by seed 1" in first.notes[0]


def test_a_dataset_of_one_split_holds_rows_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "data", ALPACA, cut=10)
    template = {
        "dataset": str(tmp_path / "data"),
        "prompt": "{instruction}",
        "answer": "{output}",
        "test_split": None,
    }
    with pytest.raises(InputError, match="no test split"):
        load_hub_tasks(TasksConfig.model_validate({"source": "hub", "templates": {"add": template}}))
    config = TasksConfig.model_validate({"source": "hub", "templates": {"add": template}, "test_share": 0.2})
    (task,) = load_hub_tasks(config).tasks
    assert len(task.test) == 2 and len(task.train) == 8
