"""A run folder that has just been made."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.records import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "one", {"seed": 3, "method": {"type": "dlora"}})
