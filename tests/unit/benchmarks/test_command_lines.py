"""The scripts of benchmarks/ say what they take, and refuse what they do not know, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import radio_against, sidelink_mode4, timed_run

FOLDER = Path(timed_run.__file__).parent
SCRIPTS = [
    p for p in sorted(FOLDER.rglob("*.py")) if '__name__ == "__main__"' in p.read_text(encoding="utf-8")
]


def test_every_script_reads_its_arguments() -> None:
    assert len(SCRIPTS) > 40
    assert [p.name for p in SCRIPTS if "argparse" not in p.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("script", [radio_against, sidelink_mode4, timed_run])
def test_help_and_unknown_options_start_nothing(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--help"], 0), (["--nonsense"], 2)):
        with pytest.raises(SystemExit) as stop:
            script.main(words)
        assert stop.value.code == code
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["method.rnak=2"], ["no-such-preset"], ["runtime.backend=local", "rounds=none"]]
)
def test_a_wrong_configuration_is_told_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert timed_run.main(["--paced", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("timed_run: ") and err.count("\n") == 1
