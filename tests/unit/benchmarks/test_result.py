"""What the benchmarks print with `--json` is of one form."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks import topologies
from benchmarks.result import with_origin

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
SCHEMA = json.loads((FOLDER / "result.schema.json").read_text())


def check(result: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(result)))


def test_figures_stand_beside_what_they_were_measured_with() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = with_origin({"accuracy": 0.5, "machine": {"gpu": "x"}}, seeds=3)
    check(found)
    assert (found["seeds"], found["machine"], found["accuracy"]) == (3, {"gpu": "x"}, 0.5)
    assert (
        found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
        and "torch" in found["versions"]
    )
    for wrong in ({**found, "seeds": []}, {**found, "commit": "main"}, {**found, "schema": "other/1"}):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong)
    with pytest.raises(jsonschema.ValidationError):
        check(with_origin({}))  # no figure


def test_a_benchmark_prints_it_as_the_last_line(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["topologies.py", "--drops", "1", "--devices", "12", "--side", "200", "--tasks", "2", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    topologies.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    check(found)
    assert found["command"] == words and found["seeds"] == 1 and found["rows"]


def test_every_benchmark_that_knows_the_flag_prints_it() -> None:
    """`methods.told` prints the form; the others print it themselves."""
    told = re.compile(r"(json\.dumps\(\s*(plain\()?|out = )with_origin\(|\btold\(")
    for path in sorted(FOLDER.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if '"--json", action="store_true"' in text:
            assert told.search(text), path.name
