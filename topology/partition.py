"""Who holds which task, and which rows of its data."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from topology.answers import weights
from topology.arrays import FloatArray, IntArray
from topology.csv_file import open_csv
from topology.registry import Within, ask, check_options
from topology.row_file import SUFFIXES, read_row_file, row_shares
from topology.tables import PARTITIONS

TRADE_ROUNDS = 64

GIVEN = ("devices", "tasks", "rng", "names")
"""What every partition is given, names only if it asks for them; its other parameters are its options."""


def task_mixture(
    kind: str,
    devices: int,
    tasks: int,
    /,
    *,
    rng: np.random.Generator,
    names: Sequence[str] | None = None,
    **options: object,
) -> FloatArray:
    """Draw the share of every task in every device's data.

    Args:
        kind: Name of a partition, see `topology.tables.PARTITIONS`.
        devices: Number of devices, ≥ 1.
        tasks: Number of tasks, ≥ 1.
        rng: Source of every draw.
        names: Names of the tasks in their order, for a partition that reads names.
        **options: The partition's own, e.g. ``tasks_per_device`` of `balanced`.

    Returns:
        (devices, tasks) float64 weights; rows sum to 1; zero means not held.

    Raises:
        ValueError: If the kind or an option is not known, no such mixture exists, a file is bad, or a partition
            gives a device no task; the message says what to change.
    """
    if devices < 1 or tasks < 1:
        raise ValueError(f"need devices ≥ 1 and tasks ≥ 1, got {devices}, {tasks}")
    chosen = PARTITIONS[kind]
    what = f"partition {kind!r}"
    check_options(what, chosen, GIVEN, options)
    named = {"names": names} if "names" in signature(chosen).parameters else {}
    answer = ask(what, chosen, devices, tasks, rng=rng, **named, **options)
    return weights(what, answer, devices, tasks)


def balanced(
    devices: int,
    tasks: int,
    *,
    rng: np.random.Generator,
    tasks_per_device: Annotated[int, Within(ge=1)] = 2,
    min_holders: Annotated[int, Within(ge=0)] = 3,
) -> FloatArray:
    """The same number of different tasks on each device, equal shares; holders of two tasks differ by at most one.

    A cyclic deal is shuffled by random trades between devices, which keep every row and column sum.

    Args:
        devices: Number of devices.
        tasks: Number of tasks.
        rng: Source of every draw.
        tasks_per_device: Tasks on each device, at most all.
        min_holders: Least number of holders of a task.

    Returns:
        (devices, tasks) weights.

    Raises:
        ValueError: If no such deal exists.

    Source: trades as in Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices",
        Nat. Commun. 5, 2014.
    """
    _check_holders(min_holders)
    return _balanced(devices, tasks, tasks_per_device, min_holders, rng)


def one_each(
    devices: int, tasks: int, *, rng: np.random.Generator, min_holders: Annotated[int, Within(ge=0)] = 3
) -> FloatArray:
    """`balanced` with one task on each device.

    Args:
        devices: Number of devices.
        tasks: Number of tasks.
        rng: Source of every draw.
        min_holders: Least number of holders of a task.

    Returns:
        (devices, tasks) weights.

    Raises:
        ValueError: If no such deal exists.
    """
    _check_holders(min_holders)
    return _balanced(devices, tasks, 1, min_holders, rng)


def dirichlet(
    devices: int,
    tasks: int,
    *,
    rng: np.random.Generator,
    alpha: Annotated[float, Within(gt=0)] = 0.3,
    min_holders: Annotated[int, Within(ge=0)] = 3,
    min_weight: Annotated[float, Within(ge=0, le=1)] = 0.05,
) -> FloatArray:
    """Rows from a Dirichlet distribution with concentration ``alpha``.

    A share below ``min_weight`` is dropped (the largest always stays), a task with too few holders is given, at
    ``min_weight`` or more, to the devices that had drawn most of it, and rows are scaled to 1.

    Args:
        devices: Number of devices.
        tasks: Number of tasks.
        rng: Source of every draw.
        alpha: Concentration; small means few tasks a device.
        min_holders: Least number of holders of a task.
        min_weight: Smallest share kept, at most 1/tasks.

    Returns:
        (devices, tasks) weights.

    Raises:
        ValueError: If a value is out of range.

    Source: Hsu, Qi and Brown, arXiv 1909.06335.
    """
    _check_holders(min_holders)
    return _dirichlet(devices, tasks, alpha, min_holders, min_weight, rng)


def from_file(
    devices: int,
    tasks: int,
    *,
    rng: np.random.Generator,
    path: str | Path,
    names: Sequence[str] | None = None,
    min_holders: Annotated[int, Within(ge=0)] = 3,
) -> FloatArray:
    """Weights of the user's, scaled to 1 in every row.

    Args:
        devices: Number of devices.
        tasks: Number of tasks.
        rng: Not used; taken so that all partitions are called alike.
        path: CSV ``device,task,weight`` with tasks numbered from 0, or Parquet ``device,task,row``, of which a device's
            weights are its numbers of rows; a run's own ``partition.parquet`` is one, whose tasks have names.
        names: Names of the tasks in their order; None: those of a Parquet file are numbered as it tells.
        min_holders: Least number of holders of a task.

    Returns:
        (devices, tasks) weights.

    Raises:
        ValueError: If the file is missing or malformed.
    """
    _check_holders(min_holders)
    return _read(path, devices, tasks, names, min_holders)


def _check_holders(min_holders: int) -> None:
    if min_holders < 0:
        raise ValueError(f"min_holders must be ≥ 0, got {min_holders}")


def _balanced(
    devices: int, tasks: int, per_device: int, min_holders: int, rng: np.random.Generator
) -> FloatArray:
    if not 1 <= per_device <= tasks:
        raise ValueError(
            f"tasks_per_device must lie in 1..{tasks} (the number of tasks), got {per_device}; change it"
        )
    fewest = devices * per_device // tasks
    if fewest < min_holders:
        needed = -(-min_holders * tasks // per_device)
        raise ValueError(
            f"{devices} devices with {per_device} of {tasks} tasks each leave a task with {fewest} holders, "
            f"fewer than min_holders={min_holders}; raise devices to {needed}, raise tasks_per_device, or "
            "lower min_holders"
        )
    dealt = rng.permutation(tasks)[np.arange(devices * per_device) % tasks].reshape(devices, per_device)
    held = _trade(dealt[rng.permutation(devices)], rng)
    mixture = np.zeros((devices, tasks))
    np.put_along_axis(mixture, held, 1.0 / per_device, axis=1)
    return mixture


def _trade(held: IntArray, rng: np.random.Generator) -> IntArray:
    """Shuffle a deal: random pairs of devices swap one task each where neither would hold one twice."""
    held = held.copy()
    half = len(held) // 2
    for _ in range(TRADE_ROUNDS):
        order = rng.permutation(len(held))
        left, right = order[:half], order[half : 2 * half]
        at_left = rng.integers(held.shape[1], size=half)
        at_right = rng.integers(held.shape[1], size=half)
        give, take = held[left, at_left], held[right, at_right]
        allowed = ~(held[left] == take[:, None]).any(axis=1) & ~(held[right] == give[:, None]).any(axis=1)
        held[left[allowed], at_left[allowed]] = take[allowed]
        held[right[allowed], at_right[allowed]] = give[allowed]
    return held


def _dirichlet(
    devices: int, tasks: int, alpha: float, min_holders: int, min_weight: float, rng: np.random.Generator
) -> FloatArray:
    if not (np.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be a positive number, got {alpha}")
    if not 0 <= min_weight <= 1 / tasks:
        raise ValueError(f"min_weight must lie in 0..1/tasks = {1 / tasks:.4g}, got {min_weight}")
    if min_holders > devices:
        raise ValueError(
            f"min_holders={min_holders} exceeds the {devices} devices; lower min_holders or add devices"
        )
    drawn = rng.dirichlet(np.full(tasks, float(alpha)), size=devices)
    held = drawn >= np.maximum(min_weight, np.finfo(float).tiny)
    held[np.arange(devices), drawn.argmax(axis=1)] = True
    for task in np.flatnonzero(held.sum(axis=0) < min_holders):
        # A holder already there keeps its place: it has drawn more of the task than any device added here.
        order = np.lexsort((np.arange(devices), -drawn[:, task], ~held[:, task]))
        held[order[:min_holders], task] = True
    # A task forced on a device counts at least this much, so that its share of rows is never empty.
    weights = np.where(held, np.maximum(drawn, max(min_weight, 1e-3)), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _read(
    path: str | Path, devices: int, tasks: int, names: Sequence[str] | None, min_holders: int
) -> FloatArray:
    if not Path(path).is_file():
        raise ValueError(f"task mixture 'file' needs path= of an existing CSV device,task,weight; got {path}")
    mixture = np.zeros((devices, tasks))
    if Path(path).suffix.lower() in SUFFIXES:
        mixture, problems = row_shares(read_row_file(path, devices, tasks, names), tasks), []
    else:
        problems = _read_rows(Path(path), mixture)
    problems += [f"device {d} holds no task" for d in np.flatnonzero(mixture.sum(axis=1) <= 0)]
    holders = (mixture > 0).sum(axis=0)
    problems += [
        f"task {t} has {holders[t]} holders, fewer than min_holders={min_holders}"
        for t in np.flatnonzero(holders < min_holders)
    ]
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems[:20]) + "; correct these rows")
    return mixture / mixture.sum(axis=1, keepdims=True)


def _read_rows(path: Path, mixture: FloatArray) -> list[str]:
    """Fill in the weights; returns what is wrong, by line."""
    problems: list[str] = []
    with open_csv(path) as reader:
        if not {"device", "task", "weight"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected columns device,task,weight, got {reader.fieldnames}")
        for line, row in enumerate(reader, start=2):
            problem = _read_row(row, mixture)
            if problem:
                problems.append(f"line {line}: {problem}")
    return problems


def _read_row(row: dict[str, str], mixture: FloatArray) -> str:
    try:
        device, task, weight = int(row["device"]), int(row["task"]), float(row["weight"])
    except (TypeError, ValueError):
        return f"expected numbers, got {dict(row)}"
    if not (0 <= device < mixture.shape[0] and 0 <= task < mixture.shape[1]):
        return (
            f"device {device} or task {task} outside {mixture.shape[0]} devices and {mixture.shape[1]} tasks"
        )
    if not (np.isfinite(weight) and weight >= 0):
        return f"weight must be a number ≥ 0, got {weight}"
    if mixture[device, task] > 0:
        return f"device {device} and task {task} were given before"
    mixture[device, task] = weight
    return ""


def split_rows(
    row_counts: ArrayLike,
    mixture: FloatArray,
    *,
    rng: np.random.Generator,
    sizes: str = "equal",
    lognormal_sigma: float = 0.5,
    reuse: bool = False,
) -> list[dict[int, IntArray]]:
    """Deal each task's training rows to its holders: shuffled, disjoint, all rows used.

    A holder's part of task t is proportional to mixture[device, t] · size[device], rounded by largest
    remainder, at least one row.

    Args:
        row_counts: (tasks,) number of rows of each task.
        mixture: (devices, tasks) weights from `task_mixture`.
        rng: Source of every draw.
        sizes: ``equal`` (size 1) or ``lognormal`` (size = exp(σ·N(0,1)), one draw per device).
        lognormal_sigma: σ for ``lognormal``, ≥ 0.
        reuse: If a task has fewer rows than holders, deal its rows again instead of refusing: holders then
            share rows (one each).

    Returns:
        For every device a dict task → ascending int64 row numbers, with the device's tasks as keys.

    Raises:
        ValueError: If a task has fewer rows than holders (and ``reuse`` is off), or a value is out of range.

    Source: largest remainders (Hamilton's method) as in Balinski and Young, "Fair Representation", 1982.
        Departure: every holder gets one row beforehand.
    """
    counts = np.asarray(row_counts, dtype=np.int64).reshape(-1)
    devices, tasks = len(mixture), int(mixture.shape[1])
    if len(counts) != tasks:
        raise ValueError(f"row_counts has {len(counts)} entries for {tasks} tasks; give one for each task")
    if sizes not in ("equal", "lognormal") or lognormal_sigma < 0:
        raise ValueError(
            f"sizes must be 'equal' or 'lognormal' with sigma ≥ 0, got {sizes!r}, {lognormal_sigma}"
        )
    spread = lognormal_sigma if sizes == "lognormal" else 0.0
    factor: FloatArray = rng.lognormal(sigma=spread, size=devices)
    parts: list[dict[int, IntArray]] = [{} for _ in range(devices)]
    for task in range(tasks):
        holders = np.flatnonzero(mixture[:, task] > 0)
        if len(holders) == 0:
            continue
        rows = rng.permutation(counts[task])
        if counts[task] < len(holders):
            if not reuse or counts[task] < 1:
                raise ValueError(
                    f"task {task} has {counts[task]} rows for {len(holders)} holders: some would get none; "
                    "raise its rows, lower devices or tasks_per_device, or allow reuse=True"
                )
            rows = np.resize(rows, len(holders))
        shares = _largest_remainder(mixture[holders, task] * factor[holders], len(rows))
        for device, part in zip(holders.tolist(), np.split(rows, np.cumsum(shares)[:-1]), strict=True):
            parts[device][task] = np.sort(part)
    return parts


def _largest_remainder(weights: FloatArray, total: int) -> IntArray:
    """Whole numbers ≥ 1 that sum to total and follow the weights."""
    spare = total - len(weights)
    exact = np.maximum(weights / weights.sum() * total - 1, 0.0)
    exact *= spare / exact.sum() if exact.sum() > 0 else 0.0
    share = np.floor(exact).astype(np.int64)
    missing = spare - int(share.sum())
    order = np.lexsort((np.arange(len(weights)), -(exact - share)))
    extra = np.bincount(order[np.arange(missing) % len(weights)], minlength=len(weights))
    return share + 1 + extra
