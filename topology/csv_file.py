"""CSV files in UTF-8, as programs and spreadsheets write them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_csv(path: Path) -> Iterator[csv.DictReader[str]]:
    """Read a CSV with a line of names, with or without the byte-order mark of spreadsheets ("CSV UTF-8").

    Args:
        path: The file.

    Yields:
        Its rows, by the names of their columns.

    Raises:
        ValueError: Naming the file and the place, if it is not in UTF-8 or its quotes are no CSV's.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            yield csv.DictReader(handle, strict=True)
    except UnicodeDecodeError as error:
        kind = "it is in UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else str(error)
        raise ValueError(f"{path}: no CSV in UTF-8: {kind}; save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: no CSV in UTF-8: {error}; correct its quotes") from error
