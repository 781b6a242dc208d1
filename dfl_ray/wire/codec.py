"""Values on air: float32, float16, bfloat16 or int8 in blocks, as pure functions of arrays.

`decode_values(encode_values(x, p), p, n)` is exact for float32. int8 stores, for every block of 64 consecutive
values, a float16 scale max|x|/127 and one byte a value. Departure from "a scale per row": kept values have no
rows once an element mask has thinned them out, and a scale for each 8-value row would cost a quarter more.
"""

from __future__ import annotations

import numpy as np

from dfl_ray.config.methods import Precision

BLOCK = 64
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "bfloat16", "int8")
FLOAT16_MAX = 65504.0
BFLOAT16_MAX = (2 - 2**-7) * 2.0**127


class CodecError(ValueError):
    """Bytes that do not decode to the announced number of values."""


def encoded_size(count: int, precision: Precision) -> int:
    """Bytes that `encode_values` makes of `count` values.

    4 n for float32, 2 n for float16 and bfloat16, n + 2 ceil(n / 64) for int8.

    Args:
        count: n, >= 0.
        precision: Number format.

    Returns:
        Length in bytes.
    """
    if precision == "int8":
        return 2 * -(-count // BLOCK) + count
    return count * (4 if precision == "float32" else 2)


def encode_values(values: np.ndarray, precision: Precision) -> bytes:
    """Encode a flat float32 array, little endian, rounding to nearest even.

    int8: for each block of 64 values a scale c = max|x| / 127, rounded up to float16, then round(x / c) in [-127,
    127]. Values beyond what float16 or bfloat16 can hold, or float16 scales in int8, are clipped.

    Source: float16 is binary16 of IEEE 754; bfloat16 is the upper half of a float32.

    Args:
        values: (n,) float32, finite.
        precision: Number format.

    Returns:
        `encoded_size(n, precision)` bytes; for int8 all scales come before the values.
    """
    x = np.ascontiguousarray(values, dtype=np.float32)
    if precision == "float32":
        return x.astype("<f4").tobytes()
    if precision == "float16":
        return np.clip(x, -FLOAT16_MAX, FLOAT16_MAX).astype("<f2").tobytes()
    if precision == "bfloat16":
        return to_bfloat16(np.clip(x, -BFLOAT16_MAX, BFLOAT16_MAX)).astype("<u2").tobytes()
    scales, codes = _quantise(x)
    return scales.astype("<f2").tobytes() + codes[: len(x)].tobytes()


def decode_values(data: bytes | memoryview, precision: Precision, count: int) -> np.ndarray:
    """Decode what `encode_values` made.

    Args:
        data: The bytes.
        precision: Number format.
        count: Number of values.

    Returns:
        (count,) float32.

    Raises:
        CodecError: The length is wrong for `count` values.
    """
    if len(data) != encoded_size(count, precision):
        raise CodecError(
            f"{len(data)} bytes for {count} {precision} values, {encoded_size(count, precision)} expected"
        )
    if precision == "float32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if precision == "float16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    if precision == "bfloat16":
        return from_bfloat16(np.frombuffer(data, "<u2"))
    blocks = -(-count // BLOCK)
    scales = np.frombuffer(data[: 2 * blocks], "<f2").astype(np.float32)
    codes = np.frombuffer(data[2 * blocks :], np.int8).astype(np.float32)
    return codes * np.repeat(scales, BLOCK)[:count]


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even.

    Args:
        x: (n,) float32, finite.

    Returns:
        (n,) uint16, the bits.
    """
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """What `to_bfloat16` gave, as (n,) float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks = -(-len(x) // BLOCK)
    padded = np.zeros(blocks * BLOCK, np.float32)
    padded[: len(x)] = x
    table = padded.reshape(blocks, BLOCK)
    limit = np.minimum(np.abs(table).max(axis=1), FLOAT16_MAX * 127) / 127
    # The scale is rounded up to float16 so that the largest value never overflows its byte.
    scales = limit.astype(np.float16)
    low = scales.astype(np.float32) < limit
    # The largest float16 has no next one; it is never too low.
    scales[low] = np.nextafter(scales[low], np.float16(np.inf))
    wide = scales.astype(np.float32)[:, None]
    codes = np.rint(np.divide(table, wide, out=np.zeros_like(table), where=wide > 0))
    return scales, np.clip(codes, -127, 127).astype(np.int8).reshape(-1)


def encode_mask(mask: np.ndarray) -> bytes:
    """Encode a boolean mask as a bitmask or as the gaps between kept entries, whichever is smaller.

    Layout: one byte (0 = all kept, 1 = bitmask, 2 = gaps), then the data. The bitmask has the first entry in the
    lowest bit of the first byte; a gap is a little-endian uint16, the number of dropped entries before the next kept
    one.

    Args:
        mask: (n,) bool.

    Returns:
        1 byte if all is kept, else 1 + ceil(n / 8) or, for k kept entries, 1 + 2 k bytes.
    """
    if bool(mask.all()):
        return b"\x00"
    bitmask = np.packbits(mask, bitorder="little").tobytes()
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    if len(gaps) and int(gaps.max()) < 2**16 and 2 * len(gaps) < len(bitmask):
        return b"\x02" + gaps.astype("<u2").tobytes()
    return b"\x01" + bitmask


def mask_size(kept: int, size: int) -> int:
    """Bytes that `encode_mask` makes of a mask that keeps `kept` of `size` entries.

    Exact, but for one case that depends on where the entries lie: fewer than one in sixteen kept and a run of
    65,536 or more dropped entries in a row, where the mask is a bitmask after all.

    Args:
        kept: Kept entries, 0 to `size`.
        size: All entries.

    Returns:
        Length in bytes.
    """
    if kept == size:
        return 1
    bitmask = -(-size // 8)
    return 1 + (2 * kept if 0 < 2 * kept < bitmask else bitmask)


def decode_mask(data: bytes | memoryview, size: int) -> np.ndarray:
    """Decode what `encode_mask` made.

    Args:
        data: The bytes.
        size: Number of entries.

    Returns:
        (size,) bool.

    Raises:
        CodecError: Wrong kind, length or index.
    """
    kind, body = (bytes(data[:1]), data[1:])
    mask = np.zeros(size, bool)
    if kind == b"\x00" and len(body) == 0:
        mask[:] = True
    elif kind == b"\x01" and len(body) == -(-size // 8):
        mask[:] = np.unpackbits(np.frombuffer(body, np.uint8), count=size, bitorder="little").astype(bool)
    elif kind == b"\x02" and len(body) % 2 == 0:
        index = np.cumsum(np.frombuffer(body, "<u2").astype(np.int64) + 1) - 1
        if len(index) and int(index[-1]) >= size:
            raise CodecError(f"mask index {int(index[-1])} beyond {size} entries")
        mask[index] = True
    else:
        raise CodecError(f"a mask of {size} entries can't be {len(data)} bytes of kind {kind!r}")
    return mask
