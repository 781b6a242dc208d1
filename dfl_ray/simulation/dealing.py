"""Which rows each device trains on, and what devices tell of them where a graph's groups are found from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.network.deployment import dealt_tasks, needs_sketches
from dfl_ray.seeds import Stream, generator
from dfl_ray.simulation.skew import skewed_rows

if TYPE_CHECKING:
    from dfl_ray.engines.adapted_layers import Targets
    from dfl_ray.experts.similarity import SharedSketches
    from dfl_ray.models.weights import BaseWeights
    from dfl_ray.tasks.tokens import TokenTask


@dataclass(frozen=True)
class DealtRows:
    """Which rows each device trains on.

    Attributes:
        held: Device -> tasks it holds.
        shares: Device -> its mixture over `held[device]`, sums to 1.
        rows: Device -> for each held task the indices of its training rows.
    """

    held: dict[int, tuple[int, ...]]
    shares: dict[int, np.ndarray]
    rows: dict[int, tuple[np.ndarray, ...]]


def deal_rows(config: Config, tasks: Sequence[TokenTask], mixture: np.ndarray) -> DealtRows:
    """Deal the training rows to the tasks' holders.

    Args:
        config: The experiment.
        tasks: Every task.
        mixture: (devices, tasks) shares.

    Returns:
        The rows of each device; see `topology.partition.split_rows` and, for `devices.skew`, `simulation.skew`.

    Raises:
        InputError: A task has fewer rows than holders, or its rows cannot be dealt as `devices.skew` says.
    """
    from topology.partition import split_rows

    counts = [(t.name, len(t.train)) for t in tasks]
    for (name, rows), count in zip(counts, (mixture > 0).sum(axis=0).tolist(), strict=True):
        if rows < count:
            raise InputError(
                f"Task `{name}` has too few training rows for its holders",
                got=f"{rows} rows for {count} devices that hold it",
                expected="at least one row for each",
                change="Raise `tasks.train_rows`, add rows, or lower `devices.count` or `devices.tasks_per_device`.",
            )
    rng = generator(config.seed, Stream.ROWS)
    try:
        dealt = (
            _rows_of_file(config, counts)
            or skewed_rows(config.devices, config.seed, tasks, mixture)
            or split_rows(
                [rows for _, rows in counts],
                mixture,
                rng=rng,
                sizes=config.devices.sizes,
                lognormal_sigma=config.devices.lognormal_sigma,
            )
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    held = held_tasks(mixture)
    return DealtRows(
        held,
        {d: mixture[d, list(t)] / mixture[d, list(t)].sum() for d, t in held.items()},
        {d: tuple(dealt[d][t] for t in ts) for d, ts in held.items()},
    )


def _rows_of_file(config: Config, tasks: Sequence[tuple[str, int]]) -> list[dict[int, np.ndarray]] | None:
    """The rows that the partition's own file deals; None where it deals none."""
    from topology.row_file import SUFFIXES, read_row_file

    path = str(config.devices.partition.options().get("path", ""))
    if config.devices.partition.type != "file" or not path.lower().endswith(SUFFIXES):
        return None
    parts = read_row_file(path, config.devices.count, len(tasks), [name for name, _ in tasks])
    for part in parts:
        for task, rows in part.items():
            name, count = tasks[task]
            if rows[-1] >= count:
                raise ValueError(f"{path}: task `{name}` has {count} training rows, so no row {rows[-1]}")
    return parts


def held_tasks(mixture: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Device -> the tasks it holds.

    Args:
        mixture: (devices, tasks) shares.

    Returns:
        For every device the numbers of the tasks with a positive share, ascending.
    """
    return {d: tuple(int(t) for t in np.flatnonzero(row > 0)) for d, row in enumerate(mixture)}


def sketches_of(
    config: Config, weights: BaseWeights, tokens: Sequence[TokenTask], targets: Targets
) -> SharedSketches | None:
    """What devices share of their data where the graph's groups are found from it, else None.

    Args:
        config: The experiment.
        weights: The base model.
        tokens: The tasks' rows.
        targets: The layers that can be adapted.
    """
    from dfl_ray.experts.similarity import shared_sketches

    if not needs_sketches(config.topology):
        return None
    dealt = deal_rows(config, tokens, dealt_tasks(config, len(tokens), [t.name for t in tokens]))
    return shared_sketches(config, weights, tokens, targets, dealt.held, dealt.rows)
