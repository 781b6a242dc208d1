"""Messages that were changed on their way or made by a stranger: refused, or exactly what they say."""

from __future__ import annotations

import zlib
from contextlib import suppress

import numpy as np
import pytest

from dfl_ray.methods.gossip import finite_values
from dfl_ray.wire.codec import CodecError, decode_mask, encode_mask, encode_values
from dfl_ray.wire.message import HEADER_BYTES, Kind, Message, MessageError, pack, unpack

PRECISIONS = ("float32", "float16", "bfloat16", "int8")
VALUES = 70


def messages(rng):
    """One message of each precision and some of masks, with random fields."""
    out = []
    for k, precision in enumerate(PRECISIONS):
        body = encode_values(rng.normal(size=VALUES).astype(np.float32), precision)
        out.append(pack(Message(Kind.ADAPTER, k - 1, k, 3, 99, 0, precision, body)))
    for kept in (0, 3, VALUES):
        body = encode_mask(rng.permutation(VALUES) < kept)
        out.append(pack(Message(Kind.MASK, 1, 2, 5, 99, 0, "float32", body)))
    return out


def mutated(rng, known):
    """A message with up to four changes: bytes set, bits flipped, parts removed, repeated, or of another message."""
    data = bytearray(known[rng.integers(len(known))])
    for _ in range(rng.integers(1, 5)):
        place, length = int(rng.integers(max(1, len(data)))), int(rng.integers(1, 9))
        match int(rng.integers(5)):
            case 0 if data:
                data[place] = int(rng.integers(256))
            case 1 if data:
                data[place] ^= 1 << int(rng.integers(8))
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case _:
                other = known[rng.integers(len(known))]
                data[place : place + length] = other[place : place + length]
    if rng.integers(2) and len(data) >= HEADER_BYTES:
        # as somebody does who knows the format: the announced length and the checksum are made right
        length = len(data) - HEADER_BYTES
        data[HEADER_BYTES - 8 : HEADER_BYTES - 4] = length.to_bytes(4, "little")
        checksum = zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[: HEADER_BYTES - 4]))
        data[HEADER_BYTES - 4 : HEADER_BYTES] = checksum.to_bytes(4, "little")
    return bytes(data)


def read(data):
    """Whether a message is taken; what is taken is exactly what its bytes say, its values finite, its mask whole."""
    try:
        message = unpack(data)
    except MessageError:
        return False
    assert pack(message) == data
    with suppress(MessageError):
        values = finite_values(message.body, message.precision, VALUES)
        assert values.shape == (VALUES,) and np.isfinite(values).all()
    with suppress(CodecError):
        assert decode_mask(message.body, VALUES).shape == (VALUES,)
    return True


@pytest.mark.parametrize("count", [4000, pytest.param(1_000_000, marks=pytest.mark.exhaustive)])
def test_mutated_messages_are_refused_or_mean_what_they_say(count):
    rng = np.random.default_rng(11)
    known = messages(rng)
    assert all(read(data) for data in known)
    taken = sum(read(mutated(rng, known)) for _ in range(count))
    # both happen: the checksum made right lets changed values through, as it must
    assert 0.02 * count < taken < 0.9 * count
