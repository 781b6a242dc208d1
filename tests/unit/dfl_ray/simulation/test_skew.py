"""Uneven data: which rows each holder of a task gets, and the presets that ask for it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dfl_ray.config.load import from_data, load_config
from dfl_ray.config.presets import preset_names
from dfl_ray.config.settings import skew_notes
from dfl_ray.errors import InputError
from dfl_ray.simulation.dealing import deal_rows
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.skew import answer_labels
from tests.conftest import small_config
from topology import row_partition

MIXTURE = np.array([[1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1]])


def dealt(tasks, *words, seed=0, mixture=MIXTURE):
    return deal_rows(load_config(None, [*words, f"seed={seed}"]), tasks, mixture)


def parts(found, task):
    """Holder -> its rows of the task."""
    return {d: found.rows[d][ts.index(task)] for d, ts in found.held.items() if task in ts}


def text_of(rows, index):
    return rows.answer(index).tobytes()


def test_answers_are_numbered_by_what_they_say(token_tasks):
    rows = token_tasks[0].train
    labels = answer_labels(rows)
    assert len(set(labels.tolist())) > 2
    for i in range(0, len(rows), 7):
        for j in range(0, len(rows), 11):
            assert (labels[i] == labels[j]) == (text_of(rows, i) == text_of(rows, j))


@pytest.mark.parametrize("words", [(), ("devices.skew=label_dirichlet",), ("devices.skew=length",)])
def test_every_row_is_dealt_once_and_to_holders_only(token_tasks, words):
    for task in (0, 1):
        mine = parts(dealt(token_tasks, *words), task)
        assert sorted(mine) == [d for d in range(4) if MIXTURE[d, task] > 0]
        rows = np.concatenate(list(mine.values()))
        assert sorted(rows.tolist()) == list(range(len(token_tasks[task].train)))
        assert all((np.diff(part) > 0).all() for part in mine.values())


def spread_of(tasks, found, task):
    """Mean total variation distance between a holder's answers and all answers of the task."""
    labels = answer_labels(tasks[task].train)
    kinds = labels.max() + 1
    whole = np.bincount(labels, minlength=kinds) / len(labels)
    shares = [np.bincount(labels[p], minlength=kinds) / len(p) for p in parts(found, task).values()]
    return float(np.mean([np.abs(s - whole).sum() / 2 for s in shares]))


def test_a_smaller_alpha_and_shards_are_more_uneven_than_an_even_deal(token_tasks):
    def mean(*words):
        return np.mean([spread_of(token_tasks, dealt(token_tasks, *words, seed=s), 0) for s in range(8)])

    even = mean()
    mild = mean("devices.skew=label_dirichlet", "devices.skew_alpha=20")
    strong = mean("devices.skew=label_dirichlet", "devices.skew_alpha=0.2")
    assert even < 0.25 and mild < strong and strong > 0.4
    assert mean("devices.skew=label_shards", "devices.shards_per_device=1") > 0.4


def test_label_dirichlet_and_shards_are_the_fields_own_deals(token_tasks):
    labels = answer_labels(token_tasks[1].train)
    mine = parts(dealt(token_tasks, "devices.skew=label_shards", "devices.shards_per_device=2"), 1)
    size = len(labels) // 6
    for rows in mine.values():
        assert len(rows) == 2 * size
    some = row_partition.shards(labels, 3, shards_per_device=2, seed=5)
    assert sorted(len(p) for p in some) == sorted(len(p) for p in mine.values())


def test_features_are_shifted_by_the_length_of_prompts(token_tasks):
    lengths = token_tasks[0].train.answer_start
    mine = parts(dealt(token_tasks, "devices.skew=length"), 0)
    ranges = sorted((lengths[p].min(), lengths[p].max()) for p in mine.values())
    assert all(one[1] <= two[0] for one, two in pairwise(ranges))


def test_the_same_seed_deals_the_same_and_another_one_does_not(token_tasks):
    one, two, three = (dealt(token_tasks, "devices.skew=label_dirichlet", seed=s) for s in (1, 1, 2))
    same = [np.array_equal(parts(one, 0)[d], parts(two, 0)[d]) for d in (0, 1, 2)]
    assert all(same)
    assert any(not np.array_equal(parts(one, 0)[d], parts(three, 0)[d]) for d in (0, 1, 2))


def test_what_cannot_be_dealt_or_contradicts_is_refused(token_tasks):
    with pytest.raises(InputError, match=r"`devices.skew: label_shards`, task `topic`") as caught:
        dealt(token_tasks, "devices.skew=label_shards", "devices.shards_per_device=500")
    assert "too few rows for `devices.shards_per_device` 500. Got: 1500 shards of 3 holders" in str(
        caught.value
    )
    assert "Lower `devices.shards_per_device` or `devices.count`" in str(caught.value)
    with pytest.raises(InputError, match=r"`devices.skew: label_dirichlet`, task `topic`") as caught:
        dealt(
            token_tasks,
            "devices.skew=label_dirichlet",
            "devices.skew_alpha=1e-3",
            mixture=np.full((60, 2), 0.5),
        )
    assert "Raise `devices.skew_alpha`, lower `devices.count`" in str(caught.value)
    assert "lower least" not in str(caught.value)
    with pytest.raises(InputError, match="says itself how many rows"):
        load_config(None, ["devices.skew=length", "devices.sizes=lognormal"])


def test_the_presets_of_uneven_data_say_what_their_names_say():
    names = [name for name in preset_names() if name.startswith("skew-")]
    assert names == [
        "skew-features",
        "skew-labels",
        "skew-one-task",
        "skew-quantity",
        "skew-shards",
        "skew-tasks",
    ]
    got = {name: load_config(name).devices for name in names}
    assert [got[n].skew for n in names] == [
        "length",
        "label_dirichlet",
        "none",
        "none",
        "label_shards",
        "none",
    ]
    assert got["skew-quantity"].sizes == "lognormal"
    assert [got[n].partition.type for n in ("skew-tasks", "skew-one-task")] == ["dirichlet", "one_each"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ""),
        (
            ("devices.skew_alpha=0.5",),
            "`devices.skew_alpha` without effect: `devices.skew` is none, not label_dir",
        ),
        (
            ("devices.skew=length", "devices.shards_per_device=3"),
            "`devices.skew` is length, not label_shards",
        ),
        (("devices.lognormal_sigma=2",), "`devices.sizes` is equal, not lognormal"),
        (("devices.skew=label_dirichlet", "devices.skew_alpha=0.1"), ""),
        (("devices.sizes=lognormal", "devices.lognormal_sigma=2"), ""),
    ],
)
def test_settings_of_uneven_data_that_nothing_reads_are_told(words, said, tmp_path):
    config = small_config(tmp_path, *words)
    told = skew_notes(config.devices)
    assert (len(told), said in " ".join(told)) == (bool(said), True)
    assert set(told) <= set(build_experiment(config).notes)
    stated = from_data(load_config(None, []).model_dump(mode="json"))
    assert skew_notes(stated.devices) == ()
