"""The header of a GGUF file, read with the standard library: is the file whole, and what model is it?"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import BinaryIO

from dfl_ray.errors import InputError
from dfl_ray.models.checks import shortened

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_LONGEST = 2**31
_DEEPEST = 4
_LONGEST_KEPT = 1024
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

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
        names: Names of the tensors.
        size_bytes: Bytes that the file must have for all tensors to be in it.
        values: Number of values in all tensors.
        keys: Key -> number, text, or tuple of at most `_LONGEST_KEPT` numbers; None in the place of other arrays.
        files: The file, or all files that it was split into.
    """

    architecture: str
    has_tokenizer: bool
    names: tuple[str, ...]
    size_bytes: int
    values: int
    keys: Mapping[str, object] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def tensors(self) -> int:
        """Number of tensors."""
        return len(self.names)

    @property
    def model_keys(self) -> dict[str, object]:
        """The keys of the architecture, without its name before them."""
        prefix = f"{self.architecture}."
        return {k.removeprefix(prefix): v for k, v in self.keys.items() if k.startswith(prefix)}


def read_gguf_header(path: Path) -> GgufHeader:
    """Read a GGUF file's header and check that the file holds all tensors that it lists.

    The format is the magic "GGUF", a version, the numbers of tensors and of key-value pairs, the pairs, one record a
    tensor (name, shape, type, offset), and the data, aligned to `general.alignment` bytes (32 without it). Everything
    is little endian here; the lengths of tensors of types unknown to this module are not checked.

    Args:
        path: The file; of a model that llama.cpp split into several, the first.

    Returns:
        The header; of a split model, with the tensors of all its files.

    Raises:
        InputError: It is no GGUF file of version 2 or 3, its header can't be read, it is cut short, or files that
            belong to it are missing.

    Source: ggml, docs/gguf.md, versions 2 and 3.
    """
    header = _read_one(path)
    if _number(header, "split.count") > 1:
        header = _joined(header, path)
    if header.tensors == 0:
        raise _not_whole(path, header, "a file with weights")
    return header


def _read_one(path: Path) -> GgufHeader:
    """The header of one file, which must be whole."""
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
    if size < header.size_bytes:
        raise _not_whole(path, header, f"at least {header.size_bytes} bytes")
    return replace(header, files=(path,))


def _not_whole(path: Path, header: GgufHeader, expected: str) -> InputError:
    return InputError(
        f"The GGUF file {path} is not whole",
        got=f"{path.stat().st_size} bytes with {header.tensors} tensors listed",
        expected=expected,
        change="Fetch or copy the file again.",
    )


def _joined(first: GgufHeader, path: Path) -> GgufHeader:
    """The header of a split model: keys of the first file, tensors of all."""
    count, number = _number(first, "split.count"), _number(first, "split.no") + 1
    found = _PART.fullmatch(path.name)
    named = found is not None and (int(found[2]), int(found[3])) == (number, count)
    stem = found[1] if found is not None and named else "NAME"
    files = [path.with_name(f"{stem}-{k:05}-of-{count:05}.gguf") for k in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if not named or missing or number != 1:
        raise InputError(
            f"The GGUF file {path} is part {number} of {count} of a model",
            got=f"{shortened(missing)} not beside it" if missing and named else f"the name {path.name}",
            expected=f"{files[0].name} to {files[-1].name} in one folder, and the first of them as `model.name`",
            change="Fetch what is missing under its own name, or make one file of them: "
            f"llama-gguf-split --merge {files[0].name} OUT.gguf",
        )
    others = [_read_one(file) for file in files[1:]]
    names = tuple(name for header in (first, *others) for name in header.names)
    said = _number(first, "split.tensors.count") or len(names)
    if len(set(names)) != said or len(names) != said:
        raise InputError(
            f"The {count} files of the GGUF model {path} do not belong together",
            got=f"{len(names)} tensors with {len(set(names))} names",
            expected=f"{said} (split.tensors.count)",
            change="Fetch all of them again, from one place.",
        )
    values = sum(header.values for header in (first, *others))
    return replace(first, names=names, values=values, files=tuple(files))


def _number(header: GgufHeader, key: str) -> int:
    """A key's whole number; 0 where it is not there."""
    value = header.keys.get(key, 0)
    return value if isinstance(value, int) else 0


def is_gguf(path: str | Path) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return str(path).lower().endswith(".gguf")


def check_gguf(path: Path) -> GgufHeader:
    """Refuse a GGUF file that could not be loaded, before anything heavy is imported.

    Args:
        path: The file.

    Returns:
        Its header.

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
    return header


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
    names = tuple(name for name, _, _ in found)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"alignment {alignment!r}")
    start = -(-file.tell() // alignment) * alignment
    # Files behind the first of a split model hold nothing but their number.
    architecture = values.get("general.architecture", "" if values.get("split.no") else None)
    if not isinstance(architecture, str):
        raise ValueError("no general.architecture")
    end = start + max(end for _, end, _ in found) if found else file.tell()
    count = sum(count for _, _, count in found)
    return GgufHeader(architecture, "tokenizer.ggml.tokens" in values, names, end, count, values)


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
    """A value; a short array of numbers as a tuple and None for another, since nothing here asks for more."""
    if kind in _SCALARS:
        return read(_SCALARS[kind])
    if kind == _STRING:
        return _text(file, read)
    if kind != _ARRAY or depth > _DEEPEST:
        raise ValueError(f"a value of unknown type {kind}")
    inner, length = int(read("I")), read("Q")
    if inner in _SCALARS:
        content = _exactly(file, length * struct.calcsize("<" + _SCALARS[inner]))
        return None if length > _LONGEST_KEPT else struct.unpack(f"<{length}{_SCALARS[inner]}", content)
    for _ in range(length):
        if inner == _STRING:
            _exactly(file, read("Q"))
        else:
            _value(file, read, inner, depth + 1)
    return None


def _tensor(file: BinaryIO, read: Callable[[str], int]) -> tuple[str, int, int]:
    """A tensor's name, the first byte behind it, counted from the start of the data, and the number of its values."""
    name, dimensions = _text(file, read), int(read("I"))
    if dimensions > 8:
        raise ValueError(f"tensor {name[:80]!r} of {dimensions} dimensions")
    shape = [read("Q") for _ in range(dimensions)]
    block, block_bytes = _BLOCKS.get(int(read("I")), (1, 0))
    return name, read("Q") + prod(shape) // block * block_bytes, prod(shape)
