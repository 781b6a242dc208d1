"""Codec and messages: round trips, exact lengths, and every kind of damage refused."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dfl_ray.wire.codec import (
    BLOCK,
    PRECISIONS,
    CodecError,
    decode_mask,
    decode_values,
    encode_mask,
    encode_values,
    encoded_size,
)
from dfl_ray.wire.message import HEADER_BYTES, Kind, Message, MessageError, Refusal, mask_hash, pack, unpack

FLOATS = hnp.arrays(
    np.float32, st.integers(0, 300), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


@given(FLOATS)
def test_float32_is_exact(x):
    np.testing.assert_array_equal(decode_values(encode_values(x, "float32"), "float32", len(x)), x)


@given(FLOATS, st.sampled_from(PRECISIONS))
def test_length_is_what_is_charged(x, precision):
    assert len(encode_values(x, precision)) == encoded_size(len(x), precision)


@given(FLOATS)
def test_float16_and_bfloat16_round_to_nearest(x):
    np.testing.assert_array_equal(
        decode_values(encode_values(x, "float16"), "float16", len(x)), x.astype(np.float16).astype(np.float32)
    )
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(x.copy()).bfloat16().float().numpy()
    np.testing.assert_array_equal(decode_values(encode_values(x, "bfloat16"), "bfloat16", len(x)), expected)


@given(FLOATS)
def test_int8_error_is_at_most_half_a_step_of_its_block(x):
    back = decode_values(encode_values(x, "int8"), "int8", len(x))
    for start in range(0, len(x), BLOCK):
        block, decoded = x[start : start + BLOCK], back[start : start + BLOCK]
        # The scale is rounded up to float16, at most 1/1024 (or one subnormal step) above max/127.
        step = np.abs(block).max() / 127 * (1 + 2**-10) + 6.0e-8
        assert np.abs(block - decoded).max() <= step / 2 * (1 + 1e-5)


def test_int8_keeps_zeros_and_the_largest_value():
    x = np.zeros(130, np.float32)
    x[70] = -3.0
    back = decode_values(encode_values(x, "int8"), "int8", 130)
    assert back[70] == pytest.approx(-3.0, rel=2e-3)
    assert not back[:64].any()


@pytest.mark.parametrize("scale", [2**-24, 0.5, 3.0, 65504.0])
def test_int8_is_exact_for_multiples_of_a_scale_that_float16_holds(scale):
    x = (np.array([-127, -126, -1, 0, 1, 64, 127]) * scale).astype(np.float32)
    np.testing.assert_array_equal(decode_values(encode_values(x, "int8"), "int8", len(x)), x)


@pytest.mark.parametrize("largest", [8.3e6, 65503.9 * 127, 65504.0 * 127, 1e9])
def test_int8_of_the_largest_values_warns_of_nothing(largest):
    # The second block's scale is rounded up; the first one's is the largest there is, or next to it.
    x = np.zeros(2 * BLOCK, np.float32)
    x[0], x[BLOCK] = largest, 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = decode_values(encode_values(x, "int8"), "int8", len(x))
    assert back[0] == pytest.approx(min(largest, 65504.0 * 127), rel=1e-3)
    assert back[BLOCK] == pytest.approx(1.0, rel=1e-3)


def test_int8_ends_at_the_largest_scale_on_both_sides():
    x = np.array([-1e9, 0.0, 1e9], np.float32)
    largest = np.float32(65504.0 * 127)
    np.testing.assert_array_equal(
        decode_values(encode_values(x, "int8"), "int8", 3), [-largest, 0.0, largest]
    )


@given(hnp.arrays(np.bool_, st.integers(1, 2000)))
def test_masks_round_trip(mask):
    data = encode_mask(mask)
    decoded = decode_mask(data, len(mask))
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)
    assert len(data) <= 1 + -(-len(mask) // 8)


def test_sparse_masks_travel_as_indices():
    mask = np.zeros(10_000, bool)
    mask[[3, 17, 9_999]] = True
    assert len(encode_mask(mask)) == 1 + 2 * 3
    assert len(encode_mask(np.ones(10_000, bool))) == 1


@pytest.mark.parametrize(("gap", "kind"), [(2**16 - 1, 2), (2**16, 1), (2**16 + 1, 1), (2**17, 1)])
def test_a_gap_travels_as_an_index_as_long_as_it_fits_16_bits(gap, kind):
    mask = np.zeros(300_000, bool)
    mask[[0, gap + 1]] = True
    data = encode_mask(mask)
    assert data[0] == kind
    np.testing.assert_array_equal(decode_mask(data, len(mask)), mask)


@pytest.mark.parametrize("kept", range(1, 16))
def test_a_mask_takes_the_smaller_of_its_two_forms(kept):
    mask = np.zeros(160, bool)
    mask[::11][:kept] = True
    indices, bitmask = 2 * kept, 20
    assert len(encode_mask(mask)) == 1 + min(indices, bitmask)
    assert encode_mask(mask)[0] == (2 if indices < bitmask else 1)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x03abc", b"\x02\xff\xff\xff\xff", b"\x00x"])
def test_wrong_masks_are_refused(data):
    with pytest.raises(CodecError):
        decode_mask(data, 100)


def test_an_index_just_beyond_the_mask_is_refused_by_name():
    assert decode_mask(b"\x02\x63\x00", 100)[99]
    with pytest.raises(CodecError, match="mask index 100 beyond 100 entries"):
        decode_mask(b"\x02\x64\x00", 100)
    with pytest.raises(CodecError, match="a mask of 100 entries can't be 2 bytes"):
        decode_mask(b"\x00x", 100)


MESSAGES = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    task=st.integers(-1, 1000),
    sender=st.integers(0, 2**32 - 1),
    version=st.integers(0, 2**32 - 1),
    run=st.integers(0, 2**32 - 1),
    mask_hash=st.integers(0, 2**64 - 1),
    precision=st.sampled_from(PRECISIONS),
    body=st.binary(max_size=200),
)


@given(MESSAGES)
def test_messages_round_trip(message):
    data = pack(message)
    assert unpack(data) == message
    assert len(data) == HEADER_BYTES + len(message.body)


@settings(max_examples=300)
@given(MESSAGES, st.data())
def test_any_flipped_bit_is_refused(message, data):
    packed = bytearray(pack(message))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(MessageError):
        unpack(bytes(packed))


@given(MESSAGES, st.data())
def test_any_truncation_is_refused(message, data):
    packed = pack(message)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(MessageError) as caught:
        unpack(packed[:cut])
    assert caught.value.refusal is Refusal.TRUNCATED


def test_mask_hash_is_zero_only_for_dense():
    assert mask_hash(np.ones(9, bool)) == 0
    assert mask_hash(np.zeros(9, bool)) != 0


def test_mask_hash_is_the_little_endian_blake2b_of_the_packed_mask():
    # A device of another version must come to the same number: the bytes are part of the format.
    mask = np.arange(20) % 3 == 0
    digest = hashlib.blake2b(bytes([0b10010010, 0b01001001, 0b00100000]), digest_size=8).digest()
    assert mask_hash(mask) == int.from_bytes(digest, "little")
    hashes = {mask_hash(np.arange(20) == n) for n in range(20)}
    assert len(hashes) == 20


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_largest_values_stay_finite(precision):
    largest = np.finfo(np.float32).max
    found = decode_values(encode_values(np.float32([largest, -largest]), precision), precision, 2)
    assert np.isfinite(found).all()
    assert (np.sign(found) == [1, -1]).all()
