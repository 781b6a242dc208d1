"""Held-out rows of a data set that has one split only: drawn by the run's seed, whole prompts at a time."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from dfl_ray.errors import InputError
from dfl_ray.seeds import Stream, generator
from dfl_ray.tasks.labels import prompt_key
from dfl_ray.tasks.rows import RowTable


@dataclass(frozen=True)
class SplitRows:
    """One table in two.

    Attributes:
        train: Rows to train on, and all bad rows.
        test: Rows held out.
        remark: What was done, in words.
    """

    train: RowTable
    test: RowTable
    remark: str


def split_rows(task: str, table: RowTable, share: float, seed: int) -> SplitRows:
    """Hold out a share of the rows.

    Of the P different prompts, in the order of their first row, max(1, round(share P)) are drawn without replacement
    by the generator of (seed, TEST_SPLIT, CRC-32 of the task's name); all rows of a drawn prompt are held out. So no
    prompt is on both sides, and other tasks change nothing.

    Args:
        task: The task's name.
        table: All rows.
        share: Share of the prompts to hold out, in (0, 1).
        seed: The run's seed.

    Returns:
        Both parts, their rows in the table's order.

    Raises:
        InputError: There are fewer than two different prompts.
    """
    keys = [prompt_key(row.prompt) for row in table.rows]
    prompts = list(dict.fromkeys(keys))
    if len(prompts) < 2:
        raise InputError(
            f"The task `{task}` cannot hold rows out",
            got=f"{len(prompts)} different prompts in {table.source}",
            expected="two or more",
        )
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    rng = generator(seed, Stream.TEST_SPLIT, zlib.crc32(task.encode()))
    held = {prompts[i] for i in rng.choice(len(prompts), count, replace=False).tolist()}
    test = tuple(row for row, key in zip(table.rows, keys, strict=True) if key in held)
    train = tuple(row for row, key in zip(table.rows, keys, strict=True) if key not in held)
    remark = (
        f"task {task}: no test rows, so {len(test)} of {len(table.rows)} training rows are held out, "
        f"drawn by seed {seed} (`tasks.test_share`)"
    )
    return SplitRows(replace(table, rows=train), RowTable(f"{table.source} (held out)", test, ()), remark)
