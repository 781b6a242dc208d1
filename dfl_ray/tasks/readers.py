"""Readers of task files: JSON Lines, JSON arrays, CSV and Parquet, each record with its place in the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dfl_ray.errors import InputError, first_line, nearest
from dfl_ray.tasks.rows import NOT_UTF8, BadRow, DoubledFields

Record = tuple[str, Any]
"""Place in the file, and the record there or the BadRow it is."""

Reader = Callable[[Path, tuple[str, ...]], Iterator[Record]]

_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_OTHER_SEPARATORS = {";": "`;`", "\t": "tabs", "|": "`|`"}
_HEAD_BYTES = 4096
_COMPRESSED = ".gz"
_ESCAPED = re.compile("[\udc80-\udcff]")


def read_records(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """Read a task file by its suffix, in whatever case; all but Parquet may be compressed (`.gz`).

    Args:
        path: The file.
        fields: Names of the fields that will be used; a table must have each of them as one column.

    Yields:
        The place of each record, such as "line 12", and the record or the `BadRow` that it is.

    Raises:
        InputError: The file as a whole cannot be read: another encoding, no header, broken quotes, not
            Parquet, cut short.
    """
    reader = READERS[suffix_of(path.name) or ""]
    try:
        if reader is not _parquet:
            _refuse_foreign_encoding(path)
        yield from reader(path, fields)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"The task file {path} cannot be read", got=str(error)) from None


def suffix_of(name: str) -> str | None:
    """Find the suffix by which a file's reader goes, in whatever case and with or without `.gz`.

    Args:
        name: The file's name.

    Returns:
        The key of `READERS`, or None if no reader takes the file.
    """
    name = name.lower()
    plain = name.removesuffix(_COMPRESSED)
    suffix = "." + plain.rpartition(".")[2]
    known = suffix in READERS and not (plain != name and suffix == ".parquet")
    return suffix if known else None


def stem_of(name: str) -> str:
    """Take the suffix by which a file's reader goes, and `.gz`, off its name.

    Args:
        name: The file's name.

    Returns:
        The rest in small letters: `train` for `Train.JSONL.gz`.
    """
    return name.lower().removesuffix(_COMPRESSED).removesuffix(suffix_of(name) or "")


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.name.lower().endswith(_COMPRESSED) else path.open("rb")


def _refuse_foreign_encoding(path: Path) -> None:
    """UTF-16 and UTF-32 are told by their mark, or by the zero bytes between Latin letters."""
    with _open(path) as file:
        head = file.read(_HEAD_BYTES)
    found = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    sign = "its byte-order mark in line 1"
    if found is None and len(head) > 1:
        zeros = max(head[0::2].count(0), head[1::2].count(0))
        found, sign = ("UTF-16", "zero bytes from line 1 on") if zeros > len(head) // 4 else (None, "")
    if found:
        raise InputError(
            f"The task file {path} is not UTF-8",
            got=f"{found}, by {sign}",
            expected="UTF-8",
            change=f"Convert it: iconv -f {found} -t UTF-8 {path.name}",
        )


def _not_utf8(data: bytes, at: int) -> str:
    """What is wrong with the byte at a place, and what it would be in the encoding it most often comes from."""
    letter = data[at : at + 1].decode("cp1252", errors="replace")
    return f"{NOT_UTF8} (byte {at + 1}): 0x{data[at]:02x}, which is `{letter}` in Windows-1252"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; names that stand twice are remembered, since the last value would win without a word."""
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    names = [name for name, _ in pairs]
    doubled = DoubledFields(record)
    doubled.doubled = frozenset(name for name in record if names.count(name) > 1)
    return doubled


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)


