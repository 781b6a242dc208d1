"""Down-projections A_t: static, drawn from the seed, orthogonal between tasks where there is room.

`A_t = c * Q[t*r:(t+1)*r]` with Q orthogonal (d, d) and c = 1/sqrt(3), the row energy of the usual Kaiming start
(uniform on [-1/sqrt(d), 1/sqrt(d)] has E|a|^2 = 1/3), so that A_i A_j^T = 0 for i != j and A_t A_t^T = c^2 I.

Source: arXiv 2602.20492 draws an unnormalised random A; the exact orthogonal form is this project's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.seeds import Stream, generator

ROW_NORM = 3**-0.5
Projection = Literal["exact", "gaussian", "per_device"]


def _layer_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")


def orthogonal_matrix(seed: int, layer: str, size: int) -> np.ndarray:
    """Draw the Haar-distributed orthogonal matrix of one layer.

    QR of a Gaussian matrix in float64 on the CPU, with the sign of R's diagonal fixed to plus, which makes the
    factorisation unique and Q Haar.

    Source: Mezzadri 2007 (arXiv math-ph/0609050), "How to generate random matrices from the classical compact
    groups".

    Args:
        seed: The run's seed.
        layer: The layer's name; each layer has a matrix of its own.
        size: d, number of rows and columns.

    Returns:
        (d, d) float64 with Q Q^T = I to 1e-12.
    """
    gaussian = generator(seed, Stream.PROJECTION, _layer_key(layer)).standard_normal((size, size))
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
        kind: "exact" (rows of one orthogonal matrix, each of norm 1/sqrt(3)), "gaussian" (independent N(0, 1/d)
            entries), "per_device" (an orthogonal matrix of the device's own: the ablation in which nothing is
            shared).
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
    own_seed = seed if kind == "exact" else seed + 7919 * (device + 1)
    rows = orthogonal_matrix(own_seed, layer.name, d)[: tasks * rank]
    return ROW_NORM * rows.reshape(tasks, rank, d)


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
