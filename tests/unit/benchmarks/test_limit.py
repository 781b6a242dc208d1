"""The share of the limit: what is counted, how rounds are summed up, and programs that wait between rounds."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import limit, peer_work
from benchmarks.gpu_work import Work, step_operations
from benchmarks.overhead import Paced
from dfl_ray.config.load import load_config
from dfl_ray.models.paths import embedded_path
from dfl_ray.simulation.experiment import build_experiment

ROUNDS = [
    {"driver": 2.0, "PEFT in turn": 4.0, "rate": 100.0},
    {"driver": 1.0, "PEFT in turn": 5.0, "rate": 40.0},
    {"driver": 4.0, "PEFT in turn": 8.0, "rate": 50.0},
]


def test_shares_and_times_are_medians_of_each_rounds_own():
    found = limit.summed_up("tiny", 260_000, needed=5.0, rounds=ROUNDS, steps=10)
    assert found["share"] == {"driver": 0.25, "PEFT in turn": 0.125}  # 50 operations of 200, 40, 200
    assert found["times"] == {"PEFT in turn": 2.0}
    assert found["limit_steps_per_s"] == 10.0
    shown = limit.lines([found])
    assert shown[-2:] == [
        "tiny: 0.25 of the limit (0.85 missed)", "tiny: 2.00 times PEFT in turn (3 missed)",
    ]  # fmt: skip


@pytest.mark.parametrize(("parameters", "goal"), [(260_032, 0.85), (15_200_000, 0.6), (134_500_000, 0.5)])
def test_each_size_has_its_goal(parameters, goal):
    assert limit.summed_up("any", parameters, 1.0, ROUNDS, 1)["goal"] == goal


def test_operations_are_those_of_every_row_by_itself():
    words = (
        "devices.count=2", "devices.partition=one_each", "devices.min_holders=1", "method=dlora",
        "tasks.names=[topic]", "tasks.train_rows=40", "tasks.test_rows=10", f"model.name={embedded_path()}",
    )  # fmt: skip
    found, parameters = limit.operations(words, 8)
    setup = build_experiment(load_config(None, [*words, "track.wandb.mode=disabled"])).setup
    rows, shape = setup.tasks[0].train, setup.weights.decoder
    works = [
        Work(shape, 1, 1, len(rows.row(k)) - 1, len(rows.answer(k)), limit.RANK, torch.float32, "cpu")
        for k in range(len(rows))
    ]
    each = [sum(step_operations(work, trains_a=True).values()) for work in works]
    assert found == pytest.approx(8 * sum(each) / len(each))
    assert parameters == setup.weights.parameters > 0


def test_a_paced_program_is_heard_round_by_round(tmp_path):
    script = tmp_path / "rounds.py"
    script.write_text(
        "import json, sys\n"
        "for number in (1, 2):\n"
        "    print('noise'); print(json.dumps({'wall_s': number}), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    program = Paced([sys.executable, str(script)])
    assert [program.row(), program.row()] == [{"wall_s": 1}, {"wall_s": 2}]
    with pytest.raises(RuntimeError, match=r"rounds\.py ended early"):
        program.row()
    program.close()


def test_peers_arguments_are_what_their_scripts_take():
    words = ["--model", "m", "--rows-file", "r", "--devices", "2", "--rounds", "3", "--steps", "1", "--batch", "4",
             "--length", "9", "--rank", "2", "--cpus", "1", "--paced"]  # fmt: skip
    given = peer_work.options(None, words)
    assert (given.rows_file, given.length, given.paced) == ("r", 9, True)
