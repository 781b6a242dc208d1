"""Makes the text tasks and the small model of docs/results.md from their public sources.

    python -m benchmarks.text_data OUT                       # all tasks, and stories260K
    python -m benchmarks.text_data OUT --names trec,sst2     # some
    python -m benchmarks.text_data OUT --from FOLDER         # from copies FOLDER/<owner>/<repository>/<path>

OUT/tasks/<task>/{train,test}.jsonl are what `tasks.path=OUT/tasks` reads, OUT/models/stories260K is a `model.name`.
Every source is printed with its commit and licence; some forbid commercial use, so read them before you publish rows.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.request import urlopen

from benchmarks import stories260k
from benchmarks.text_sources import SOURCES, TEST_SHARE, Reader, TextSource

Row = tuple[str, str]
TRAIN_ROWS, TEST_ROWS = 4000, 1000
STORIES = "stories260K"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and make what it names."""
    known = (*SOURCES, STORIES)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--names", default=",".join(known), help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--from", dest="copies", type=Path, help="folder of copies of the repositories")
    options = parser.parse_args(arguments)
    names = options.names.split(",")
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    for name in names:
        if name == STORIES:
            _say(name, stories260k.SOURCE)
            files = [fetch(stories260k.SOURCE, path, options.copies) for path in stories260k.FILES]
            stories260k.write_folder(options.out / "models" / STORIES, *files)
            continue
        _say(name, SOURCES[name])
        rows = make_task(SOURCES[name], lambda path, s=SOURCES[name]: fetch(s, path, options.copies))
        for split, part in rows.items():
            _write(options.out / "tasks" / name / f"{split}.jsonl", part)
            print(f"  {split}: {len(part):,} rows")
    return 0


def fetch(source: TextSource, path: str, copies: Path | None) -> bytes:
    """Bytes of one file of a source, from a copy on disk or from its address.

    Args:
        source: The source.
        path: Path in its repository.
        copies: Folder that holds `<owner>/<repository>/<path>`, or None for the network.

    Returns:
        The bytes.
    """
    if copies is not None:
        return (copies / source.repository / path).read_bytes()
    with urlopen(source.url(path), timeout=60) as answer:
        return answer.read()


def make_task(source: TextSource, read: Callable[[str], bytes]) -> dict[str, list[Row]]:
    """Read, clean and draw the rows of a task; the same files give the same rows.

    A prompt that comes twice is kept once, one with two answers not at all, and a training prompt that is also held
    out is left out of training. At most `TRAIN_ROWS` and `TEST_ROWS` are drawn, by `random.Random(0)`.

    Args:
        source: The source.
        read: Bytes of one of its files.

    Returns:
        Rows by split.
    """
    rng = random.Random(0)
    train, test = _unique(_rows(source.train, read)), _unique(_rows(source.test, read))
    if not source.test:
        rng.shuffle(train)
        held_out = round(TEST_SHARE * len(train))
        train, test = train[held_out:], train[:held_out]
    kept = {_key(prompt) for prompt, _ in test}
    train = [row for row in train if _key(row[0]) not in kept]
    return {
        "train": _draw(train, TRAIN_ROWS, rng, source.labels),
        "test": _draw(test, TEST_ROWS, rng, source.labels),
    }


def _rows(files: Mapping[str, Reader], read: Callable[[str], bytes]) -> list[Row]:
    return [row for path, reader in files.items() for row in reader(read(path).decode("utf-8", "replace"))]


def _key(prompt: str) -> str:
    return " ".join(prompt.lower().split())


def _unique(rows: Iterable[Row]) -> list[Row]:
    answers: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Row] = {}
    for prompt, answer in rows:
        answers[_key(prompt)].add(answer)
        first.setdefault(_key(prompt), (prompt, answer))
    return [row for key, row in first.items() if len(answers[key]) == 1]


def _draw(rows: list[Row], most: int, rng: random.Random, labels: str) -> list[Row]:
    """At most so many rows in random order, of the labels in turn unless they are to be as they are."""
    rows = rng.sample(rows, len(rows))
    if labels != "as_they_are":
        places: Counter[str] = Counter()
        turns: list[tuple[int, Row]] = []
        for row in rows:
            turns.append((places[row[1]], row))
            places[row[1]] += 1
        if labels == "equal":
            most = min(most // len(places), *places.values()) * len(places)
        rows = [row for _, row in sorted(turns, key=lambda pair: pair[0])]
    return rng.sample(rows[:most], min(most, len(rows)))


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False) for prompt, answer in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _say(name: str, source: TextSource) -> None:
    print(f"{name}: https://github.com/{source.repository} at {source.commit}; licence: {source.licence}")


if __name__ == "__main__":
    sys.exit(main())
