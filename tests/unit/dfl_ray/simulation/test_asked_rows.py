"""What an evaluation costs in a plan: all rows that are asked, and every token that is generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.devices.rules import inference_rule
from dfl_ray.errors import InputError
from dfl_ray.experts.table import RULES, WEIGHED
from dfl_ray.simulation.asked_rows import AskedRows, asked_tokens
from dfl_ray.simulation.dry_run import outline
from dfl_ray.simulation.estimate import machine_figures, plan, plan_lines
from dfl_ray.simulation.experiment import token_tasks
from dfl_ray.tasks.load import read_tasks

SMALL = [
    "devices.count=6",
    "devices.partition.min_holders=1",
    "rounds=2",
    "tasks.train_rows=40",
    "tasks.test_rows=12",
    "runtime.backend=local",
]
GENERATED = ["evaluate.score=rouge_l", "evaluate.max_new_tokens=9"]
HUB = ["paper-qwen2.5-1.5b", ["rounds=1"]]


def figures_of(*words: str):
    return machine_figures(outline(load_config(None, [*SMALL, *words])))


def test_a_generated_answer_takes_its_new_tokens_or_whole_rows():
    row = AskedRows(5, 20.0, 7)
    assert row.row_tokens(cached=True) == 20 + 6  # the last token is never fed in
    assert row.row_tokens(cached=False) == sum(20 + said for said in range(7))
    assert asked_tokens([row, AskedRows(3, 10.0)], cached=True) == 5 * 26 + 3 * 10
    assert asked_tokens([row, AskedRows(None, 10.0)], cached=True) is None


def test_generation_is_counted_by_prompts_and_new_tokens():
    config = load_config(None, [*SMALL, *GENERATED, "method=dlora"])
    run = outline(config)
    tasks = token_tasks(config, read_tasks(config).tasks)
    prompts = np.concatenate([t.test.answer_start for t in tasks]).astype(float)
    assert run.base_tokens == run.evaluation_tokens == pytest.approx((prompts + 8).sum())
    elsewhere = replace(run, targets=replace(run.targets, shape=None))
    assert elsewhere.base_tokens == pytest.approx((9 * prompts + 36).sum())
    one, other = machine_figures(run), machine_figures(elsewhere)
    assert other["evaluation_s"] / one["evaluation_s"] == pytest.approx(
        (9 * prompts + 36).sum() / (prompts + 8).sum()
    )
    assert one["evaluation_s"] == pytest.approx(
        2 * run.targets.parameters * (prompts + 8).sum() / 15e9 * 6 / one["cpus"]
    )


def test_rules_that_weigh_experts_generate_with_whole_rows():
    usual, soft = (outline(load_config(None, [*SMALL, *GENERATED, *words])) for words in
                   ([], ["method.rule=likelihood_soft"]))  # fmt: skip
    elsewhere = replace(usual, targets=replace(usual.targets, shape=None))
    assert soft.base_tokens == usual.base_tokens == usual.evaluation_tokens
    assert soft.evaluation_tokens == elsewhere.evaluation_tokens
    times = round(soft.evaluation_tokens / usual.evaluation_tokens)
    assert any("`likelihood_soft` weighs" in n and f"takes {times} times" in n for n in usual.notes)
    assert not any("weighs experts" in note for note in soft.notes)


def test_rules_that_weigh_are_those_that_make_a_gate():
    merges = {name: inference_rule(name).merge for name in RULES.own}
    gated = {
        n for n, merge in merges.items() if merge and {"soft_gate", "arrow_gate"} & {*merge.__code__.co_names}
    }
    assert gated == set(WEIGHED)


def test_all_rows_are_counted_where_all_are_asked():
    whole, many, few = (figures_of(f"evaluate.rows_per_task={n}")["evaluation_s"] for n in ("null", 500, 3))
    assert whole == many == pytest.approx(4 * few) and few > 0


def test_labels_stand_behind_one_prompt():
    config = load_config(
        None,
        [
            *SMALL,
            "tasks.names=[topic]",
            "devices.partition.tasks_per_device=1",
            "method=dlora",
            "evaluate.score=choice",
        ],
    )
    (task,) = token_tasks(config, read_tasks(config).tasks)
    behind = sum(len(choice) - 1 for choice in task.choices or ())
    assert behind and outline(config).base_tokens == pytest.approx((task.test.answer_start + behind).sum())


def test_hub_rows_are_counted_by_the_cap_or_said_to_be_unknown():
    few, all_rows, unknown = (
        plan(load_config(HUB[0], [*HUB[1], f"evaluate.rows_per_task={asked}", f"tasks.test_rows={there}"]))
        for asked, there in ((64, 500), ("null", 500), ("null", "null"))
    )
    for one, whole, none in zip(*(f["on_gpus"] for f in (few, all_rows, unknown)), strict=True):
        assert whole["evaluation_s"] == pytest.approx(one["evaluation_s"] * 500 / 64)
        assert none["evaluation_s"] is None and none["run_s"] < one["run_s"] < whole["run_s"]
    assert not any("not known" in note for note in all_rows["notes"])
    assert any("how many hub data have is not known" in note for note in unknown["notes"])
    assert "evaluations not counted" in dict(plan_lines(unknown))["on 1 GPU"]
    here = plan(load_config(HUB[0], [*HUB[1], "runtime.gpus_per_actor=0", "evaluate.rows_per_task=null",
                                     "tasks.test_rows=null"]))  # fmt: skip
    assert here["evaluation_s"] is None and dict(plan_lines(here))["evaluation here"].startswith(
        "not counted"
    )


def test_hub_answers_that_leave_no_room_are_refused_as_by_a_run():
    words = ["evaluate.score=f1", "model.max_tokens=64"]
    (row, *_) = outline(load_config(HUB[0], [*words, "evaluate.max_new_tokens=24"])).asked
    assert row == AskedRows(64, 40.0, 24)
    with pytest.raises(InputError, match="leave no room for a prompt"):
        outline(load_config(HUB[0], [*words, "evaluate.max_new_tokens=64"]))


def test_rows_counted_by_their_characters_are_counted_alike(tmp_path):
    folder = tmp_path / "tasks" / "one"
    folder.mkdir(parents=True)
    for split, count in (("train", 20), ("test", 6)):
        rows = [
            f'{{"prompt": "{split} {n:03d} {"x" * 30}", "answer": "{"ab"[n % 2] * 8}"}}' for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    words = ["model.name=Qwen/Qwen2.5-0.5B", "tasks.source=files", f"tasks.path={tmp_path / 'tasks'}", "rounds=1",
             "method=dlora", "devices.count=3", "devices.partition.tasks_per_device=1"]  # fmt: skip
    (plain,), (free,) = (outline(load_config(None, [*words, *more])).asked for more in ([], GENERATED))
    assert plain == AskedRows(6, 47 / 4) and free == AskedRows(6, 39 / 4, 9)
