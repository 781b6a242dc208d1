"""One message on air: a fixed header, sections of bytes and a checksum; a wrong one is refused, never averaged.

Header (little endian, 36 bytes): magic u16, format u8, kind u8, precision u8, reserved u8, task i16, sender u32,
version u32, run u32, mask hash u64, body length u32, CRC-32 of header-before-it and body u32.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from dfl_ray.wire.codec import PRECISIONS, Precision

MAGIC = 0xDF1A
FORMAT = 1
_HEAD = struct.Struct("<HBBBBhIIIQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CRC.size
SHARED_TASK = -1


class Kind(IntEnum):
    """What a message carries.

    Attributes:
        ADAPTER: Values of a sender's own adapter, for its neighbours.
        EXPERT: A task's expert, published by the task's author with its mask.
        SKETCH: A task's input sketch.
        MASK: A task's mask and the round in which it comes into force.
        PROJECTION: A task's A.
        BID: What every row of B is worth to a task.
    """

    ADAPTER = 1
    EXPERT = 2
    SKETCH = 3
    MASK = 4
    PROJECTION = 5
    BID = 6


class Refusal(Enum):
    """Why a message was refused.

    Attributes:
        CORRUPTED: The checksum differs, or the body does not decode.
        TRUNCATED: It is shorter or longer than its header says.
        FOREIGN: It is of another format, run, task, author or sender than could have sent it.
        REPLAYED: It is not newer than one already used, or builds on a version the receiver does not have.
        UNKNOWN_MASK: Its values were taken under a mask the receiver does not know.
        NOT_FINITE: It holds NaN, infinity or a number out of range.
    """

    CORRUPTED = "corrupted"
    TRUNCATED = "truncated"
    FOREIGN = "foreign"
    REPLAYED = "replayed"
    UNKNOWN_MASK = "unknown_mask"
    NOT_FINITE = "not_finite"


class MessageError(ValueError):
    """A message that must not be used.

    Args:
        refusal: Why.
        detail: What was found, in words.
    """

    def __init__(self, refusal: Refusal, detail: str) -> None:
        self.refusal = refusal
        super().__init__(f"{refusal.value}: {detail}")


@dataclass(frozen=True)
class Message:
    """A decoded message.

    Attributes:
        kind: What it carries.
        task: Task index, or -1 for an adapter shared by all tasks.
        sender: Device that made it (a relayed published update keeps its author).
        version: Round in which it was made; grows with every message of one (sender, kind, task).
        run: Low 32 bits of the run's identity, so that another run's message is foreign.
        mask_hash: Hash of the mask under which the values were taken; 0 = dense.
        precision: Number format of the values in `body`.
        body: The encoded values and sections.
    """

    kind: Kind
    task: int
    sender: int
    version: int
    run: int
    mask_hash: int
    precision: Precision
    body: bytes


def pack(message: Message) -> bytes:
    """Encode a message; its length is what the radio is charged for.

    Source: the checksum is zlib's CRC-32, over the header before it and the body.

    Args:
        message: The message; its fields fit the header's formats, e.g. task in int16 and version in uint32.

    Returns:
        `HEADER_BYTES` + len(body) bytes.
    """
    head = _HEAD.pack(
        MAGIC, FORMAT, int(message.kind), PRECISIONS.index(message.precision), 0, message.task, message.sender,
        message.version, message.run, message.mask_hash, len(message.body),
    )  # fmt: skip
    return head + _CRC.pack(zlib.crc32(message.body, zlib.crc32(head))) + message.body


def unpack(data: bytes | memoryview) -> Message:
    """Decode and check a message.

    Args:
        data: Header, checksum and body.

    Returns:
        The message, its body copied.

    Raises:
        MessageError: Truncated, corrupted or foreign bytes.
    """
    if len(data) < HEADER_BYTES:
        raise MessageError(Refusal.TRUNCATED, f"{len(data)} bytes, header has {HEADER_BYTES}")
    head, body = bytes(data[: _HEAD.size]), bytes(data[HEADER_BYTES:])
    magic, form, kind, precision, reserved, task, sender, version, run, mask_hash, length = _HEAD.unpack(head)
    if magic != MAGIC or form != FORMAT:
        raise MessageError(Refusal.FOREIGN, f"magic {magic:#x}, format {form}")
    if len(body) != length:
        raise MessageError(Refusal.TRUNCATED, f"body of {len(body)} bytes, {length} announced")
    (checksum,) = _CRC.unpack(bytes(data[_HEAD.size : HEADER_BYTES]))
    if zlib.crc32(body, zlib.crc32(head)) != checksum:
        raise MessageError(Refusal.CORRUPTED, "checksum differs")
    if kind not in Kind.__members__.values() or precision >= len(PRECISIONS) or reserved:
        raise MessageError(Refusal.FOREIGN, f"kind {kind}, precision {precision}, reserved {reserved}")
    return Message(Kind(kind), task, sender, version, run, mask_hash, PRECISIONS[precision], body)


def maker_of(data: bytes | memoryview) -> tuple[int, int]:
    """Read of a message that has been checked already who made it and when, without its body.

    Args:
        data: Header, checksum and body, as `pack` gives them.

    Returns:
        `Message.sender` and `Message.version`.
    """
    _, _, _, _, _, _, sender, version, *_ = _HEAD.unpack(data[: _HEAD.size])
    return sender, version


def mask_hash(mask: np.ndarray) -> int:
    """Hash a boolean mask to 64 bits; 0 stands for "everything kept".

    Source: BLAKE2b (RFC 7693) with a digest of 8 bytes, over the packed bits.

    Args:
        mask: (n,) bool.

    Returns:
        0 if all is kept, else 1 to 2^64 - 1. The length n is no part of the hash.
    """
    if bool(mask.all()):
        return 0
    digest = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=8).digest()
    return max(1, int.from_bytes(digest, "little"))
