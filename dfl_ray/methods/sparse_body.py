"""The body of a message that says some entries of a vector: which they are, and their values."""

from __future__ import annotations

import numpy as np

from dfl_ray.config.training import Precision
from dfl_ray.methods.gossip import finite_values
from dfl_ray.wire.codec import CodecError, decode_mask, decode_values, encode_mask, encode_values
from dfl_ray.wire.message import MessageError, Refusal


def sparse_body(mask: np.ndarray, values: np.ndarray, precision: Precision) -> bytes:
    """Encode the length of the mask in 4 bytes, the mask, and the values.

    Args:
        mask: (size,) bool of the entries that are said.
        values: (kept,) float32 of these, in their order.
        precision: Number format of the values.

    Returns:
        The bytes.
    """
    packed = encode_mask(mask)
    return len(packed).to_bytes(4, "little") + packed + encode_values(values, precision)


def heard(mask: np.ndarray, values: np.ndarray, precision: Precision) -> np.ndarray:
    """What a receiver of `sparse_body` reads.

    Args:
        mask: (size,) bool of the entries that are said.
        values: (size,) float32 of which those are said.
        precision: Number format of the values.

    Returns:
        (size,) float32, rounded as the values are, 0 in what is not said.
    """
    full = np.zeros(len(mask), np.float32)
    full[mask] = decode_values(encode_values(values[mask], precision), precision, int(mask.sum()))
    return full


def sparse_entries(
    body: bytes | memoryview, size: int, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """Decode what `sparse_body` made.

    Args:
        body: The bytes.
        size: Entries of the whole vector.
        precision: Number format of the values.

    Returns:
        (size,) bool mask and (kept,) float32 values.

    Raises:
        MessageError: Bytes that do not decode, or values that are not finite.
    """
    length = int.from_bytes(body[:4], "little")
    try:
        mask = decode_mask(body[4 : 4 + length], size)
    except CodecError as error:
        raise MessageError(Refusal.CORRUPTED, str(error)) from error
    return mask, finite_values(bytes(body[4 + length :]), precision, int(mask.sum()))
