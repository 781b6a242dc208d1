"""Tasks from folders: formats, fields, bad rows, label sets, caps."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.cuts import with_used_rows
from dfl_ray.tasks.data import Row
from dfl_ray.tasks.files import load_file_tasks
from dfl_ray.tasks.labels import label_set
from dfl_ray.tasks.load import load_tasks, read_tasks

ROWS = [{"prompt": f"Is {n} odd?\nAnswer:", "answer": "yes" if n % 2 else "no"} for n in range(20)]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make(folder: Path, name: str = "odd", suffix: str = ".jsonl", rows: list[Any] | None = None) -> Path:
    rows = ROWS if rows is None else rows
    write(folder / name / f"train{suffix}", rows[:14])
    write(folder / name / f"test{suffix}", rows[14:])
    return folder


def load(folder: Path, **keys: Any) -> Any:
    config = TasksConfig(source="files", path=str(folder), **keys)
    return with_used_rows(load_file_tasks(config), config)


def complaint(folder: Path, **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, **keys)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_task(suffix: str, tmp_path: Path) -> None:
    (task,) = load(make(tmp_path, suffix=suffix)).tasks
    assert task.name == "odd"
    assert task.train == tuple(Row(r["prompt"], r["answer"]) for r in ROWS[:14])
    assert task.test == tuple(Row(r["prompt"], r["answer"]) for r in ROWS[14:])
    assert task.choices == ("no", "yes")
    assert task.chance == 0.5


def test_fields_are_mapped_and_others_ignored(tmp_path: Path) -> None:
    rows = [{"q": r["prompt"], "a": r["answer"], "id": n, "prompt": 3} for n, r in enumerate(ROWS)]
    for suffix in (".jsonl", ".csv", ".parquet"):
        folder = make(tmp_path / suffix[1:], suffix=suffix, rows=rows)
        (task,) = load(folder, prompt_field="q", answer_field="a").tasks
        assert task.train[1] == Row(ROWS[1]["prompt"], "yes")


def test_tasks_come_in_the_order_asked_for_else_by_name(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        make(tmp_path, name)
    (tmp_path / "README.md").write_text("not a task", encoding="utf-8")
    (tmp_path / "notes").mkdir()
    assert [task.name for task in load(tmp_path).tasks] == ["a", "b", "c"]
    assert [task.name for task in load(tmp_path, names=("c", "a")).tasks] == ["c", "a"]


def test_caps_keep_the_first_rows_and_leave_the_label_set(tmp_path: Path) -> None:
    (task,) = load(make(tmp_path), train_rows=1, test_rows=2).tasks
    assert task.train == (Row(ROWS[0]["prompt"], "no"),)
    assert [row.prompt for row in task.test] == [row["prompt"] for row in ROWS[14:16]]
    assert task.choices == ("no", "yes")


def test_a_label_set_is_closed_when_it_is_small_and_its_answers_come_twice() -> None:
    def rows(*answers: str) -> list[Row]:
        return [Row(str(n), answer) for n, answer in enumerate(answers)]

    assert label_set(rows("b", "a", "b", "a"), 2).labels == ("a", "b")
    assert label_set(rows("b", "a", "b", "a"), 2).closed
    assert not label_set(rows("b", "a", "b", "a"), 1).closed
    assert label_set(rows("b", "a", "b", "a"), 1).labels is None
    assert not label_set(rows("b", "a", "b", "c"), 9).closed
    assert not label_set([], 9).closed


def test_white_space_and_blank_lines(tmp_path: Path) -> None:
    rows = [json.dumps(r) + "\n" for r in ROWS]
    rows[0] = "\ufeff" + json.dumps({"prompt": " p ", "answer": " no\n"})
    (task,) = load(make(tmp_path, rows=rows)).tasks
    assert task.train[0] == Row(" p ", "no")
    assert len(task.train) == 14


BAD = [
    ('{"prompt": "a", "answer": }', "not JSON: Expecting value at column 27"),
    ("[1, 2]", "not an object but a list"),
    ("null", "not an object but null"),
    ('{"prompt": "a"}', "no field `answer`"),
    ('{"prompt": "a", "anser": "b"}', "no field `answer`; did you mean `anser`?"),
    ("{}", "no field `prompt`; the row is empty"),
    ('{"prompt": "", "answer": "b"}', "field `prompt` is empty"),
    ('{"prompt": "a", "answer": "  "}', "field `answer` is empty"),
    ('{"prompt": "a", "answer": 24}', "field `answer` is a number, not text"),
    ('{"prompt": "a", "answer": null}', "field `answer` is null, not text"),
    ('{"prompt": ["a"], "answer": "b"}', "field `prompt` is a list, not text"),
    ('{"prompt": "a", "answer": "b"', "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_named_with_file_and_line(line: str, reason: str, tmp_path: Path) -> None:
    folder = make(tmp_path)
    write(tmp_path / "odd/train.jsonl", [*ROWS[:3], line, *ROWS[3:14]])
    text = complaint(folder)
    assert f"{tmp_path}/odd/train.jsonl: 1 bad row\n  line 4: {reason}" in text


def test_all_bad_lines_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    folder = make(tmp_path)
    write(tmp_path / "odd/train.jsonl", [*ROWS[:3], *[line for line, _ in BAD], *ROWS[3:14]])
    write(tmp_path / "odd/test.jsonl", ["oops"] * 25)
    text = complaint(folder)
    for number, (_, reason) in enumerate(BAD, 4):
        assert f"line {number}: {reason}" in text
    assert f"{tmp_path}/odd/test.jsonl: 25 bad rows" in text
    assert "line 20: not JSON" in text and "and 5 more" in text
    assert text.count("not JSON") == 22
    assert "tasks.on_bad_rows=skip" in text


def test_bytes_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with (tmp_path / "odd/train.jsonl").open("ab") as file:
        file.write(b'{"prompt": "\xff", "answer": "no"}\n')
    assert "line 15: not UTF-8 (byte 13)" in complaint(folder)


def test_skipped_rows_are_counted_by_file(tmp_path: Path) -> None:
    folder = make(tmp_path)
    write(tmp_path / "odd/train.jsonl", [*ROWS[:3], *[line for line, _ in BAD], *ROWS[3:14]])
    loaded = load(folder, on_bad_rows="skip")
    assert loaded.skipped == {f"{tmp_path}/odd/train.jsonl": len(BAD)}
    assert loaded.notes == (f"{tmp_path}/odd/train.jsonl: {len(BAD)} bad rows skipped",)
    assert loaded.tasks == load(make(tmp_path / "clean")).tasks


def test_bad_csv_and_parquet_rows(tmp_path: Path) -> None:
    make(tmp_path, suffix=".csv")
    with (tmp_path / "odd/train.csv").open("a", encoding="utf-8") as file:
        file.write('only one cell\na,b,c\n"two\nlines",no\n,no\n\n\n\na row,b,c\n')
    text = complaint(tmp_path)
    # Each of the 14 rows before holds a line break inside quotes, so they end on line 29.
    for row in (
        "line 30: fewer cells",
        "line 31: more cells",
        "line 34: field `prompt` is empty",
        "line 38: more cells",
    ):
        assert row in text
    assert "line 32" not in text
    make(tmp_path / "p", suffix=".parquet", rows=[*ROWS[:5], {"prompt": None, "answer": "no"}, *ROWS[5:]])
    assert "row 6: field `prompt` is null, not text" in complaint(tmp_path / "p")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('"odd,yes\nb,no\n', "the row of line 5, read up to line 6: unexpected end of data"),
        (
            '"first line\nsecond "x line\nthird, yes\n"\nb,no\n',
            "the row of line 5, read up to line 6: ',' expected",
        ),
        ('"x"y,no\n', "the row of line 5: ',' expected after '\"'"),
        ('"odd,yes\nb,no\nc",\n"d,no\n', "the row of line 8: unexpected end of data"),
        (
            '"odd,yes\nb,no\nc"\nd,no\n',
            "the row of line 5, read up to line 7: fewer cells than the header has",
        ),
    ],
)
@pytest.mark.parametrize("bad", ["refuse", "skip"])
def test_broken_quotes_are_a_fault_of_the_file_with_their_line(
    tmp_path: Path, broken: str, said: str, bad: str
) -> None:
    make(tmp_path)
    (tmp_path / "odd/train.jsonl").unlink()
    (tmp_path / "odd/train.csv").write_text(f"prompt,answer\na,yes\n\n\n{broken}", encoding="utf-8")
    told = complaint(tmp_path, on_bad_rows=bad)
    assert "odd/train.csv cannot be read as CSV" in told and said in told
    assert "one cell for each column; quotes around whole cells" in told


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_told(tmp_path: Path, mark: str) -> None:
    make(tmp_path)
    (tmp_path / "odd/train.jsonl").unlink()
    (tmp_path / "odd/train.csv").write_text(f"prompt{mark}answer\na{mark}yes\n", encoding="utf-8")
    told = complaint(tmp_path)
    assert "is not separated by commas" in told and f"header `prompt{mark}answer`" in told


def test_files_that_cannot_be_read_as_a_whole(tmp_path: Path) -> None:
    make(tmp_path, suffix=".csv", rows=[{"prompt": "a", "reply": "b"}] * 20)
    assert "has no column `answer`. Got: prompt, reply" in complaint(tmp_path)
    make(tmp_path / "p", suffix=".parquet")
    (tmp_path / "p/odd/train.parquet").write_bytes(b"PAR1 nonsense")
    assert "is not Parquet" in complaint(tmp_path / "p")
    make(tmp_path / "c", suffix=".csv")
    (tmp_path / "c/odd/train.csv").write_bytes(b"prompt,answer\n\xff,no\n")
    assert "line 2: not UTF-8 (byte 1): 0xff" in complaint(tmp_path / "c")


def test_missing_and_doubled_splits(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "odd/test.jsonl").unlink()
    assert "The task `odd` has no test rows. Got: no test file" in complaint(tmp_path)
    write(tmp_path / "odd/test.jsonl", [])
    assert "The task `odd` has no test rows. Got: an empty file" in complaint(tmp_path)
    write(tmp_path / "odd/test.jsonl", ["oops"])
    assert "1 rows, all bad" in complaint(tmp_path, on_bad_rows="skip")
    write(tmp_path / "odd/test.jsonl", ROWS[14:])
    write(tmp_path / "odd/test.csv", ROWS[14:])
    assert "several test rows files. Got: test.jsonl, test.csv" in complaint(tmp_path)
    (tmp_path / "odd/train.jsonl").unlink()
    (tmp_path / "odd/test.csv").unlink()
    assert "The task `odd` has no train rows" in complaint(tmp_path)


def test_missing_folders_and_tasks(tmp_path: Path) -> None:
    assert "is not a folder" in complaint(tmp_path / "none")
    assert "There are no tasks" in complaint(tmp_path)
    make(tmp_path)
    assert (
        "There is no task `od`" in (text := complaint(tmp_path, names=("od",)))
        and "did you mean `odd`?" in text
    )
    (tmp_path / "notes").mkdir()
    assert "its folder has no train or test file" in complaint(tmp_path, names=("notes",))


def test_test_rows_that_are_trained_on_are_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "odd/test.jsonl", [ROWS[0], *ROWS[14:], ROWS[1]])
    loaded = load(tmp_path)
    assert loaded.leaked == {"odd": 2}
    assert [row.prompt for row in loaded.tasks[0].test] == [row["prompt"] for row in ROWS[14:]]
    write(tmp_path / "odd/test.jsonl", ROWS[:3])
    assert "no held-out rows" in complaint(tmp_path)


def test_the_three_sources_are_dispatched(tmp_path: Path) -> None:
    assert [task.name for task in load_tasks(load_config(None, ["tasks.train_rows=4"]))][:2] == [
        "topic",
        "review",
    ]
    for name in ("a", "b"):
        make(tmp_path, name)
    overrides = ["tasks.source=files", f"tasks.path={tmp_path}"]
    assert [task.name for task in load_tasks(load_config(None, overrides))] == ["a", "b"]
    with pytest.raises(InputError, match=r"3 for 2 tasks \(a, b\)"):
        read_tasks(load_config(None, [*overrides, "devices.tasks_per_device=3"]))


AGNEWS = ("Business", "Sci/Tech", "Sports", "World")
REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "tasks"  # beside the checkout


@pytest.mark.skipif(not REAL.is_dir(), reason="the real text tasks are not on this machine")
def test_the_real_text_tasks_load() -> None:
    tasks = {task.name: task for task in load(REAL).tasks}
    assert len(tasks["trec"].train) == 4000 and len(tasks["trec"].test) == 500
    assert tasks["trec"].choices is not None and len(tasks["trec"].choices) == 6
    assert tasks["agnews"].choices == AGNEWS
    assert tasks["gsm8k"].choices is None and tasks["mbpp"].choices is None


def test_a_template_does_not_write_nan(tmp_path: Path) -> None:
    make(tmp_path)
    rows = [json.dumps({"x": n / 2, "answer": "no"}) for n in range(6)]
    text = "\n".join([*rows, '{"x": NaN, "answer": "no"}', ""])
    for split in ("train", "test"):
        (tmp_path / f"odd/{split}.jsonl").write_text(text, encoding="utf-8")
    assert "line 7: field `x` is empty (NaN)" in complaint(tmp_path, template="value {x}")
