"""What takes the place of FedSRD's step: each variant is what its name says, and what is noted is true."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.papers import fedsrd_step
from benchmarks.papers.fedsrd_step import VARIANTS, both, mean_change, recorded, summary, table
from dfl_ray.config.literature import FedsrdConfig
from dfl_ray.methods import fedsrd
from tests.network import LINE, network, play, put, row

SET = {"rank": 2, "alpha": 4.0, "precision": "float32", "upload_share": 1.0, "download_share": 1.0}


def layer(seed):
    """A common pair and what three devices made of it."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(5, 2)), rng.normal(size=(2, 6))
    return common, [tuple(x + 0.1 * rng.normal(size=x.shape) for x in common) for _ in range(3)]


def played(name, rounds=2):
    """Rounds of four devices under a variant; by the second the server has answered with B."""
    with pytest.MonkeyPatch.context() as patched:
        for target, function in VARIANTS[name].patches.items():
            patched.setattr(target, function)
        method, devices = network(FedsrdConfig(**SET), LINE)
        start = row(devices[0])
        for d in devices:
            put(d, start)
        for r in range(1, rounds + 1):
            for d in devices:
                method.begin(d, r)
                if method.law.trains(0, None, r):
                    put(d, row(d) + 0.1 * np.random.default_rng(d.index).normal(size=len(start)))
            play(method, devices, r)
        for d in devices[1:]:
            np.testing.assert_array_equal(row(d), row(devices[0]))
    return method, start, row(devices[0])


def test_the_factors_own_mean_is_averaging():
    common, uploads = layer(1)
    expected = (uploads[0][1] + uploads[1][1] + uploads[2][1]) / 3 - common[1]
    np.testing.assert_allclose(mean_change(common, uploads, 2, "a"), expected)
    method, start, after = played("mean_factor")
    of_b = fedsrd.factor_keep(method.layout, "b")
    moved = np.mean([np.random.default_rng(d).normal(size=len(start)) for d in range(4)], axis=0)
    np.testing.assert_allclose((after - start)[of_b], 0.1 * moved[of_b], atol=1e-5)
    np.testing.assert_array_equal(after[~of_b], np.float32(start)[~of_b])


def test_both_factors_leave_less_than_one_and_travel():
    common, uploads = layer(2)
    stacked = np.concatenate([b for b, _ in uploads], axis=1) / 3
    cut = np.matmul(*fedsrd.truncated_svd(stacked, np.concatenate([a for _, a in uploads]), 2))
    one = np.matmul(common[0] + fedsrd.answer(common, uploads, 2, "b"), common[1])
    of_b, of_a = both(common, uploads, 2, "b")
    assert np.linalg.norm(cut - (common[0] + of_b) @ (common[1] + of_a)) < 0.7 * np.linalg.norm(cut - one)
    method, start, after = played("both")
    for factor in ("a", "b"):
        kept = fedsrd.factor_keep(method.layout, factor)
        assert (after != np.float32(start))[kept].mean() > 0.99


def test_the_cutoff_bounds_the_inverse_and_is_gone_afterwards():
    narrow = np.diag([1.0, 0.01])
    with patch("numpy.linalg.pinv", VARIANTS["cutoff"].patches["numpy.linalg.pinv"]):
        np.testing.assert_allclose(np.linalg.pinv(narrow, rcond=1e-6), np.diag([1.0, 0.0]), atol=1e-12)
    np.testing.assert_allclose(np.linalg.pinv(narrow), np.diag([1.0, 100.0]))


def test_only_the_factor_whose_turn_it_is_may_change():
    with pytest.MonkeyPatch.context() as patched:
        for target, function in VARIANTS["active"].patches.items():
            patched.setattr(target, function)
        method, devices = network(FedsrdConfig(**SET, exchange_every=2), LINE)
        for first, factor in ((1, "b"), (4, "a")):
            for r in (first, first + 1):
                kept = method.keep(devices[0], r).numpy()
                np.testing.assert_array_equal(kept, [fedsrd.factor_keep(method.layout, factor)])


def test_what_is_noted_of_a_step():
    common, uploads = layer(3)
    steps = []
    change = recorded(fedsrd.answer, steps)(common, uploads, 2, "a")
    np.testing.assert_array_equal(change, fedsrd.answer(common, uploads, 2, "a"))
    mean = sum(b @ a for b, a in uploads) / 3
    left = np.linalg.norm(mean - common[0] @ (common[1] + change)) / np.linalg.norm(
        mean - common[0] @ common[1]
    )
    moved = np.linalg.norm(sum(a for _, a in uploads) / 3 - common[1])
    assert steps[0].factor == "a" and steps[0].left == pytest.approx(left)
    assert steps[0].stretch == pytest.approx(np.linalg.norm(change) / moved)
    figures = summary(steps)
    assert figures["left_a"] == pytest.approx(left) and np.isnan(figures["left_b"])
    row_of = {
        "accuracy": fedsrd_step.Interval.of([0.5]),
        "difference": fedsrd_step.Interval.of([0.1]),
        **figures,
    }
    assert "| 50.0 | 10.0 |  |" in table({"ours": row_of})


def test_an_unknown_variant_is_refused():
    with pytest.raises(SystemExit, match="No variant x"):
        fedsrd_step.main(["--variants", "ours,x"])
