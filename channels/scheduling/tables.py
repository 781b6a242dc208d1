"""Turning the engine's slots into one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from channels.transfers import TABLE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_KINDS: dict[str, type] = {"delivered": np.bool_, "decoded": np.bool_} | dict.fromkeys(
    ("slot", "source", "destination", "payload_bytes", "attempts", "transfer", "transmission", "subchannel"),
    np.int64,
)


def build_table(parts: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    """Join the slots' rows.

    Args:
        parts: One mapping of column arrays per slot.

    Returns:
        A table with `channels.transfers.TABLE_COLUMNS`, empty but typed when nothing was sent.
    """
    import pandas as pd

    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([part[name] for part in parts])
        if parts
        else np.empty(0, dtype=_KINDS.get(name, np.float64))
        for name in TABLE_COLUMNS
    }
    return pd.DataFrame(columns, copy=False)
