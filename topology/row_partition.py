"""Rows of one data set dealt to devices under the field's names, index for index as Flower Datasets deals them.

Every function returns one ascending int64 array of row numbers a device. Where Flower draws, the same seed gives the
same draw. Source: the package flwr-datasets 0.6.1 (`flwr_datasets.partitioner`), whose shuffling of a device's own rows
is left out, since training draws its rows anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray, IntArray

MOST_DRAWS = 11
"""Draws of `dirichlet` until every device has its least number of rows, as in Flower Datasets."""

SIZES: Mapping[str, Callable[[FloatArray], FloatArray]] = MappingProxyType(
    {"linear": lambda n: n, "square": np.square, "exponential": np.exp}
)
"""Size of the n-th device's part, n from 1, before it is scaled to the number of rows."""


def iid(rows: int, devices: int) -> list[IntArray]:
    """Consecutive parts of equal size, the first ones one row larger; Flower's `IidPartitioner`.

    Rows are not shuffled: of a sorted data set the parts are not alike.

    Args:
        rows: Number of rows.
        devices: Number of devices.

    Returns:
        Row numbers of each device.

    Raises:
        ValueError: There are more devices than rows.
    """
    _check(rows, devices)
    return [part.astype(np.int64) for part in np.array_split(np.arange(rows), devices)]


def quantity_skew(rows: int, devices: int, *, sizes: str) -> list[IntArray]:
    """Consecutive parts of growing size; Flower's `LinearPartitioner`, `SquarePartitioner`, `ExponentialPartitioner`.

    The share of device n of N, n from 1, is f(n) / sum f, rounded down; the last device also gets what is left.

    Args:
        rows: Number of rows.
        devices: Number of devices.
        sizes: f: one of `SIZES`.

    Returns:
        Row numbers of each device.

    Raises:
        ValueError: The name is not known, or a device would get no row.
    """
    _check(rows, devices)
    if sizes not in SIZES:
        raise ValueError(f"sizes must be one of {', '.join(SIZES)}, got {sizes!r}")
    units = SIZES[sizes](np.linspace(1.0, devices, devices))
    counts = (units / units.sum() * rows).astype(np.int64)
    counts[-1] += rows - counts.sum()
    if counts.min() < 1:
        raise ValueError(
            f"device {int(counts.argmin())} would get none of the {rows} rows; use fewer devices or more rows"
        )
    return [part.astype(np.int64) for part in np.split(np.arange(rows), np.cumsum(counts)[:-1])]


def dirichlet(
    labels: ArrayLike, devices: int, *, alpha: float, seed: int, least: int = 10, balance: bool = True
) -> list[IntArray]:
    """Label skew: each label's rows are split by shares drawn from Dirichlet(alpha); Flower's `DirichletPartitioner`.

    Args:
        labels: (rows,) labels; they are gone through in ascending order.
        devices: Number of devices.
        alpha: Concentration, > 0; the smaller, the more uneven.
        seed: Seed of NumPy's default generator.
        least: Least rows of a device; all labels are drawn again until it is met.
        balance: Give no more of a label to devices that have more than the mean number of rows.

    Returns:
        Row numbers of each device.

    Raises:
        ValueError: alpha is not positive, or `least` is not met in `MOST_DRAWS` draws.

    Source: Yurochkin et al., "Bayesian nonparametric federated learning of neural networks", ICML 2019.
    """
    values = np.asarray(labels)
    _check(len(values), devices)
    if alpha <= 0:
        raise ValueError(f"alpha must be > 0, got {alpha}")
    rng = np.random.default_rng(seed)
    for _ in range(MOST_DRAWS):
        parts: list[list[IntArray]] = [[] for _ in range(devices)]
        held = np.zeros(devices, np.int64)
        for label in np.unique(values):
            found = np.nonzero(values == label)[0]
            share = rng.dirichlet(np.full(devices, float(alpha)))
            if balance:
                share[held > len(values) / devices] = 0
                share = share / sum(share.tolist())
            cuts = (np.cumsum(share) * len(found)).astype(int)[:-1]
            for device, part in enumerate(np.split(found, cuts)):
                parts[device].append(part)
                held[device] += len(part)
        if held.min() >= least:
            return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]
    raise ValueError(
        f"a device has fewer than {least} rows after {MOST_DRAWS} draws; raise alpha, lower least or use fewer devices"
    )


def pathological(labels: ArrayLike, devices: int, *, labels_per_device: int) -> list[IntArray]:
    """So many labels a device, in turn: device d has the labels d, d + 1, ...; Flower's `PathologicalPartitioner`.

    Its mode is `deterministic`. A label's rows are cut into as many equal parts as devices have it.

    Args:
        labels: (rows,) labels.
        devices: Number of devices.
        labels_per_device: Different labels of a device.

    Returns:
        Row numbers of each device.

    Raises:
        ValueError: There are fewer labels, or a label has fewer rows than devices that have it.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
    """
    values = np.asarray(labels)
    _check(len(values), devices)
    known = np.unique(values)
    if not 1 <= labels_per_device <= len(known):
        raise ValueError(f"labels_per_device must be 1 to {len(known)}, got {labels_per_device}")
    wanted = [{(d + i) % len(known) for i in range(labels_per_device)} for d in range(devices)]
    parts: list[list[IntArray]] = [[] for _ in range(devices)]
    for number, label in enumerate(known):
        holders = [d for d in range(devices) if number in wanted[d]]
        found = np.nonzero(values == label)[0]
        if len(holders) > len(found):
            raise ValueError(f"label {label!r} has {len(found)} rows for {len(holders)} devices")
        if holders:
            for device, part in zip(holders, np.array_split(found, len(holders)), strict=True):
                parts[device].append(part)
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


def shards(labels: ArrayLike, devices: int, *, shards_per_device: int, seed: int) -> list[IntArray]:
    """Rows sorted by label, cut into equal shards, so many drawn for each device; Flower's `ShardPartitioner`.

    Rows left over after the last whole shard are used by nobody.

    Args:
        labels: (rows,) labels.
        devices: Number of devices.
        shards_per_device: Shards of a device.
        seed: Seed of NumPy's default generator.

    Returns:
        Row numbers of each device, in the order of `labels`.

    Raises:
        ValueError: There are fewer rows than shards.

    Source: McMahan et al., as above.
    """
    values = np.asarray(labels)
    wanted = devices * shards_per_device
    _check(len(values), max(wanted, 1))
    size = len(values) // wanted
    order = np.argsort(values, kind="stable")
    drawn = np.random.default_rng(seed).permutation(len(values) // size)[:wanted]
    parts = drawn.reshape(devices, shards_per_device)
    return [
        np.sort(np.concatenate([order[s * size : (s + 1) * size] for s in part])).astype(np.int64)
        for part in parts
    ]


def natural(owners: ArrayLike) -> list[IntArray]:
    """One device for each value of a column, values in ascending order; Flower's `NaturalIdPartitioner`.

    Args:
        owners: (rows,) who wrote each row.

    Returns:
        Row numbers of each device.
    """
    values = np.asarray(owners)
    return [np.nonzero(values == owner)[0].astype(np.int64) for owner in np.unique(values)]


def _check(rows: int, devices: int) -> None:
    if not 1 <= devices <= rows:
        raise ValueError(f"expected 1 to {rows} parts of {rows} rows, got {devices}")
