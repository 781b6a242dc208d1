"""Text for narrow terminals: no line is longer than it need be, and no word is cut or lost."""

from __future__ import annotations

import shlex

import pytest

from dfl_ray.cli import main
from dfl_ray.cli.parser import _COMMANDS
from dfl_ray.cli.plans import table_lines
from dfl_ray.errors import nearest
from dfl_ray.tracking.terminal import broken, named, prose, table


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", ["", *(command.name for command in _COMMANDS)])
def test_no_help_is_wider_than_the_terminal_and_none_loses_a_word(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: dict[int, str] = {}
    for columns in (width, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main([*([command] if command else []), "--help"]) == 0
        shown[columns] = capsys.readouterr().out
    # A word that is longer than the line, such as an override, stays whole.
    assert all(len(line) <= width or len(line.split()) <= 2 for line in shown[width].splitlines())
    narrow, wide = (text.replace(" \\\n", " ").split() for text in (shown[width], shown[1000]))
    assert narrow == wide


def test_an_example_that_is_broken_is_the_same_command_for_a_shell() -> None:
    line = "  dfl-ray run real-text model.name=PATH 'tasks.names=[trec,sst2]' tasks.path=PATH"
    text = prose(f"examples:\n{line}", 40)
    assert text.count("\\\n") >= 1 and all(len(part) <= 40 for part in text.splitlines())
    assert shlex.split(text.partition("\n")[2].replace("\\\n", "")) == shlex.split(line)


def test_figures_stay_beside_their_units_and_long_words_stay_whole() -> None:
    path = "runs/" + "x" * 90
    lines = broken(
        f"start-up takes about 13 s, 5.5 s of it actors, 12 % more and 20 dBm {path}", 30, rest="  "
    )
    assert " ".join(line.strip() for line in lines).count(path) == 1
    assert all(len(line) <= 30 or path in line for line in lines)
    assert not any(line.strip().split()[0] in ("s,", "s", "%", "dBm") for line in lines)


def test_a_table_that_is_too_wide_is_a_list_with_all_its_cells() -> None:
    rows = [("", "devices", "energy"), ("indoor", "20", "3.1 J"), ("wifi", "5", "10 J")]
    assert table(rows, 40) == [
        "        devices  energy",
        "indoor       20   3.1 J",
        "wifi          5    10 J",
    ]
    assert table(rows, 22) == [
        "indoor", "  devices  20", "  energy   3.1 J", "wifi", "  devices  5", "  energy   10 J",
    ]  # fmt: skip
    assert named([("a-long-name", "said of it")], 20) == ["a-long-name", "    said of it"]


def test_plans_are_compared_in_a_list_at_sixty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {
        "payload_bytes": 2e6, "airtime_s": 0.2, "simulated_s": 0.5, "energy_j": 18.0, "radio_energy_j": 1.0,
        "delivered_fraction": 1.0,
    }  # fmt: skip
    one = {
        "configuration": "nr-sidelink",
        "devices": 20,
        "planned_rounds": 2,
        "rounds": 2,
        "run": figures,
        "on_nodes": [],
    }
    plans = [{**one, "memory": {"peak_mb": 889.0}}] * 2
    monkeypatch.setenv("COLUMNS", "250")
    assert len(table_lines(plans)) == 3
    monkeypatch.setenv("COLUMNS", "60")
    lines = table_lines(plans)
    assert max(map(len, lines)) <= 60 and "  of it radio   1 J" in lines


def test_a_word_that_is_far_from_all_is_answered_with_all() -> None:
    known = ["routing", "loss", "accuracy_over_bytes", "accuracy_over_rounds", "rate"]
    assert nearest("nofig", known).startswith("known: ") and "routing" in nearest("nofig", known)
    assert nearest("rooting", known) == "did you mean `routing`?"
    assert nearest("Loss", known) == "did you mean `loss`?"
    assert nearest("FedAvg", ["fedsa", "fedavg_star"]) == "did you mean `fedavg_star`?"
    assert nearest("accuracy", known) == "did you mean `accuracy_over_bytes` or `accuracy_over_rounds`?"
