"""A class that is fitted to steps says how long steps take, and is read as it was written."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from channels.energy import compute_cost, draw_classes
from dfl_ray.cli.calibrate import execute, lines
from dfl_ray.config.class_table import classes_of
from dfl_ray.errors import InputError
from dfl_ray.simulation import calibrate
from dfl_ray.simulation.calibrate import CHECKED, FITTED, Calibration, Measured, fit, shapes

GRID, OTHERS = shapes(FITTED, 16, 13.0), shapes(CHECKED, 16, 13.0)


def steps(these, rate, overhead_s, factor=1.0):
    return tuple(Measured(r, t, 1e6 * r * t, factor * (overhead_s + 1e6 * r * t / rate)) for r, t in these)


def test_the_law_that_made_the_times_is_found():
    found = fit(steps(GRID, 3e10, 0.02))
    assert found.flops_per_s == pytest.approx(3e10) and found.overhead_s == pytest.approx(0.02)
    assert found.seconds(6e9) == pytest.approx(0.22)
    none = fit(steps(GRID, 3e10, 0.0))
    assert none.overhead_s == pytest.approx(0.0, abs=1e-12)


def test_shapes_lie_around_what_a_run_trains_on():
    assert len(GRID) == 12 and len(OTHERS) == 6
    assert {rows for rows, _ in GRID} == {2, 8, 16, 32} and {tokens for _, tokens in GRID} == {10, 20, 39}
    assert shapes(FITTED, 1, 2.0) == ((1, 2), (1, 3), (1, 6), (2, 2), (2, 3), (2, 6))


def test_an_overhead_is_never_negative():
    """Times that grow faster than operations would give one; the rate is then fitted alone."""
    found = fit([Measured(r, t, 1e6 * r * t, (r * t) ** 1.4 * 1e-6) for r, t in GRID])
    assert found.overhead_s == 0.0 and found.flops_per_s > 0


def test_steps_that_do_not_get_longer_are_refused():
    with pytest.raises(InputError, match="did not take longer"):
        fit([Measured(r, t, 1e6 * r * t, 1.0 / (r * t)) for r, t in GRID])


def test_the_deviation_is_that_of_shapes_that_were_not_fitted():
    fitted = steps(GRID, 3e10, 0.02)
    found = Calibration(fit(fitted), fitted, steps(OTHERS, 3e10, 0.02, factor=1.25), True)
    assert not set(OTHERS) & set(GRID)
    assert found.worst == pytest.approx(0.2)
    said = lines(found)
    assert (
        len(said) == len(OTHERS) + 3 and "0.80" in said[2] and "20%" in said[-1] and "--seconds" in said[-1]
    )


def test_the_measured_machine_becomes_a_class(tmp_path, capsys, monkeypatch):
    """Steps are really trained; the clock is a machine's of 2 GFLOP/s and 3 ms a step, since this one is busy."""
    now, trainer = [0.0], calibrate._trainer

    def timed(experiment, group):
        train = trainer(experiment, group)

        def train_on_the_clock(shape):
            train(shape)
            now[0] += calibrate.STEPS * (3e-3 + shape[0] * shape[1] * experiment.flops_per_token / 2e9)

        return train_on_the_clock

    monkeypatch.setattr(calibrate, "_trainer", timed)
    monkeypatch.setattr(calibrate.time, "process_time", lambda: now[0])
    options = argparse.Namespace(
        words=["tasks.train_rows=200", "tasks.test_rows=20"], output=str(tmp_path / "mine.yaml"), name="mine",
        watts=20.0, seconds=0.1, json=True, quiet=True, verbose=False,
    )  # fmt: skip
    assert execute(options) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (mine,) = classes_of(told["class"])
    assert mine.name == "mine" and len(told["checked"]) >= 1
    assert told["flops_per_s"] == pytest.approx(2e9) and told["step_overhead_s"] == pytest.approx(3e-3)
    made = draw_classes([mine], 1, seed=0)
    cost = compute_cost(made, told["flops_per_s"], 1)
    np.testing.assert_allclose(cost.seconds, 1.0 + told["step_overhead_s"], rtol=1e-9)
    np.testing.assert_allclose(cost.energy_j, 20.0 * cost.seconds, rtol=1e-9)


def test_a_class_is_written_as_yaml_only(tmp_path):
    with pytest.raises(InputError, match=r"\.yaml"):
        execute(argparse.Namespace(output=str(tmp_path / "mine.csv")))
