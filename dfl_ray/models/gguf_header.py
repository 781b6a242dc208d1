"""The header of a GGUF file, read with the standard library: is the file whole, and what model is it?"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import BinaryIO

from dfl_ray.errors import InputError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_LONGEST = 2**31
_DEEPEST = 4

_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
}  # fmt: skip
"""ggml's number of a tensor type -> values in a block, bytes of a block; enum ggml_type of ggml.h."""


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        architecture: `general.architecture`, such as "llama".
        has_tokenizer: Whether it carries a tokenizer.
        tensors: Number of tensors.
        size_bytes: Bytes that the file must have for all tensors to be in it.
        values: Number of values in all tensors.
    """

    architecture: str
    has_tokenizer: bool
    tensors: int
    size_bytes: int
    values: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Read a GGUF file's header and check that the file holds all tensors that it lists.

    The format is the magic "GGUF", a version, the numbers of tensors and of key-value pairs, the pairs, one record a
    tensor (name, shape, type, offset), and the data, aligned to `general.alignment` bytes (32 without it). Everything
    is little endian here; the lengths of tensors of types unknown to this module are not checked.

    Args:
        path: The file.

    Returns:
        The header.

    Raises:
        InputError: It is no GGUF file of version 2 or 3, its header can't be read, or it is cut short.

    Source: ggml, docs/gguf.md, versions 2 and 3.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise InputError(
                f"The model file {path} is not a GGUF file",
                got=f"{size} bytes that begin with {magic!r}",
                expected="a file that begins with b'GGUF'",
                change="If it is a large-file pointer or an error page, fetch the file itself.",
            )
        try:
            header = _parse(file)
        except (ValueError, struct.error, OverflowError, MemoryError) as error:
            raise InputError(
                f"The header of the GGUF file {path} can't be read",
                got=f"{error} in a file of {size} bytes",
                expected=f"a whole little-endian GGUF file of version {_VERSIONS[0]} or {_VERSIONS[1]}",
                change="Fetch or copy the file again.",
            ) from None
    if size < header.size_bytes or header.tensors == 0:
        raise InputError(
            f"The GGUF file {path} is not whole",
            got=f"{size} bytes with {header.tensors} tensors listed",
            expected=f"at least {header.size_bytes} bytes" if header.tensors else "a file with weights",
            change="Fetch or copy the file again.",
        )
    return header


def is_gguf(path: str | Path) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return str(path).lower().endswith(".gguf")


def check_gguf(path: Path) -> None:
    """Refuse a GGUF file that could not be loaded, before anything heavy is imported.

    Args:
        path: The file.

    Raises:
        InputError: It is not there, not whole, has no tokenizer, or the `gguf` package is not installed.
    """
    if not path.is_file():
        raise InputError(
            "The model file does not exist" if not path.exists() else "The model is no GGUF file",
            got=str(path),
            expected="a .gguf file",
            change="Check model.name.",
        )
    header = read_gguf_header(path)
    if not header.has_tokenizer:
        raise InputError(
            f"The GGUF file {path} has no tokenizer",
            got=f"architecture {header.architecture!r} without the key tokenizer.ggml.tokens",
            expected="a language model with its tokenizer in the same file",
            change="Choose another file for `model.name`.",
        )
    if find_spec("gguf") is None:
        raise InputError(
            f"`model.name` is a GGUF file ({path.name}) but the library `gguf` is not installed",
            change="Install it: `pip install 'dfl-ray[gguf]'`",
        )


def _parse(file: BinaryIO) -> GgufHeader:
    read = _reader(file)
    version = read("I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version}")
    tensors, pairs = read("Q"), read("Q")
    if max(tensors, pairs) > _LONGEST:
        raise ValueError(f"{tensors} tensors and {pairs} keys")
    values: dict[str, object] = {}
    for _ in range(pairs):
        key = _text(file, read)
        values[key] = _value(file, read, int(read("I")))
    found = [_tensor(file, read) for _ in range(tensors)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"alignment {alignment!r}")
    start = -(-file.tell() // alignment) * alignment
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise ValueError("no general.architecture")
    end, count = start + max((end for end, _ in found), default=0), sum(count for _, count in found)
    return GgufHeader(architecture, "tokenizer.ggml.tokens" in values, tensors, end, count)


def _reader(file: BinaryIO) -> Callable[[str], int]:
    def read(form: str) -> int:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]

    return read


def _text(file: BinaryIO, read: Callable[[str], int]) -> str:
    return _exactly(file, read("Q")).decode("utf-8")


def _exactly(file: BinaryIO, length: int) -> bytes:
    found = file.read(length) if length <= _LONGEST else b""
    if len(found) != length:
        raise ValueError(f"a value of {length} bytes that is not there")
    return found


def _value(file: BinaryIO, read: Callable[[str], int], kind: int, depth: int = 0) -> object:
    """A value; of an array only its length, since nothing here asks for more."""
    if kind in _SCALARS:
        return read(_SCALARS[kind])
    if kind == _STRING:
        return _text(file, read)
    if kind != _ARRAY or depth > _DEEPEST:
        raise ValueError(f"a value of unknown type {kind}")
    inner, length = int(read("I")), read("Q")
    if inner in _SCALARS:
        _exactly(file, length * struct.calcsize("<" + _SCALARS[inner]))
        return length
    for _ in range(length):
        if inner == _STRING:
            _exactly(file, read("Q"))
        else:
            _value(file, read, inner, depth + 1)
    return length


def _tensor(file: BinaryIO, read: Callable[[str], int]) -> tuple[int, int]:
    """First byte behind a tensor, counted from the start of the data, and the number of its values."""
    name, dimensions = _text(file, read), int(read("I"))
    if dimensions > 8:
        raise ValueError(f"tensor {name[:80]!r} of {dimensions} dimensions")
    shape = [read("Q") for _ in range(dimensions)]
    block, block_bytes = _BLOCKS.get(int(read("I")), (1, 0))
    return read("Q") + prod(shape) // block * block_bytes, prod(shape)
