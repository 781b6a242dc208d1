"""How long a local step takes on this machine, as a class of devices: measured, fitted, compared with other shapes.

A class says t = overhead + operations / rate for one local step. Both are fitted to steps of different numbers of rows
and tokens, with the operations that the simulator counts (`experiment.flops_per_token`), and the fit is compared with
steps of shapes that it has not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.devices.own_base import base_and_frozen
from dfl_ray.engines.training import LocalWork, train_adapters
from dfl_ray.errors import InputError
from dfl_ray.lora.optimizer import StepSize
from dfl_ray.simulation.experiment import Experiment, Step, build_experiment
from dfl_ray.tasks.tokens import TokenRows

FITTED = tuple((rows, tokens) for rows in (0.125, 0.5, 1.0, 2.0) for tokens in (0.75, 1.5, 3.0))
"""Shapes of a step that the class is fitted to: rows and tokens of a row as multiples of what the run trains on."""
CHECKED = ((0.2, 1.0), (0.35, 2.5), (0.75, 1.0), (0.75, 2.0), (1.5, 1.25), (1.75, 2.5))
"""Shapes that the fit has not seen."""
LEAST_PASSES = 3
"""Times that each shape is measured at least; the shortest counts, since other programs only make steps longer."""
LEAST_SHAPES = 8
"""Shapes that are measured at least; the larger ones are left out where one pass would take too long."""
FURTHER_PASSES = 0.7
"""Share of the time that is kept for passes after the first."""
STEPS = 2
"""Steps in one measurement."""

Shape = tuple[int, int]


def shapes(multiples: Sequence[tuple[float, float]], rows: int, tokens: float) -> tuple[Shape, ...]:
    """Shapes around the one that a run trains on.

    Args:
        multiples: Rows and tokens as multiples of it.
        rows: Rows of a local step, `method.batch_rows`.
        tokens: Mean tokens of a training row.

    Returns:
        (rows, tokens) of each, at least 1 and 2, each once.
    """
    return tuple(dict.fromkeys((max(1, round(r * rows)), max(2, round(t * tokens))) for r, t in multiples))


@dataclass(frozen=True)
class Measured:
    """The time of a local step of one shape.

    Attributes:
        rows: Rows of the step.
        tokens: Tokens of each row.
        flops: Operations that the simulator counts for it.
        seconds: Shortest time of a step in s.
    """

    rows: int
    tokens: int
    flops: float
    seconds: float


@dataclass(frozen=True)
class StepLaw:
    """t = overhead + operations / rate.

    Attributes:
        flops_per_s: Rate in FLOP/s, > 0.
        overhead_s: Time of a step without operations in s, >= 0.
    """

    flops_per_s: float
    overhead_s: float

    def seconds(self, flops: float) -> float:
        """Time of a step of so many operations in s."""
        return self.overhead_s + flops / self.flops_per_s


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    Attributes:
        law: The fitted law.
        fitted: The steps it was fitted to.
        checked: Steps of shapes that it was not fitted to.
        processor_time: Whether times are the processor's and not the clock's, so that other programs do not count.
    """

    law: StepLaw
    fitted: tuple[Measured, ...]
    checked: tuple[Measured, ...]
    processor_time: bool

    @property
    def worst(self) -> float:
        """Largest deviation of predicted from measured time among the checked shapes, as a share of the measured."""
        return max(abs(self.law.seconds(one.flops) / one.seconds - 1.0) for one in self.checked)


def fit(steps: Sequence[Measured]) -> StepLaw:
    """Fit overhead and rate to measured steps.

    Minimises the sum of ((overhead + operations / rate) / measured - 1)², so that short and long steps count alike,
    with overhead >= 0.

    Args:
        steps: At least two shapes of different numbers of operations.

    Returns:
        The law.

    Raises:
        InputError: Longer steps do not take longer.
    """
    flops, seconds = (np.array([getattr(one, name) for one in steps]) for name in ("flops", "seconds"))
    table = np.stack([1.0 / seconds, flops / seconds], axis=1)
    overhead, slope = np.linalg.lstsq(table, np.ones(len(steps)), rcond=None)[0]
    if overhead < 0:
        overhead, slope = 0.0, float(table[:, 1].sum() / (table[:, 1] ** 2).sum())
    if slope <= 0:
        raise InputError(
            "Steps of more operations did not take longer",
            got=", ".join(f"{one.rows} x {one.tokens}: {one.seconds * 1e3:.2f} ms" for one in steps),
            change="Measure for longer (`--seconds`), or while the machine does nothing else.",
        )
    return StepLaw(1.0 / float(slope), float(overhead))


