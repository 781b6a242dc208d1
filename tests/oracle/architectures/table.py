"""The table of docs/models.md: `python -m tests.oracle.architectures.table [MODEL_TYPE ...]` tries all or some."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.oracle.architectures.agreement import Verdict, judge
from tests.oracle.architectures.tiny import causal_types

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"
HEADER = "| model type | outcome | layers adapted, or why not |\n|---|---|---|\n"


def line(verdict: Verdict) -> str:
    """One row of the table."""
    return f"| `{verdict.model_type}` | {verdict.outcome} | {verdict.why or 'all linear layers'} |"


def documented() -> dict[str, tuple[str, str]]:
    """Model type -> (outcome, reason) as docs/models.md has it."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(HEADER)[2]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]*) \|$", table, re.M)
    return {name: (outcome, why) for name, outcome, why in rows}


def write(verdicts: Sequence[Verdict]) -> None:
    """Replace the table of docs/models.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before = text[: text.index(HEADER)] if HEADER in text else text.rstrip() + "\n\n"
    DOCUMENT.write_text(before + HEADER + "\n".join(map(line, verdicts)) + "\n", encoding="utf-8")


def main() -> None:
    """Try the named architectures, or all, and write the table."""
    known = documented()
    verdicts = {n: Verdict(n, *known[n]) for n in causal_types() if n in known}
    for model_type in sys.argv[1:] or causal_types():
        with TemporaryDirectory() as folder:
            verdicts[model_type] = judge(model_type, Path(folder))
        print(line(verdicts[model_type]), file=sys.stderr, flush=True)
    write([verdicts[n] for n in sorted(verdicts)])


if __name__ == "__main__":
    main()