def _jsonl(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    del fields
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            place = f"line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield place, _DECODER.decode(text)
            except UnicodeDecodeError as error:
                yield place, BadRow(place, _not_utf8(line, error.start))
            except json.JSONDecodeError as error:
                yield place, BadRow(place, f"not JSON: {error.msg} at column {error.colno}")
            except (RecursionError, ValueError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                yield place, BadRow(place, f"not JSON that can be read: {reason}")


def _json(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """An array of records; a file of one object a line under this name is read as JSON Lines."""
    with _open(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        begin = data.rfind(b"\n", 0, error.start) + 1
        raise InputError(
            f"The task file {path} is not UTF-8",
            got=f"line {line}: {_not_utf8(data[begin:], error.start - begin)}",
            expected="UTF-8",
            change=f"Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
        ) from None
    first = text.lstrip()[:1]
    if first == "[":
        yield from _array(path, text)
    elif first == "{" and not _is_one_object(text, fields):
        yield from _jsonl(path, fields)
    elif first:
        got = "one object: " + ", ".join(list(_DECODER.decode(text))[:10]) if first == "{" else f"`{first}`"
        raise InputError(
            f"The task file {path} is not an array of rows",
            got=got,
            expected='[{"prompt": ..., "answer": ...}, ...]',
        )


def _is_one_object(text: str, fields: tuple[str, ...]) -> bool:
    """Whether the whole text is one JSON object that is not itself a row."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return not all(name in value for name in fields)


def _array(path: Path, text: str) -> Iterator[Record]:
    at, line, counted = text.index("[") + 1, 1, 0
    while True:
        at = _after_blanks(text, at)
        if text[at : at + 1] == "]":
            break
        line, counted = line + text.count("\n", counted, at), at
        try:
            record, at = _DECODER.raw_decode(text, at)
            at = _after_blanks(text, at)
            if text[at : at + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting `,` or `]` behind a row", text, at)
        except (ValueError, RecursionError) as error:
            raise _broken_array(path, error) from None
        yield f"line {line}", record
        at += text[at] == ","
    if text[at + 1 :].strip():
        raise _broken_array(path, json.JSONDecodeError("Extra text behind the array", text, at + 1))


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _broken_array(path: Path, error: Exception) -> InputError:
    place = f"line {error.lineno}, column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error) or "nested too deeply"
    return InputError(f"The task file {path} is not JSON", got=place + reason, expected="an array of rows")


def _csv(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    # Bytes that are not UTF-8 become lone surrogates, so that every such row is told and not only the first.
    with (
        _open(path) as raw,
        io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        reader = csv.reader(file, strict=True)
        names = _header(path, reader)
        _refuse_other_separator(path, names, fields)
        _check_columns(path, names, fields)
        while (found := _csv_row(path, reader)) is not None:
            start, cells = found
            reason = _bad_cells(names, cells)
            if reason and len(cells) != len(names) and reader.line_num > start:
                raise _broken_csv(path, start, reader.line_num, reason)
            place = f"line {start}"
            yield place, BadRow(place, reason) if reason else dict(zip(names, cells, strict=True))


def _csv_row(path: Path, reader: Any) -> tuple[int, list[str]] | None:
    """The line in which the next row begins, and its cells; None at the end. Blank lines are no rows."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return None
        except csv.Error as error:
            raise _broken_csv(path, start, reader.line_num, str(error)) from None
        if cells:
            return start, cells


def _broken_csv(path: Path, first: int, last: int, reason: str) -> InputError:
    """A fault of the file and no bad row: where quotes may be broken nobody can tell where rows begin."""
    end = f", read up to line {last}" if last > first else ""
    long = "field limit" in reason
    quotes = f"cells of up to {csv.field_size_limit():,} characters" if long else (
        "one cell for each column; quotes around whole cells only, doubled inside them"
    )  # fmt: skip
    return InputError(
        f"The task file {path} cannot be read as CSV",
        got=f"the row of line {first}{end}: {reason}",
        expected=quotes,
        change=f"Mend the row of line {first}, where a quote may be missing or misplaced; tasks.on_bad_rows=skip "
        "cannot leave it out, since it is not sure where it ends.",
    )


def _refuse_other_separator(path: Path, names: list[str], fields: tuple[str, ...]) -> None:
    if len(names) != 1 or set(fields) <= set(names):
        return
    mark = next((mark for mark in _OTHER_SEPARATORS if mark in names[0]), None)
    if mark is not None:
        raise InputError(
            f"The task file {path} is not separated by commas",
            got=f"the header `{names[0]}`, separated by {_OTHER_SEPARATORS[mark]}",
            expected="a header and rows separated by commas",
            change="Save it again with commas, or as JSON Lines or Parquet.",
        )


def _header(path: Path, reader: Any) -> list[str]:
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise InputError(f"The task file {path} is not CSV", got=f"line 1: {error}") from None
    for name in names:
        if reason := _escaped_byte(name):
            raise InputError(
                f"The task file {path} is not UTF-8", got=f"line 1 (the header): {reason}", expected="UTF-8",
                change=f"Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
            )  # fmt: skip
    return names


def _bad_cells(names: list[str], cells: list[str]) -> str:
    """What is wrong with a CSV record as a whole, or an empty text."""
    if len(cells) > len(names):
        return "more cells than the header has columns"
    if len(cells) < len(names):
        return "fewer cells than the header has columns"
    for name, value in zip(names, cells, strict=True):
        if reason := _escaped_byte(value):
            return f"{reason}, in column `{name}`"
    return ""


def _escaped_byte(text: str) -> str:
    """What is wrong with the first byte that `surrogateescape` kept, or an empty text."""
    found = None if text.isascii() else _ESCAPED.search(text)
    if found is None:
        return ""
    before, data = text[: found.start()], text.encode("utf-8", errors="surrogateescape")
    return _not_utf8(data, len(before.encode("utf-8")))


def _parquet(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, fields)
            number = 0
            for batch in file.iter_batches(columns=list(fields)):
                for index in range(batch.num_rows):
                    number += 1
                    place = f"row {number}"
                    try:
                        yield place, {name: batch.column(name)[index].as_py() for name in fields}
                    except UnicodeDecodeError as error:
                        yield place, BadRow(place, _not_utf8(error.object, error.start))
    except pyarrow.ArrowException as error:
        raise InputError(f"The task file {path} is not Parquet", got=first_line(error)) from None


def _check_columns(path: Path, columns: list[str], fields: tuple[str, ...]) -> None:
    """Every field that is used must be one column: of two of one name, the last would win without a word."""
    for name in fields:
        count = columns.count(name)
        if count == 0:
            raise InputError(
                f"The task file {path} has no column `{name}`",
                got=", ".join(columns) or "an empty file",
                expected=nearest(name, columns) if columns else "a header line and rows",
                change="Map it with tasks.prompt_field or tasks.answer_field." if columns else "",
            )
        if count > 1:
            raise InputError(
                f"The task file {path} has {count} columns named `{name}`",
                got=", ".join(columns),
                expected="one column of each name that is used",
                change="Rename or drop the others.",
            )


READERS: Mapping[str, Reader] = MappingProxyType(
    {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
)
"""Reader of each suffix, in small letters."""
