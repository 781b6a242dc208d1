"""The tuning tasks: eight rules over segments, one shared answer alphabet, three strengths of cue.

Every task is a rule of `segments`, a code that turns the rule's classes into letters of the shared alphabet
(the same letter means something else in every task), and marker words of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dfl_ray.errors import InputError, nearest
from dfl_ray.seeds import Stream, sequence
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.synthetic import segments as s
from dfl_ray.tasks.synthetic import words as w

Cue = Literal["strong", "weak", "none"]
TRAIN_ROWS = 2000
TEST_ROWS = 256
SCARCE_ROWS = 64
WEAK_SHARE = 0.25  # chance that a foreign segment joins a weakly cued prompt
MOST_MISSES = 3000  # draws in a row without a new row, after which the prompts count as used up


@dataclass(frozen=True)
class Rule:
    """What makes a task.

    Attributes:
        segment: Makes the segment that the task reads when the prompt holds nothing else.
        carrier: Makes the segment of the record that holds the same information (`weak` and `none`).
        rule: Key of `Segment.classes` that is the task's class.
        code: Letter of each class; equal letters mean different things in different tasks.
        animals: Half-open range of ANIMALS that training rows are about, or None for all.
        scarce: True when the task has few training rows by design.
    """

    segment: Callable[[s.Draws], s.Segment]
    carrier: Callable[[s.Draws], s.Segment]
    rule: str
    code: str
    animals: tuple[int, int] | None = None
    scarce: bool = False


# Insertion order is the order of ALL_TASKS; a task's place also keys its random stream, so only append.
RULES = {
    "topic": Rule(s.topic, s.topic, "topic", "caefdb"),
    "review": Rule(s.mood, s.mood, "stars", "ebdaf"),
    "lookup": Rule(s.pairs, s.pairs, "hue", "dfbeca"),
    "add": Rule(s.numbers, s.numbers, "sum", "becafd"),
    "agree": Rule(s.nouns, s.nouns, "form", "bfcdea"),
    "largest": Rule(s.digits, s.digits, "top", "fadbec"),
    "clan_asked": Rule(s.animal, s.pairs, "clan", "eacbfd", (0, 16), True),
    "clan_told": Rule(s.animal, s.pairs, "clan", "eacbfd", (8, 24), True),
}
ALL_TASKS: tuple[str, ...] = tuple(RULES)
DEFAULT_TASKS: tuple[str, ...] = ALL_TASKS[:6]
RELATED_PAIR: tuple[str, ...] = ALL_TASKS[6:]


def make_tasks(
    names: Sequence[str] = DEFAULT_TASKS,
    *,
    seed: int,
    train_rows: int | None = None,
    test_rows: int | None = None,
    cue: Cue = "strong",
) -> list[Task]:
    """Generate tasks; the same arguments give the same rows, whatever other tasks are asked for.

    Rows are drawn by Philox from (seed, task, cue, split). All prompts of a task differ, so train and test
    are disjoint. Every answer occurs equally often, up to rounding.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).

    Args:
        names: Tasks of `ALL_TASKS`, in the order wanted.
        seed: The run's seed, >= 0.
        train_rows: Training rows a task, >= 1; default 2,000, and 64 for the related pair, whose point is
            scarcity.
        test_rows: Held-out rows a task, >= 1; default 256.
        cue: How far a prompt betrays its task. `strong`: the task's own segment among its own marker words.
            `weak`: common markers, the own segment and each other segment of the record with chance 1/4.
            `none`: the whole record, drawn alike for every task: no router can tell them apart.

    Returns:
        The tasks in the order of `names`.

    Raises:
        InputError: An unknown or repeated name, an unknown cue, a count below 1 or too many rows.
    """
    _check(names, seed, train_rows, test_rows, cue)
    return [_make(name, seed, train_rows, test_rows or TEST_ROWS, cue) for name in names]


def _check(names: Sequence[str], seed: int, train_rows: int | None, test_rows: int | None, cue: str) -> None:
    for name in names:
        if name not in RULES:
            raise InputError("Unknown synthetic task", got=name, expected=", ".join(ALL_TASKS),
                             change=f"Change tasks.names; {nearest(name, RULES)}")  # fmt: skip
    if len(set(names)) != len(names):
        raise InputError("A synthetic task is named twice", got=", ".join(names), expected="each name once",
                         change="Change tasks.names")  # fmt: skip
    if cue not in get_args(Cue):
        raise InputError(
            "Unknown cue", got=str(cue), expected=", ".join(get_args(Cue)), change="Change tasks.cue"
        )
    for key, value in (("tasks.train_rows", train_rows), ("tasks.test_rows", test_rows)):
        if value is not None and value < 1:
            raise InputError(f"{key} is too small", got=str(value), expected=">= 1", change=f"Change {key}")
    if seed < 0:
        raise InputError("The seed is negative", got=str(seed), expected=">= 0", change="Change seed")


def _make(name: str, seed: int, train_rows: int | None, test_rows: int, cue: Cue) -> Task:
    rule = RULES[name]
    train_rows = train_rows or (SCARCE_ROWS if rule.scarce else TRAIN_ROWS)
    seen: set[str] = set()
    test = _rows(name, rule, _draws(seed, name, cue, 1), test_rows, cue, None, seen)
    train = _rows(name, rule, _draws(seed, name, cue, 0), train_rows, cue, rule.animals, seen)
    return Task(name, train, test, tuple(sorted(rule.code)))


def _draws(seed: int, name: str, cue: Cue, split: int) -> s.Draws:
    key = (ALL_TASKS.index(name), get_args(Cue).index(cue), split)
    return s.Draws(np.random.Generator(np.random.Philox(sequence(seed, Stream.SYNTHETIC_TASKS, *key))))


def _rows(
    name: str,
    rule: Rule,
    draws: s.Draws,
    count: int,
    cue: Cue,
    animals: tuple[int, int] | None,
    seen: set[str],
) -> tuple[Row, ...]:
    rows: list[Row] = []
    left = dict.fromkeys(range(len(rule.code)), -(-count // len(rule.code)))
    misses = 0
    while len(rows) < count and misses < MOST_MISSES:
        misses += 1
        prompt, segment = _prompt(name, rule, draws, cue)
        label = segment.classes[rule.rule]
        if not left[label] or prompt in seen:
            continue
        if animals and not animals[0] <= segment.classes["beast"] < animals[1]:
            continue
        seen.add(prompt)
        left[label], misses = left[label] - 1, 0
        rows.append(Row(prompt, rule.code[label]))
    if len(rows) == count:
        return tuple(rows)
    raise InputError(f"Synthetic task {name} has not enough different prompts", got=f"{count} rows asked for",
                     expected=f"at most about {len(seen)} rows",
                     change="Lower tasks.train_rows or tasks.test_rows")  # fmt: skip


def _prompt(name: str, rule: Rule, draws: s.Draws, cue: Cue) -> tuple[str, s.Segment]:
    if cue == "strong":
        segment = rule.segment(draws)
        text = _marked(draws, segment, w.MARKERS[name])
        return " ".join((*text, w.ARROW, *segment.question)), segment
    makers = [m for m in s.RECORD if m is rule.carrier or cue == "none" or draws.unit() < WEAK_SHARE]
    parts = {make: make(draws) for make in makers}
    text = [draws.one(w.COMMON_MARKERS)]
    for make in draws.some(makers, len(makers)):
        text += [word for item in parts[make].items for word in item]
        text.append(w.COMMA)
    text[-1] = w.ARROW
    questions = [word for part in parts.values() for word in part.question]
    return " ".join(text + questions), parts[rule.carrier]


def _marked(draws: s.Draws, segment: s.Segment, markers: Sequence[str]) -> list[str]:
    """Two different markers before, one at a random place between the groups (behind a lone one)."""
    first, second, third = draws.some(markers, 3)
    gap = 1 + draws.below(max(1, len(segment.items) - 1))
    text = [first, second]
    for number, item in enumerate(segment.items, start=1):
        text += item
        if number == gap:
            text.append(third)
    return text
