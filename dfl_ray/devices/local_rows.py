"""What a device's local steps and sketches are made of: the rows it draws, right or wrong, and the noise of DP-SGD."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from dfl_ray.config.methods import experts_settings
from dfl_ray.devices.records import GroupSetup
from dfl_ray.engines.private import ExampleNoise
from dfl_ray.engines.training import LocalWork
from dfl_ray.experts.sketch import training_rows
from dfl_ray.methods.faults import Faults
from dfl_ray.seeds import Stream, generator
from dfl_ray.tasks.local_rows import draw_steps, sampling_rates
from dfl_ray.tasks.tokens import TokenRows
from dfl_ray.tasks.triggered import WrongTasks


class LocalRows:
    """The training rows of a run's devices.

    Args:
        setup: The run.
        faults: Its faulty devices.
        wrong: The rows that those learn instead.
    """

    def __init__(self, setup: GroupSetup, faults: Faults, wrong: WrongTasks) -> None:
        self.setup = setup
        self.config = setup.config.method
        self.privacy = setup.config.privacy
        self.faults = faults
        self.wrong = wrong

    def draw(self, device: int, round_index: int) -> list[list[tuple[int, tuple[TokenRows, int]]]]:
        """For each local step the rows a device draws from its own data, as (task, row)."""
        held, mine = self.setup.held[device], self.setup.rows[device]
        drawn = draw_steps(
            self.setup.config.seed, round_index, device, self.setup.shares[device], [len(r) for r in mine],
            steps=self.config.local_steps, batch_rows=self.config.batch_rows,
            poisson=self.privacy.mechanism == "examples",
        )  # fmt: skip
        wrong = self.faults.learns_wrong(device, round_index)
        tables = [self.wrong.rows(t) if wrong else self.setup.tasks[t].train for t in held]
        return [[(held[k], (tables[k], int(mine[k][i]))) for k, i in step] for step in drawn]

    def work(self, sources: Sequence[int], number: int, adapter_tasks: Sequence[int]) -> list[LocalWork]:
        """Draw the rows of a device's local steps.

        Args:
            sources: The devices whose rows it trains on: itself; none where it does not train.
            number: The device's local round, from 1: it names the draw.
            adapter_tasks: Task of each of its adapters, or -1 for an adapter of all tasks.

        Returns:
            One entry an adapter: for each local step its rows.
        """
        drawn = [self.draw(device, number) for device in sources]
        return [
            LocalWork(
                [
                    [row for steps in drawn for task, row in steps[step] if adapter_task in (-1, task)]
                    for step in range(self.config.local_steps)
                ]
            )
            for adapter_task in adapter_tasks
        ]

    def noise(self, devices: Sequence[int], round_index: int, absent: Collection[int]) -> ExampleNoise | None:
        """Give the noise of a round's steps.

        Args:
            devices: The devices that are trained together, one adapter each.
            round_index: The round.
            absent: Those that make no steps.

        Returns:
            C, s, and the expected rows of a step; None unless `privacy.mechanism` is `examples`.
        """
        if self.privacy.mechanism != "examples":
            return None
        expected = [0.0 if d in absent else self._expected(d) for d in devices]
        seed = self.setup.config.seed
        return ExampleNoise(
            self.privacy.clip_norm, self.privacy.noise_multiplier, np.array(expected),
            lambda k, step: generator(seed, Stream.PRIVACY, round_index, devices[k], step),
        )  # fmt: skip

    def _expected(self, device: int) -> float:
        counts = [len(r) for r in self.setup.rows[device]]
        return float(sampling_rates(self.setup.shares[device], counts, self.config.batch_rows) @ counts)


def sketch_rows(setup: GroupSetup, device: int, task: int) -> list[np.ndarray]:
    """Draw the training rows that a device's sketch of a task is taken from.

    Args:
        setup: What all groups share.
        device: The device.
        task: A task that it holds.

    Returns:
        At most `method.sketch_prompts` arrays of token ids.

    Raises:
        ValueError: The device does not hold the task.
    """
    mine = setup.rows[device][setup.held[device].index(task)]
    count = min(len(mine), experts_settings(setup.config.method).sketch_prompts)
    rng = generator(setup.config.seed, Stream.SKETCH_ROWS, task, device)
    return training_rows(setup.tasks[task].train, rng.choice(mine, count, replace=False))
