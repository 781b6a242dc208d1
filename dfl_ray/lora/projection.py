"""Down-projections A_t: static, drawn from the seed, orthogonal between tasks where there is room.

`A_t = c * Q[t*r:(t+1)*r]` with orthonormal rows Q (T*r, d) and c = 1/sqrt(3), the row energy of the usual Kaiming
start (uniform on [-1/sqrt(d), 1/sqrt(d)] has E|a|^2 = 1/3), so that A_i A_j^T = 0 for i != j and A_t A_t^T = c^2 I.
A run draws them once (`simulation.experiment`); every process maps that draw.

Source: arXiv 2602.20492 draws an unnormalised random A; the exact orthogonal form is this project's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.seeds import Stream, generator

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

ROW_NORM = 3**-0.5
WELL_CONDITIONED = 4
"""Least size / count at which R is taken from G^T G, whose condition number is about 9: nothing is lost to rounding."""

Projection = Literal["exact", "gaussian", "per_device"]


def _layer_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")


@cache
def _blas() -> ThreadpoolController:
    """The libraries that NumPy computes with; found once, which takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded() -> AbstractContextManager[object]:
    """Hold BLAS to one thread, so that what is rounded does not depend on how many there are."""
    return _blas().limit(limits=1, user_api="blas")


def orthogonal_rows(seed: int, layer: str, size: int, count: int, *more: int) -> np.ndarray:
    """Draw orthonormal rows, Haar-distributed on the Stiefel manifold: the wanted rows of a Haar orthogonal matrix.

    The thin QR factorisation G = Q R of a Gaussian (size, count) matrix in float64, the diagonal of R positive, which
    makes it unique: Q^T are the rows. Where count is small against size, G^T G is well conditioned (the condition
    number of G tends to (1 + sqrt(c)) / (1 - sqrt(c)) with c = count / size, 3 at c = 1/4), and R is its Cholesky
    factor, which costs matrix products alone; else Householder's QR is taken. The same matrix either way, at
    size * count^2 operations. BLAS is held to one thread, so that the rounding does not depend on how many there are.

    Source: Mezzadri 2007 (arXiv math-ph/0609050), "How to generate random matrices from the classical compact
    groups", for the sign of R; Golub and Van Loan 2013, "Matrix Computations", section 5.2.8, for R by Cholesky.

    Args:
        seed: The run's seed.
        layer: The layer's name; each layer has a draw of its own.
        size: d, length of a row.
        count: Rows, at most d.
        more: Further keys of the draw.

    Returns:
        (count, size) float64 with Q^T Q = I to 1e-12.
    """
    gaussian = generator(seed, Stream.PROJECTION, _layer_key(layer), *more).standard_normal((size, count))
    with single_threaded():
        if count * WELL_CONDITIONED <= size:
            inverse = np.linalg.inv(np.linalg.cholesky(gaussian.T @ gaussian))
            return inverse @ gaussian.T
        q, r = np.linalg.qr(gaussian)
    return (q * np.where(np.diag(r) < 0, -1.0, 1.0)).T


def task_projections(
    seed: int, layer: LayerShape, *, tasks: int, rank: int, kind: Projection = "exact", device: int = 0
) -> np.ndarray:
    """Draw A_t of every task for one layer.

    Source: arXiv 2602.20492 for "gaussian"; the other two are this project's (see the module's text).

    Args:
        seed: The run's seed.
        layer: The layer; d = layer.in_features.
        tasks: T.
        rank: r.
        kind: "exact" (orthogonal rows, each of norm 1/sqrt(3)), "gaussian" (independent N(0, 1/d) entries),
            "per_device" (orthogonal rows of the device's own: the ablation in which nothing is shared).
        device: The device, for "per_device" only.

    Returns:
        (T, r, d) float64.

    Raises:
        InputError: "exact" or "per_device" with T*r > d, where no such rows exist.
    """
    d = layer.in_features
    if kind == "gaussian":
        rng = generator(seed, Stream.PROJECTION, _layer_key(layer.name), 1)
        return rng.standard_normal((tasks, rank, d)) / np.sqrt(d)
    check_room(layer, tasks=tasks, rank=rank)
    own = () if kind == "exact" else (2, device)  # 1 is the gaussian draw's
    return ROW_NORM * orthogonal_rows(seed, layer.name, d, tasks * rank, *own).reshape(tasks, rank, d)


