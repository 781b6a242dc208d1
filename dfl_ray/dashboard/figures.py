"""Figures as JSON, drawn when they are asked for, one at a time, and kept while the run's records stay the same."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pyarrow as pa

from dfl_ray.dashboard.library import Kept, Library
from dfl_ray.errors import InputError
from dfl_ray.views.catalog import draw
from dfl_ray.views.style import empty

MOST_BYTES = 64_000_000
"""Figures that are kept in memory."""


class Figures:
    """Draws the figures of the catalogue for the pages.

    One is drawn at a time: each may read millions of rows, and the memory of one is what the server needs.

    Args:
        library: The runs.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._kept: Kept[bytes] = Kept(MOST_BYTES, len)
        self._lock = threading.Lock()

    def json(
        self, name: str, names: Sequence[str], *, round: int | None = None, device: int | None = None
    ) -> bytes:
        """Give a figure as JSON that plotly.js draws.

        Args:
            name: Its name in the catalogue.
            names: Paths of the runs below the root.
            round: Round as of which it is drawn; none = the last.
            device: Index of the device, for a figure of one.

        Returns:
            UTF-8 JSON with `data` and `layout`. A figure that cannot be drawn says why in its place.

        Raises:
            InputError: No such figure, run, round or device.
        """
        key = (name, tuple((run, self._library.version(run)) for run in names), round, device)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                return kept
            try:
                picture = draw(name, [self._library.run(run) for run in names], round=round, device=device)
            except InputError:
                raise
            except Exception as error:  # a damaged run must not take the page's other figures with it
                why = f"It could not be drawn: {type(error).__name__}: {error}"[:300]
                return str(empty(name, why).to_json()).encode()
            finally:
                pa.default_memory_pool().release_unused()
            return self._kept.put(key, str(picture.to_json()).encode())
