"""Files as people have them: formats, compression, encodings, doubled fields, joined fields, names of splits."""

from __future__ import annotations

import gzip
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
from dfl_ray.tasks.load import read_tasks

ROWS = [{"prompt": f"Is {n} odd?", "answer": "yes" if n % 2 else "no"} for n in range(20)]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: list[Any], head: str = "prompt,answer") -> str:
    return head + "\n" + "".join(f"{row['prompt']},{row['answer']}\n" for row in rows)


def put(folder: Path, name: str, data: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def task(tmp_path: Path, train: str, data: str | bytes) -> Path:
    """A folder with one task whose training file is given and whose test file is sound."""
    put(tmp_path / "odd", "test.jsonl", lines(ROWS[14:]))
    put(tmp_path / "odd", train, data)
    return tmp_path


def load(folder: Path, **keys: Any) -> Any:
    config = TasksConfig(source="files", path=str(folder), **keys)
    return with_used_rows(load_file_tasks(config), config)


def complaint(folder: Path, **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, **keys)
    return str(caught.value)


FORMATS = {
    "train.json": json.dumps(ROWS[:14], indent=1).encode(),
    "train.JSON": lines(ROWS[:14]).encode(),
    "train.jsonl.gz": gzip.compress(lines(ROWS[:14]).encode()),
    "train.json.gz": gzip.compress(json.dumps(ROWS[:14]).encode()),
    "train.csv.gz": gzip.compress(table(ROWS[:14]).encode()),
    "Train.JSONL": lines(ROWS[:14]).encode(),
    "TRAIN.CSV": b"\xef\xbb\xbf" + table(ROWS[:14]).encode(),
    "train.ndjson": lines(ROWS[:14]).encode(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    (found,) = load(task(tmp_path, name, FORMATS[name])).tasks
    assert found.train == tuple(Row(r["prompt"], r["answer"]) for r in ROWS[:14])


def test_bad_rows_of_an_array_have_their_lines(tmp_path: Path) -> None:
    text = '[\n{"prompt": "a", "answer": "b"},\n\n{"prompt": "a"}, 7,\n {"prompt": "", "answer": "b"}\n]\n'
    told = complaint(task(tmp_path, "train.json", text))
    assert "3 bad rows\n  line 4: no field `answer`" in told
    assert "line 4: not an object but a number\n  line 5: field `prompt` is empty" in told
    assert load(tmp_path, on_bad_rows="skip").skipped == {f"{tmp_path}/odd/train.json": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"prompt": "a",\n "answer": }]', "is not JSON. Got: line 2, column 12: Expecting value"),
        ('[{"prompt": "a", "answer": "b"}\n {"prompt": "c"}]', "line 2, column 2: Expecting `,` or `]`"),
        ('[{"prompt": "a", "answer": "b"}', "is not JSON. Got: line 1, column 32"),
        ("[] []", "Extra text behind the array"),
        ('{"version": 1,\n "data": []}', "is not an array of rows. Got: one object: version, data"),
        ('"text"', "is not an array of rows"),
    ],
)
def test_what_is_no_array_is_refused_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    folder = task(tmp_path, "train.json", text)
    assert said in complaint(folder) and "train.json" in complaint(folder, on_bad_rows="skip")


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(lines(ROWS[:14]).encode())
    assert "train.jsonl.gz cannot be read" in complaint(task(tmp_path, "train.jsonl.gz", whole[:40]))
    assert "train.jsonl.gz cannot be read" in complaint(task(tmp_path, "train.jsonl.gz", b"no archive"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.json", "train.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_named_with_its_file(name: str, encoding: str, tmp_path: Path) -> None:
    text = {"jsonl": lines(ROWS[:14]), "csv": table(ROWS[:14]), "json": json.dumps(ROWS[:14])}[
        name.split(".")[1]
    ]
    data = text.encode(encoding)
    folder = task(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    told = complaint(folder, on_bad_rows="skip")
    assert (
        f"odd/{name} is not UTF-8. Got: UTF-{encoding[4:6]}, by" in told
        and "line 1" in told
        and "iconv" in told
    )


def test_every_latin1_line_of_a_file_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} Stra\u00dfe", "answer": "ja"} if n in (2, 5) else ROWS[n] for n in range(14)]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("latin-1")
    told = complaint(task(tmp_path / "a", "train.jsonl", data))
    assert (
        "2 bad rows\n  line 3: not UTF-8 (byte 19): 0xdf, which is `\u00df` in Windows-1252\n  line 6:"
        in told
    )
    assert "iconv -f WINDOWS-1252" in told
    told = complaint(task(tmp_path / "b", "train.csv", table(rows).encode("latin-1")))
    assert (
        "2 bad rows\n  line 4: not UTF-8 (byte 7): 0xdf" in told and "in column `prompt`\n  line 7:" in told
    )
    assert len(load(tmp_path / "b", on_bad_rows="skip").tasks[0].train) == 12
    told = complaint(
        task(tmp_path / "c", "train.json", json.dumps(rows, ensure_ascii=False, indent=0).encode("latin-1"))
    )
    assert "train.json is not UTF-8. Got: line 11: not UTF-8 (byte 18)" in told
    told = complaint(task(tmp_path / "d", "train.csv", "prompt,answer,gr\u00f6\u00dfe\n".encode("latin-1")))
    assert "is not UTF-8. Got: line 1 (the header)" in told


def test_bytes_of_parquet_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    put(tmp_path / "odd", "test.jsonl", lines(ROWS[14:]))
    raw = pa.array([b"good", b"Stra\xdfe"] * 3, pa.binary())
    broken = pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"prompt": broken, "answer": ["a"] * 6}), tmp_path / "odd/train.parquet")
    assert "3 bad rows\n  row 2: not UTF-8 (byte 5): 0xdf" in complaint(tmp_path)
    pq.write_table(pa.table({"prompt": raw, "answer": ["a"] * 6}), tmp_path / "odd/train.parquet")
    assert "row 1: field `prompt` is bytes, not text" in complaint(tmp_path)