def drawn_projections(
    seed: int,
    layers: Sequence[LayerShape],
    *,
    tasks: int,
    rank: int,
    kind: Projection = "exact",
    device: int = 0,
) -> tuple[np.ndarray, ...]:
    """Draw A_t of every task for all layers, in the precision in which a run holds them.

    Args:
        seed: The run's seed.
        layers: The adapted layers.
        tasks: T.
        rank: r.
        kind: See `task_projections`.
        device: See `task_projections`.

    Returns:
        One (T, r, d) float32 a layer.

    Raises:
        InputError: See `task_projections`.
    """
    return tuple(
        task_projections(seed, s, tasks=tasks, rank=rank, kind=kind, device=device).astype(np.float32)
        for s in layers
    )


def common_factors(seed: int, layers: Sequence[LayerShape], rank: int, *key: int) -> list[np.ndarray]:
    """Draw A of every layer as plain LoRA starts: A ~ U(-1/sqrt(d), 1/sqrt(d)), equal on all devices.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1. Departure: the paper draws a Gaussian A; this is the
    Kaiming start of PEFT.

    Args:
        seed: The run's seed.
        layers: The adapted layers.
        rank: r.
        key: Numbers that give a draw of its own.

    Returns:
        One (r, d) float64 a layer.
    """
    out: list[np.ndarray] = []
    for index, layer in enumerate(layers):
        bound = layer.in_features**-0.5
        rng = generator(seed, Stream.INITIAL_FACTORS, index, *key)
        out.append(rng.uniform(-bound, bound, (rank, layer.in_features)))
    return out


def input_bases(seed: int, layers: Sequence[LayerShape], rank: int) -> list[np.ndarray]:
    """Draw orthonormal rows A of every layer, A A^T = I: the inputs that a core between frozen bases sees.

    Args:
        seed: The run's seed.
        layers: The adapted layers.
        rank: r.

    Returns:
        One (r, d) float64 a layer.

    Raises:
        InputError: See `check_core`.
    """
    check_core(layers, rank)
    return [orthogonal_rows(seed, s.name, s.in_features, rank) for s in layers]


def output_bases(seed: int, layers: Sequence[LayerShape], rank: int) -> list[np.ndarray]:
    """Draw orthonormal rows U^T of every layer, U^T U = I: the outputs that a core between frozen bases reaches.

    Args:
        seed: The run's seed.
        layers: The adapted layers.
        rank: r.

    Returns:
        One (r, m) float64 a layer.

    Raises:
        InputError: See `check_core`.
    """
    check_core(layers, rank)
    return [orthogonal_rows(seed, f"{s.name} outputs", s.out_features, rank) for s in layers]


def check_core(layers: Sequence[LayerShape], rank: int) -> None:
    """Refuse a core that is larger than a layer: there are no more orthonormal directions than dimensions.

    Args:
        layers: The adapted layers.
        rank: r >= 1.

    Raises:
        InputError: A layer has fewer than r inputs or outputs.
    """
    for layer in layers:
        least = min(layer.in_features, layer.out_features)
        if rank > least:
            raise InputError(
                f"`method.rank`: a core of {rank} x {rank} does not fit into layer `{layer.name}`",
                got=f"{layer.in_features} inputs and {layer.out_features} outputs",
                expected=f"rank <= {least}",
                change="Lower `method.rank`, or leave the layer out of `model.target_modules`.",
            )


def check_room(layer: LayerShape, *, tasks: int, rank: int) -> None:
    """Refuse T*r > d: more mutually orthogonal rows than dimensions cannot exist.

    Args:
        layer: The layer; d = layer.in_features.
        tasks: T, >= 1.
        rank: r, >= 1.

    Raises:
        InputError: T*r > d.
    """
    d = layer.in_features
    if tasks * rank > d:
        raise InputError(
            f"`method.rank`: {tasks} tasks of rank {rank} need {tasks * rank} mutually orthogonal rows, and layer "
            f"`{layer.name}` has only {d} inputs",
            got=f"T*r = {tasks * rank} > d = {d}",
            expected=f"T*r <= {d}, that is rank <= {d // tasks} for {tasks} tasks",
            change="Lower `method.rank`, use fewer tasks in `tasks.names`, or set `method.projection=gaussian`, "
            "whose rows are orthogonal only on average.",
        )


def projection_hash(projections: Sequence[np.ndarray]) -> str:
    """Hash all A_t rounded to float32, so that devices can check that they drew the same.

    Source: BLAKE2b (RFC 7693) with a digest of 8 bytes, over the layers' values one after the other.

    Args:
        projections: One array of any shape a layer.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for a in projections:
        digest.update(np.ascontiguousarray(a, dtype=np.float32).tobytes())
    return digest.hexdigest()
