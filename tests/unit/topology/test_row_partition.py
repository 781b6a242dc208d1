"""Rows are dealt as Flower Datasets deals them; its own answers stand in `flower_partitions.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from topology import row_partition as rp

FLOWER = json.loads((Path(__file__).parent / "flower_partitions.json").read_text())
LABELS, OWNERS = np.array(FLOWER["labels"]), np.array(FLOWER["owners"])


def dealt(name, options):
    kind = name.split("_")[0]
    if kind == "natural":
        return rp.natural(OWNERS)
    if kind == "iid":
        return rp.iid(len(LABELS), **options)
    if kind in rp.SIZES:
        return rp.quantity_skew(len(LABELS), **options)
    made = {"dirichlet": rp.dirichlet, "pathological": rp.pathological, "shards": rp.shards}[kind]
    return made(LABELS, **options)


@pytest.mark.parametrize("name", FLOWER["cases"])
def test_indices_are_flowers(name):
    case = FLOWER["cases"][name]
    assert [part.tolist() for part in dealt(name, case["options"])] == case["parts"]


def test_nothing_is_dealt_twice_and_all_but_left_over_shards_is_dealt():
    for name, case in FLOWER["cases"].items():
        rows = np.concatenate(dealt(name, case["options"]))
        assert len(set(rows.tolist())) == len(rows)
        assert name == "shards_left_over" or len(rows) == len(LABELS)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rp.iid(3, 4), "1 to 3"),
        (lambda: rp.quantity_skew(50, 20, sizes="exponential"), "none of the 50 rows"),
        (lambda: rp.quantity_skew(50, 2, sizes="cubic"), "linear, square, exponential"),
        (lambda: rp.dirichlet(LABELS, 4, alpha=0, seed=0), "alpha must be > 0"),
        (lambda: rp.dirichlet(LABELS, 12, alpha=0.01, seed=0), "after 11 draws"),
        (lambda: rp.pathological(LABELS, 4, labels_per_device=5), "1 to 4"),
        (lambda: rp.pathological([0, 0, 1, 1, 1, 1], 5, labels_per_device=2), "has 2 rows for 5"),
        (lambda: rp.shards(LABELS, 61, shards_per_device=2, seed=0), "1 to 120"),
    ],
)
def test_what_cannot_be_dealt_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