def calibrate(config: Config, seconds: float, step: Step) -> Calibration:
    """Measure local steps of the configured model on this machine.

    Args:
        config: The experiment; one of its devices is trained on rows of random tokens.
        seconds: Time that measuring takes about, in s.
        step: Shows a step while it runs.

    Returns:
        The law and what it was fitted to and compared with.
    """
    experiment = build_experiment(config, step)
    with step("measure"):
        group = DeviceGroup(experiment.setup, [0])
        on_processor = group.torch_device == "cpu" and config.runtime.threads == 1
        clock = time.process_time if on_processor else time.perf_counter
        measured = _measure(experiment, group, clock, seconds)
    first, second = _shapes(experiment)
    fitted = tuple(measured[shape] for shape in first if shape in measured)
    checked = tuple(measured[shape] for shape in second if shape in measured and shape not in first)
    return Calibration(fit(fitted), fitted, checked, on_processor)


def _measure(
    experiment: Experiment, group: DeviceGroup, clock: Callable[[], float], seconds: float
) -> dict[Shape, Measured]:
    """The shortest time of each shape over as many passes through all of them as there is time for."""
    train, ends = _trainer(experiment, group), time.perf_counter() + seconds
    best: dict[Shape, float] = {}
    wanted = sorted({shape for part in _shapes(experiment) for shape in part}, key=lambda s: (s[0] * s[1], s))
    train(wanted[0])
    passes = 0
    while passes < LEAST_PASSES or time.perf_counter() < ends:
        for shape in wanted:
            if (
                passes == 0
                and len(best) >= LEAST_SHAPES
                and time.perf_counter() > ends - seconds * FURTHER_PASSES
            ):
                break
            began = clock()
            train(shape)
            best[shape] = min(best.get(shape, np.inf), (clock() - began) / STEPS)
        passes, wanted = passes + 1, list(best)
    each = experiment.flops_per_token
    return {(r, t): Measured(r, t, r * t * each, best[r, t]) for r, t in wanted}


def _shapes(experiment: Experiment) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """The shapes that are fitted, and those that are compared, around what the run trains on."""
    rows = experiment.config.method.batch_rows
    tokens = float(np.mean([task.train.lengths.mean() - 1 for task in experiment.setup.tasks]))
    return shapes(FITTED, rows, tokens), shapes(CHECKED, rows, tokens)


def _trainer(experiment: Experiment, group: DeviceGroup) -> Callable[[Shape], None]:
    """Makes `STEPS` local steps of device 0 on random rows of a shape, dealt to its adapters at random as draws are."""
    device, method, settings = group.devices[0], group.method, experiment.config.method
    method.begin(device, 1)
    static = method.static_a(group.owners)
    model, frozen = base_and_frozen(method, group.model, [device])
    where = group.torch_device
    words = 1 + int(max(task.train.ids.max() for task in experiment.setup.tasks))
    tables: dict[Shape, TokenRows] = {}

    def train(shape: Shape) -> None:
        rows, adapters = shape[0], len(device.adapter_tasks)
        if shape not in tables:
            tables[shape] = _random_rows(shape, words)
        dealt = np.random.default_rng(rows).integers(0, adapters, rows)
        work = [
            LocalWork([[(tables[shape], int(row)) for row in np.flatnonzero(dealt == k)]] * STEPS)
            for k in range(adapters)
        ]
        train_adapters(
            model, method.layout, group.state, work,
            size=StepSize(
                settings.learning_rate, settings.weight_decay, settings.clip_norm, optimizer=settings.optimizer
            ),
            scale=group.scale,
            static_a=None if static is None else [a.to(where) for a in static],
            frozen=None if frozen is None else [(a.to(where), b.to(where)) for a, b in frozen],
        )  # fmt: skip

    return train


def _random_rows(shape: Shape, words: int) -> TokenRows:
    """Rows of random tokens, of which the last is predicted from the others, as in the simulator's count."""
    rows, length = shape[0], shape[1] + 1
    ids = np.random.default_rng(0).integers(0, words, rows * length).astype(np.int32)
    return TokenRows(ids, np.arange(rows + 1) * length, np.full(rows, length - 1, np.int32))