@pytest.mark.parametrize("half", ["\\ud83d", "\\udce9", "a\\ude00"])
def test_half_a_character_is_a_bad_row_everywhere(half: str, tmp_path: Path) -> None:
    bad = f'{{"prompt": "Say {half}", "answer": "b"}}\n{{"prompt": "Say", "answer": "{half}"}}\n'
    folder = task(tmp_path, "train.jsonl", lines(ROWS[:14]) + bad)
    told = complaint(folder)
    assert f"line 15: field `prompt` holds half a character, {half[-6:]}" in told
    assert "line 16: field `answer` holds half a character" in told
    loaded = load(folder, on_bad_rows="skip")
    assert loaded.skipped == {f"{tmp_path}/odd/train.jsonl": 2} and len(loaded.tasks[0].train) == 14


def test_a_whole_character_of_two_halves_is_text(tmp_path: Path) -> None:
    line = '{"prompt": "Say \\ud83d\\ude00", "answer": "b"}\n'
    assert load(task(tmp_path, "train.jsonl", line)).tasks[0].train == (Row("Say \U0001f600", "b"),)


def test_doubled_columns_are_refused_where_they_are_used(tmp_path: Path) -> None:
    text = "prompt,answer,answer,note,note\n" + "a,b,c,d,e\n" * 3
    assert "2 columns named `answer`. Got: prompt, answer, answer" in complaint(
        task(tmp_path / "a", "train.csv", text)
    )
    (found,) = load(task(tmp_path / "b", "train.csv", text.replace("answer,answer", "answer,other"))).tasks
    assert found.train[0] == Row("a", "b")
    column = pa.array(["x"] * 3)
    put(tmp_path / "c" / "odd", "test.jsonl", lines(ROWS[14:]))
    doubled = pa.table([column, column, column], names=["prompt", "answer", "answer"])
    pq.write_table(doubled, tmp_path / "c/odd/train.parquet")
    assert "2 columns named `answer`" in complaint(tmp_path / "c")
    line = '{"prompt": "a", "answer": "b", "answer": "c", "x": 1, "x": 2}\n'
    assert "line 1: field `answer` stands in it twice" in complaint(task(tmp_path / "d", "train.jsonl", line))
    line = '{"prompt": "a", "answer": "b", "x": 1, "x": 2}\n'
    assert load(task(tmp_path / "e", "train.jsonl", line)).tasks[0].train == (Row("a", "b"),)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json"])
