"""The rows a device draws for its local steps: the same for the run, which trains on them, and for the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfl_ray.seeds import Stream, generator


def draw_rows(
    rng: np.random.Generator, shares: np.ndarray, row_counts: Sequence[int], *, steps: int, batch_rows: int
) -> list[list[tuple[int, int]]]:
    """Draw the rows of one device's local steps.

    The number of rows of each task in a step follows the device's mixture: the whole part of `share * batch_rows`
    is given, the rest is drawn, so that an even mixture has no noise. The rest is multinomial with probabilities in
    proportion to the fractional parts; rows of a task are drawn with replacement, all equally likely.

    Args:
        rng: The stream of this (round, device).
        shares: (held tasks,) mixture, sums to 1.
        row_counts: Rows the device holds of each task.
        steps: H.
        batch_rows: Rows of one step.

    Returns:
        For each step a list of (held-task index, row index), sorted by task.
    """
    whole = np.floor(shares * batch_rows + 1e-9).astype(np.int64)
    rest = shares * batch_rows - whole
    missing = batch_rows - int(whole.sum())
    out: list[list[tuple[int, int]]] = []
    for _ in range(steps):
        counts = whole + (rng.multinomial(missing, rest / rest.sum()) if missing else 0)
        out.append(
            [(t, int(i)) for t, n in enumerate(counts) for i in rng.integers(0, row_counts[t], size=int(n))]
        )
    return out


def draw_poisson(
    rng: np.random.Generator, shares: np.ndarray, row_counts: Sequence[int], *, steps: int, batch_rows: int
) -> list[list[tuple[int, int]]]:
    """Draw the rows of one device's local steps so that every row comes in by itself, as DP-SGD's accountant supposes.

    A row of task t comes into a step with probability min(1, share_t batch_rows / rows_t), independently of the others.

    Args:
        rng: The stream of this (round, device).
        shares: (held tasks,) mixture, sums to 1.
        row_counts: Rows the device holds of each task.
        steps: H.
        batch_rows: Rows of one step on average.

    Returns:
        For each step a list of (held-task index, row index), sorted.
    """
    rates = sampling_rates(shares, row_counts, batch_rows)
    return [
        [(t, int(i)) for t, n in enumerate(row_counts) for i in np.flatnonzero(rng.random(n) < rates[t])]
        for _ in range(steps)
    ]


def sampling_rates(shares: np.ndarray, row_counts: Sequence[int], batch_rows: int) -> np.ndarray:
    """(held tasks,) probability with which `draw_poisson` takes a row of each task into a step."""
    return np.minimum(1.0, shares * batch_rows / np.maximum(1, np.asarray(row_counts)))


def draw_steps(
    seed: int,
    round_index: int,
    device: int,
    shares: np.ndarray,
    row_counts: Sequence[int],
    *,
    steps: int,
    batch_rows: int,
    poisson: bool = False,
) -> list[list[tuple[int, int]]]:
    """Draw the rows of one device's local steps in one round; see `draw_rows`.

    Args:
        seed: The run's seed.
        round_index: The round.
        device: The device.
        shares: (held tasks,) mixture, sums to 1.
        row_counts: Rows the device holds of each task.
        steps: H.
        batch_rows: Rows of one step.
        poisson: Whether each row comes in by itself (`draw_poisson`).

    Returns:
        For each step a list of (held-task index, row index), sorted by task.
    """
    rng = generator(seed, Stream.BATCHES, round_index, device)
    draw = draw_poisson if poisson else draw_rows
    return draw(rng, shares, row_counts, steps=steps, batch_rows=batch_rows)
