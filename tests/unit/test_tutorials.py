"""The tutorials run from top to bottom as they stand on the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "docs/tutorials"


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    found = scope["found"]
    assert found.info["state"] == "done" and len(found.evaluation)  # type: ignore[attr-defined]
