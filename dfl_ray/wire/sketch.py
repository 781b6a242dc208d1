"""Input sketches on air: symmetric matrices of second moments as bytes."""

from __future__ import annotations

import numpy as np

from dfl_ray.config.methods import Precision
from dfl_ray.wire.codec import CodecError, decode_values, encode_values, encoded_size

FLOAT16_TINY = 2.0**-28
"""Square of the smallest normal float16: least diagonal entry of a sketch on air."""


def sketch_size(precision: Precision, layers: int, width: int) -> int:
    """Bytes that `encode_sketch` makes of L matrices of n rows.

    L n (n + 1) / 2 values in the given format; for int8, 2 L n bytes of diagonals and L n (n - 1) / 2 of
    coefficients.

    Args:
        precision: Number format.
        layers: L.
        width: n.

    Returns:
        Length in bytes.
    """
    if precision != "int8":
        return encoded_size(layers * width * (width + 1) // 2, precision)
    return 2 * layers * width + layers * width * (width - 1) // 2


def encode_sketch(correlation: np.ndarray, precision: Precision) -> bytes:
    """Encode the symmetric matrices C of a sketch.

    The upper triangles in the given format, or, for int8, of every layer the n root diagonals as float16 and above
    the diagonal the correlation coefficients C_ij / sqrt(C_ii C_jj) in steps of 1/127: coefficients are all of one
    size, so that small directions keep their precision, which a block scale would take from them.

    Args:
        correlation: C, (layers, n, n), symmetric positive semi-definite.
        precision: Number format.

    Returns:
        `sketch_size(precision, layers, n)` bytes.
    """
    rows, columns = np.triu_indices(correlation.shape[1], 1 if precision == "int8" else 0)
    if precision != "int8":
        return encode_values(correlation[:, rows, columns].astype(np.float32).reshape(-1), precision)
    root = np.sqrt(np.maximum(np.diagonal(correlation, axis1=1, axis2=2), FLOAT16_TINY))
    coefficient = correlation[:, rows, columns] / (root[:, rows] * root[:, columns])
    codes = np.rint(127 * np.clip(coefficient, -1, 1)).astype(np.int8)
    return encode_values(root.astype(np.float32).reshape(-1), "float16") + codes.tobytes()


def decode_sketch(data: bytes | memoryview, precision: Precision, layers: int, width: int) -> np.ndarray:
    """Rebuild the symmetric matrices that `encode_sketch` encoded.

    Args:
        data: The bytes.
        precision: Number format.
        layers: Number of matrices.
        width: n, rows of each.

    Returns:
        (layers, n, n) float64, symmetric; rounding may leave small negative eigenvalues.

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
