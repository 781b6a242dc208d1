"""What an interactive bash offers at the press of TAB, in a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.cli.completion_words import TAKES, all_words

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
END = "<end>"


class Shell:
    """A bash in a terminal, in which the program's name is a function that prints the words it is given."""

    def __init__(self, folder: Path, script: Path) -> None:
        self.mine, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "HOME": str(folder), "INPUTRC": "/dev/null", "PS1": ""}
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], stdin=terminal, stdout=terminal, stderr=terminal,
            cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        self.type(f"bind 'set bell-style none'; source {script}\n")
        self.type("dfl-ray() { printf '[%s]' \"$@\"; echo '<'end'>'; }\n")
        self.words("presets")

    def type(self, text: str) -> None:
        os.write(self.mine, text.encode())

    def words(self, line: str) -> list[str]:
        """The words of the command once TAB has been pressed behind a line, and what is typed behind that."""
        self.type(f"dfl-ray {line}\n")
        seen, until = "", time.monotonic() + 30
        while END not in seen:
            assert time.monotonic() < until, seen
            if select.select([self.mine], [], [], 0.2)[0]:
                seen += os.read(self.mine, 65_536).decode(errors="replace")
        told = seen[: seen.index(END)].replace("\r", "").split("\n")[-1]
        return told[told.index("[") + 1 : -1].split("][")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.mine)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("home")
    script = folder / "script.bash"
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: told.append(text))
        assert main(["completion", "bash"]) == 0
    script.write_text("\n".join(told))
    for name in ("runs/one", "my data", "umbrella"):
        (folder / name).mkdir(parents=True)
    (folder / "rows.csv").touch()
    shell = Shell(folder, script)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("run devices.cou\t5", ["run", "devices.count=5"]),
        ("run seed=1 method=hetl\trounds=2", ["run", "seed=1", "method=hetlora", "rounds=2"]),
        ("run radio.path_loss=v2x_u\t", ["run", "radio.path_loss=v2x_urban"]),
        ("run radio.path_loss=um\t", ["run", "radio.path_loss=um"]),
        ("run runtime.report=fa\t", ["run", "runtime.report=false"]),
        ("run devices.count=u\t", ["run", "devices.count=u"]),
        ("run tasks.path=my\t", ["run", "tasks.path=my data/"]),
        ("run devices.classes=ro\t", ["run", "devices.classes=rows.csv"]),
        ("plan real-t\trounds=2", ["plan", "real-text", "rounds=2"]),
        ("plan ro\t", ["plan", "ro"]),
        ("sweep seeds\t5", ["sweep", "seeds=5"]),
        ("resume ru\ton\t roun\t5", ["resume", "runs/one/", "rounds=5"]),
        ("resume runs/one method.ra\t", ["resume", "runs/one", "method.ra"]),
        ("resume runs/one method=dec\t", ["resume", "runs/one", "method=dec"]),
        ("resume runs/one evaluate.sc\trou\t", ["resume", "runs/one", "evaluate.score=rouge_l"]),
        ("replan runs/one radio.scheduler=tdm\t", ["replan", "runs/one", "radio.scheduler=tdma"]),
        ("replan runs/one rou\t", ["replan", "runs/one", "rou"]),
        ("evaluate runs/one evaluate.ev\t", ["evaluate", "runs/one", "evaluate.ev"]),
        ("export runs/one out tasks.pa\tmy\t", ["export", "runs/one", "out", "tasks.path=my data/"]),
        ("plot runs/one device_ma\t-o x.pdf", ["plot", "runs/one", "device_map", "-o", "x.pdf"]),
        ("plot ru\tone co\t", ["plot", "runs/one", "costs"]),
        ("run --resu\tname=a", ["run", "--resume", "name=a"]),
    ],
)
def test_what_tab_makes_of_a_line(shell: Shell, typed: str, words: list[str]):
    assert shell.words(typed) == words


def test_every_key_that_a_command_offers_is_one_of_the_schema():
    words = all_words()
    for takes in TAKES.values():
        assert 0 < sum(map(takes, words.keys)) < len(words.keys)
    assert "method=dlora" in words.values and "runtime.report=true" in words.values
    assert {"tasks.path", "devices.classes", "runtime.runs_dir"} <= set(words.places)
    assert not any(value.startswith("track.trackers") for value in words.values)
