"""Input sketches: the second moment of z = [A_1; ...; A_T] x over a task's tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.config.methods import Precision
from dfl_ray.engines.batches import prompt_batch
from dfl_ray.engines.training import ScoredModel
from dfl_ray.tasks.tokens import TokenRows
from dfl_ray.wire.codec import CodecError, decode_values, encode_values

ROWS_PER_BATCH = 64
FLOAT16_TINY = 2.0**-28
"""Square of the smallest normal float16: least diagonal entry of a sketch on air."""


def stacked(projections: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """(T, r, d) of each layer to (T*r, d), the rows of z in task order."""
    return [a.reshape(-1, a.shape[-1]) for a in projections]


def sketch(
    model: ScoredModel, projections: Sequence[torch.Tensor], layers: Sequence[int], rows: Sequence[np.ndarray]
) -> np.ndarray:
    """C = mean of z z^T over the tokens of the rows, on the bare base model.

    The base model's inputs (not the adapted model's) are used, so that a sketch never goes stale while experts
    learn: a departure from nothing the paper fixes.

    Args:
        model: The shared base.
        projections: (T, r, d) of every adapted layer.
        layers: Indices of the layers to sketch.
        rows: Token ids, prompt and answer.

    Returns:
        (layers, T*r, T*r) float64, symmetric positive semi-definite.
    """
    flat = stacked(projections)
    place = {layer: k for k, layer in enumerate(layers)}
    width = flat[0].shape[0]
    total = torch.zeros(len(layers), width, width, dtype=torch.float64)
    tokens = 0
    for start in range(0, len(rows), ROWS_PER_BATCH):
        batch, real = prompt_batch(rows[start : start + ROWS_PER_BATCH], most=model.most_positions)
        real = real.to(model.device)

        def see(layer: int, x: torch.Tensor, real: torch.Tensor = real) -> None:
            if layer in place:
                z = x[real].float() @ flat[layer].to(x.device).T
                total[place[layer]] += (z.T @ z).double().cpu()

        model.observe(batch.to(model.device), see)
        tokens += int(real.sum())
    return (total / tokens).numpy()


def training_rows(rows: TokenRows, wanted: np.ndarray) -> list[np.ndarray]:
    """Prompt and answer of the given training rows, end token left out."""
    return [rows.row(int(i))[:-1] for i in wanted]


def encode_sketch(correlation: np.ndarray, precision: Precision) -> bytes:
    """What a sketch message carries of C, (layers, n, n).

    The upper triangles in the given format, or, for int8, of every layer the n root diagonals as float16 and above
    the diagonal the correlation coefficients C_ij / sqrt(C_ii C_jj) in steps of 1/127: coefficients are all of one
    size, so that small directions keep their precision, which a block scale would take from them.
    """
    rows, columns = np.triu_indices(correlation.shape[1], 1 if precision == "int8" else 0)
    if precision != "int8":
        return encode_values(correlation[:, rows, columns].astype(np.float32).reshape(-1), precision)
    root = np.sqrt(np.maximum(np.diagonal(correlation, axis1=1, axis2=2), FLOAT16_TINY))
    coefficient = correlation[:, rows, columns] / (root[:, rows] * root[:, columns])
    codes = np.rint(127 * np.clip(coefficient, -1, 1)).astype(np.int8)
    return encode_values(root.astype(np.float32).reshape(-1), "float16") + codes.tobytes()


def decode_sketch(data: bytes | memoryview, precision: Precision, layers: int, width: int) -> np.ndarray:
    """Rebuild (layers, width, width) float64 from what `encode_sketch` made.

    Raises:
        CodecError: The length is wrong.
    """
    out = np.zeros((layers, width, width))
    if precision != "int8":
        upper = np.triu_indices(width)
        values = decode_values(data, precision, layers * len(upper[0]))
        out[:, upper[0], upper[1]] = values.reshape(layers, -1)
        return out + np.triu(out, 1).transpose(0, 2, 1)
    upper = np.triu_indices(width, 1)
    cut, codes = 2 * layers * width, layers * len(upper[0])
    if len(data) != cut + codes:
        raise CodecError(f"{len(data)} bytes for an int8 sketch of {cut + codes}")
    root = decode_values(data[:cut], "float16", layers * width).reshape(layers, width).astype(np.float64)
    out[:, upper[0], upper[1]] = np.frombuffer(data[cut:], np.int8).reshape(layers, -1) / 127.0
    out += out.transpose(0, 2, 1) + np.eye(width)
    return out * root[:, :, None] * root[:, None, :]
