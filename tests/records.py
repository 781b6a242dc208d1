"""Comparing the records of two runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dfl_ray.records import comparable

LEARNT = ("loss", "train_loss", "gradient_norm", "consensus_distance", "accuracy", "accuracy_mean",
          "accuracy_worst_task", "forgetting_mean", "interference_gap", "routed_right")  # fmt: skip
"""Columns that may differ by floating-point order when devices are packed differently."""


def assert_same_traffic(run: Any) -> None:
    """A run's recorded requests over its own radio give the radio's figures of every round, bit for bit."""
    from dfl_ray.simulation.replan import replan

    found = replan(run.path, [])
    kept = list(found.recorded.columns)
    assert {
        "airtime_s",
        "radio_energy_j",
        "simulated_s",
        "delivered",
        "sinr_db_p50",
        "starved_fraction",
    } <= set(kept)
    pd.testing.assert_frame_equal(found.rounds[kept], found.recorded, check_exact=True, check_dtype=False)


def assert_same_records(one: Any, two: Any, *, exact: bool) -> None:
    """All tables equal but for wall times: bit for bit, or learnt figures to float tolerance."""
    for table in ("rounds", "devices", "transfers", "attempts", "evaluation"):
        left, right = comparable(getattr(one, table)), comparable(getattr(two, table))
        assert len(left) == len(right)
        assert len(left) or table in ("transfers", "attempts")
        loose = [c for c in LEARNT if c in left and not exact]
        pd.testing.assert_frame_equal(left.drop(columns=loose), right.drop(columns=loose), check_exact=True)
        if loose:
            pd.testing.assert_frame_equal(left[loose], right[loose], rtol=1e-3, atol=1e-3)


def assert_asked_again_as_it_was(run: Any) -> None:
    """`evaluate` asks the devices that the run's last evaluation asked, and they answer alike."""
    from dfl_ray.simulation.evaluate_again import evaluate_again
    from dfl_ray.tracking.progress import make_progress

    again = evaluate_again(run.path, [], make_progress(quiet=True))
    was = run.evaluation[run.evaluation["round"] == run.last_round]
    columns = ["rule", "device", "task", "accuracy"]
    pd.testing.assert_frame_equal(
        again[columns].reset_index(drop=True), was[columns].reset_index(drop=True), check_dtype=False
    )
