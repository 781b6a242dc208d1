"""Why a run ended before its last round, and what was told on its way, from its `run.json`, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def end_words(info: Mapping[str, Any]) -> str:
    """Why a run failed, or ended before its last round.

    Args:
        info: Its `run.json`.

    Returns:
        One or more sentences; empty for a run that goes on or has reached its last round, and for one that failed
        before reasons were recorded.
    """
    if info.get("state") == "failed":
        return str(info.get("failed_by", ""))
    after = info.get("ended_early_after")
    if after is None:
        return ""
    return f"ended after round {after}: {info.get('stopped_by', 'its caller (`on_round_end`) ended it')}"


def first_sentence(text: str) -> str:
    """The first sentence of a paragraph, for a line in a list."""
    return text.split("\n")[0].split(". ")[0]