def test_a_template_joins_fields(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Add {n}.", "input": "" if n == 1 else f"{n} + 1", "output": str(n + 1)}
        for n in range(9)
    ]
    for split in ("train", "test"):
        part = rows[:6] if split == "train" else rows[6:]
        if suffix == ".parquet":
            (tmp_path / "sum").mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(part), tmp_path / f"sum/{split}.parquet")
        elif suffix == ".csv":
            text = "instruction,input,output\n" + "".join(",".join(row.values()) + "\n" for row in part)
            put(tmp_path / "sum", f"{split}.csv", text)
        else:
            put(tmp_path / "sum", split + suffix, json.dumps(part) if suffix == ".json" else lines(part))
    (found,) = load(tmp_path, template="{instruction}\n{input}", answer_field="output").tasks
    assert found.train[0] == Row("Add 0.\n0 + 1", "1") and found.train[1] == Row("Add 1.\n", "2")
    assert found.test[2] == Row("Add 8.\n8 + 1", "9")


def test_a_template_says_what_a_row_lacks(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Do", "inputs": "x", "answer": "y"},
        {"instruction": "Do", "input": None, "answer": "y"},
        {"instruction": "Do", "input": ["x"], "answer": "y"},
        {"instruction": " ", "input": "", "answer": "y"},
        {"instruction": "Do", "input": 7, "answer": "y"},
    ]
    put(tmp_path / "t", "test.jsonl", lines([{"instruction": "Do", "input": "z", "answer": "y"}]))
    put(tmp_path / "t", "train.jsonl", lines(rows))
    told = complaint(tmp_path, template="{instruction} {input}")
    for words in (
        "line 1: no field `input`; did you mean `inputs`?",
        "line 2: field `input` is null, neither text nor a number",
        "line 3: field `input` is a list",
        "line 4: `tasks.template` gives an empty prompt",
    ):
        assert words in told
    assert "line 5" not in told
    (found,) = load(tmp_path, template="{instruction} {input}", on_bad_rows="skip").tasks
    assert found.train == (Row("Do 7", "y"),)


def test_a_format_that_a_value_does_not_take_makes_a_bad_row(tmp_path: Path) -> None:
    rows = [{"prompt": 7, "answer": "y"}, {"prompt": "seven", "answer": "y"}, {"prompt": 7.5, "answer": "y"}]
    put(tmp_path / "t", "test.jsonl", lines([{"prompt": 8, "answer": "y"}]))
    put(tmp_path / "t", "train.jsonl", lines(rows))
    told = complaint(tmp_path, template="{prompt:d}")
    assert "line 2: `tasks.template` cannot write it: Unknown format code 'd'" in told and "line 3" in told
    assert "line 1" not in told
    (found,) = load(tmp_path, template="{prompt:03d}", on_bad_rows="skip").tasks
    assert found.train == (Row("007", "y"),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tasks.template='{a'"], "`template` is not a format string"),
        (["tasks.template='{0} {a}'"], "`template` must name fields in braces"),
        (["tasks.template='no field'"], "`template` must name fields in braces"),
        (["tasks.template='{a!z}'"], "`template` knows the conversions !s, !r and !a, got `!z`"),
        (["tasks.template='{a:{b}}'"], "`template` must give a field's format itself"),
        (["tasks.fields={x: {template: '{a:{b}}'}}"], "`template` must give a field's format itself"),
        (["tasks.template='{a}'", "tasks.prompt_field=b"], "either `template` or `prompt_field`"),
        (["tasks.template='{a}'", "tasks.source=synthetic"], "`source: files` only"),
        (["tasks.score={odd: chance}"], "`tasks.score.odd` has a wrong value"),
        (
            ["tasks.score=choice"],
            "`tasks.score`: name the tasks, {trec: choice}, or set `evaluate.score: choice`",
        ),
    ],
)
def test_keys_that_cannot_be_meant_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [f"tasks.path={tmp_path}", "tasks.source=files", *words])
    assert said in str(caught.value)


