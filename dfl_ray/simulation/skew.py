"""Uneven data on purpose: which of a task's rows each of its holders gets, by answers or by prompts.

Which tasks a device holds is the partition's (`topology.partition`), and how many rows `devices.sizes`; here is what
the rows say. Source: `topology.row_partition`, the field's names, one task's rows dealt to its holders in place of one
data set's to all devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.devices import DevicesConfig
from dfl_ray.errors import InputError
from dfl_ray.seeds import Stream, generator, integer

if TYPE_CHECKING:
    from dfl_ray.tasks.tokens import TokenRows, TokenTask

_DRAW = 1
"""Tells the draws of this module from other draws of rows."""


def skewed_rows(
    devices: DevicesConfig, seed: int, tasks: Sequence[TokenTask], mixture: np.ndarray
) -> list[dict[int, np.ndarray]] | None:
    """Deal each task's training rows to its holders unevenly.

    Args:
        devices: The section `devices`, with `skew`.
        seed: The run's seed.
        tasks: The tasks, at least as many rows as holders each.
        mixture: (devices, tasks) shares; holders have a positive one.

    Returns:
        For each device task -> ascending row numbers; None where `devices.skew` is `none`.

    Raises:
        InputError: A holder would get no row; it says what to change.
    """
    if devices.skew == "none":
        return None
    parts: list[dict[int, np.ndarray]] = [{} for _ in mixture]
    for task, tokens in enumerate(tasks):
        holders = np.flatnonzero(mixture[:, task] > 0)
        if len(holders) == 0:
            continue
        order = generator(seed, Stream.ROWS, _DRAW, task).permutation(holders)
        for device, rows in zip(
            order.tolist(), _dealt(devices, seed, task, tokens, len(holders)), strict=True
        ):
            parts[device][task] = rows
    return parts


def _dealt(devices: DevicesConfig, seed: int, task: int, tokens: TokenTask, holders: int) -> list[np.ndarray]:
    from topology import row_partition

    draw = integer(seed, Stream.ROWS, _DRAW, task)
    named = f"`devices.skew: {devices.skew}`, task `{tokens.name}`"
    if devices.skew == "label_dirichlet":
        labels, alpha = answer_labels(tokens.train), devices.skew_alpha
        try:
            return row_partition.dirichlet(labels, holders, alpha=alpha, seed=draw, least=1)
        except ValueError:
            raise InputError(
                f"{named}: at `devices.skew_alpha` {alpha:g} a holder gets no row in {row_partition.MOST_DRAWS} draws",
                got=f"{len(labels)} rows for {holders} holders",
                expected="at least one row for each",
                change="Raise `devices.skew_alpha`, lower `devices.count`, or add rows.",
            ) from None
    if devices.skew == "label_shards":
        labels, shards = answer_labels(tokens.train), devices.shards_per_device
        if holders * shards > len(labels):
            raise InputError(
                f"{named}: too few rows for `devices.shards_per_device` {shards}",
                got=f"{holders * shards} shards of {holders} holders, {len(labels)} rows",
                expected="at least one row a shard",
                change="Lower `devices.shards_per_device` or `devices.count`, or add rows.",
            )
        return row_partition.shards(labels, holders, shards_per_device=shards, seed=draw)
    by_length = np.argsort(tokens.train.answer_start, kind="stable")
    return [np.sort(part) for part in np.array_split(by_length, holders)]


def answer_labels(rows: TokenRows) -> np.ndarray:
    """Number the different answers, in the order of their tokens.

    Args:
        rows: The rows.

    Returns:
        (rows,) int64, equal exactly for equal answers.
    """
    answers = [tuple(rows.answer(i).tolist()) for i in range(len(rows))]
    number = {answer: k for k, answer in enumerate(sorted(set(answers)))}
    return np.array([number[answer] for answer in answers], np.int64)
