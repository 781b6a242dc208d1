"""Keys of `method` that nothing reads are told, and those that are read are not."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.config.check import check_places
from dfl_ray.config.load import load_config
from dfl_ray.methods.notes import method_notes
from topology.partition import task_mixture


def told(words):
    notes = method_notes(load_config(None, words.split()))
    return [note.split("`")[1] for note in notes if "without effect" in note]


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        ("method=dlora privacy.mechanism=examples method.clip_norm=2", ["method.clip_norm"]),
        ("method=dlora privacy.mechanism=updates method.clip_norm=2", []),
        ("method=dlora privacy.mechanism=examples method.optimizer=sgd", []),
        ("method=flora method.precision=int8 method.error_feedback=true", ["method.error_feedback"]),
        ("method=choco method.precision=int8 method.error_feedback=false", ["method.error_feedback"]),
        ("method=dlora method.precision=int8 method.error_feedback=true", []),
        ("method=dlora method.precision=float16 method.error_feedback=true", ["method.error_feedback"]),
        ("method=dlora method.precision=int8 method.error_feedback=true method.aggregation=push_sum",
         ["method.error_feedback"]),
        ("method=local method.precision=int8 method.exchange_every=2", ["method.precision", "method.exchange_every"]),
        ("method=centralized method.fresh_optimizer=true", ["method.fresh_optimizer"]),
        ("method=local method.clip_norm=2", []),
        ("method=dlora method.optimizer=sgd method.fresh_optimizer=true", ["method.fresh_optimizer"]),
        ("method=dlora method.fresh_optimizer=true method.exchange_every=2", []),
    ],
)  # fmt: skip
def test_keys_without_effect_are_told(words, idle):
    assert told(words) == idle


@pytest.mark.parametrize("kind", ["balanced", "one_each"])
def test_places_are_refused_exactly_where_the_deal_is(kind):
    """The check before a run and the partition itself, over small numbers of everything."""
    names = ("x", "y", "z")
    seen = set()
    for count in range(1, 8):
        for each in (1,) if kind == "one_each" else (1, 2, 3):
            for holders in range(5):
                own = {"min_holders": holders} | ({} if kind == "one_each" else {"tasks_per_device": each})
                loose = load_config(None, [f"devices.partition={kind}", "devices.min_holders=0"]).devices
                partition = loose.partition.model_copy(update=own)
                devices = loose.model_copy(update={"count": count, "partition": partition})
                config = load_config(None, []).model_copy(update={"devices": devices})
                try:
                    task_mixture(kind, count, 3, rng=np.random.default_rng(0), **own)
                    deal = True
                except ValueError:
                    deal = False
                seen.add(deal)
                assert deal == (not list(check_places(config, names))), (count, each, holders)
    assert seen == {True, False}