@pytest.mark.parametrize("other", ["validation.jsonl", "dev.json", "test_v2.csv", "Valid.JSONL.gz"])
def test_a_missing_split_names_the_file_that_is_there(other: str, tmp_path: Path) -> None:
    put(tmp_path / "odd", "train.jsonl", lines(ROWS))
    put(tmp_path / "odd", other, b"")
    suffix = other[other.index(".") :]
    told = complaint(tmp_path)
    assert f"no test file in {tmp_path}/odd, but {', '.join(sorted([other, 'train.jsonl']))}" in told
    assert f"If `{other}` holds them, call it `test{suffix}`" in told


def test_folders_whose_files_are_not_read_are_told(tmp_path: Path) -> None:
    put(tmp_path / "prose", "train.txt", "text")
    put(tmp_path / "prose", "validation.jsonl", lines(ROWS))
    assert "Got: prose: train.txt, validation.jsonl." in complaint(tmp_path)
    (tmp_path / "empty").mkdir()
    loaded = load(task(tmp_path, "train.jsonl", lines(ROWS[:14])))
    assert [t.name for t in loaded.tasks] == ["odd"]
    assert loaded.notes == (
        f"{tmp_path}/prose passed over: no train or test file, but train.txt, validation.jsonl",
    )
    told = complaint(tmp_path, names=("prose",))
    assert "no train or test file" in told and "train.txt" in told


@pytest.mark.parametrize("name", ["yes, no", "a\tb", " a", ".hidden/x"])
def test_a_task_name_that_would_break_a_table_is_refused(name: str, tmp_path: Path) -> None:
    put(tmp_path / name, "train.jsonl", lines(ROWS[:14]))
    put(tmp_path / name, "test.jsonl", lines(ROWS[14:]))
    overrides = ["tasks.source=files", f"tasks.path={tmp_path}", f"tasks.names=[{json.dumps(name)}]"]
    config = load_config(None, [*overrides, "devices.tasks_per_device=1"])
    with pytest.raises(
        InputError, match=r"cannot be used in the records|There is no task|There are no tasks"
    ):
        read_tasks(config)


def test_overlap_is_seen_behind_blanks_and_unicode_forms(tmp_path: Path) -> None:
    put(tmp_path / "a", "train.jsonl", lines([{"prompt": "Caf\u00e9 or tea?", "answer": "x"}, *ROWS[:14]]))
    hidden = ["Cafe\u0301 or tea?", "Caf\u00e9 or tea? ", "\nCaf\u00e9  or\ttea?"]
    kept = {"prompt": "CAF\u00c9 or tea?", "answer": "x"}
    put(
        tmp_path / "a",
        "test.jsonl",
        lines([*({"prompt": p, "answer": "x"} for p in hidden), kept, *ROWS[14:]]),
    )
    loaded = load(tmp_path)
    assert loaded.leaked == {"a": 3}
    assert [row.prompt for row in loaded.tasks[0].test[:2]] == [kept["prompt"], ROWS[14]["prompt"]]
    assert "task a: 1 test prompts differ from training prompts only in case" in loaded.notes
