"""Segments: short pieces of text, each with the classes that the rules give it.

A segment is what a question is about: five words of some topic, three judgements, animals and their colours.
The same segments make the pre-training text and the tuning tasks; only questions, markers and answers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dfl_ray.tasks.synthetic import words as w

T = TypeVar("T")


class Draws:
    """Cheap scalar draws from a NumPy generator, taken in blocks.

    A scalar call of `Generator` costs microseconds and a text is made of hundreds of them; the stream of
    values depends on the generator alone.

    Args:
        generator: Source of randomness.
        block: Values drawn at a time.
    """

    def __init__(self, generator: np.random.Generator, block: int = 4096) -> None:
        self._generator, self._block, self._left = generator, block, iter(())

    def unit(self) -> float:
        """Draw a uniform float64 in [0, 1)."""
        for value in self._left:
            return value
        self._left = iter(self._generator.random(self._block).tolist())
        return next(self._left)

    def below(self, n: int) -> int:
        """Draw an integer in [0, n), all equally likely up to the rounding of a float64."""
        return int(self.unit() * n)

    def one(self, items: Sequence[T]) -> T:
        """Draw one item, all equally likely."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], k: int) -> list[T]:
        """Draw different items in random order, by a shuffle that stops after `k` items.

        Source: D. E. Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm P. Departure: it goes
        from the front and ends after `k` exchanges.

        Args:
            items: The items; they are not changed.
            k: How many, at most the number of items.

        Returns:
            `k` items; every ordered choice is equally likely.
        """
        pool = list(items)
        for i in range(k):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]


@dataclass(frozen=True)
class Segment:
    """A piece of text and its classes.

    Attributes:
        items: Groups of words; markers may stand between groups, never inside one.
        classes: Rule name -> class index of this segment under the rule.
        question: Names what is asked for, where the segment alone does not say it.
        asides: Further questions, which name their subject, with their answers; pre-training only.
    """

    items: tuple[tuple[str, ...], ...]
    classes: Mapping[str, int]
    question: tuple[str, ...] = ()
    asides: tuple[tuple[tuple[str, ...], str], ...] = ()


def topic(draws: Draws) -> Segment:
    """Make five words, three or four of one topic and the others of as many other topics; class `topic` is 0 to 5.

    Args:
        draws: Source of randomness.

    Returns:
        The segment; the topic is drawn evenly.
    """
    own = draws.below(len(w.TOPICS))
    count = 3 + draws.below(2)
    rest = [k for k in range(len(w.TOPICS)) if k != own]
    others = draws.some(rest, 5 - count)
    kinds = draws.some([own] * count + others, 5)
    return Segment(tuple((draws.one(w.TOPICS[k]),) for k in kinds), {"topic": own})


def mood(draws: Draws) -> Segment:
    """Make four judgements; class `stars` is how many are favourable, 0 to 4.

    Args:
        draws: Source of randomness.

    Returns:
        The segment; `stars` is drawn evenly, and each judgement is negated with probability 0.35.
    """
    stars = draws.below(5)
    items: list[tuple[str, ...]] = []
    for favourable in draws.some([True] * stars + [False] * (4 - stars), 4):
        negated = draws.unit() < 0.35
        word = draws.one(w.GOOD if favourable != negated else w.BAD)
        items.append((w.NOT, word) if negated else (word,))
    return Segment(tuple(items), {"stars": stars})


def pairs(draws: Draws) -> Segment:
    """Make three different animals with colours, and the question `of` one of them.

    Args:
        draws: Source of randomness.

    Returns:
        The segment with the classes `hue` (the asked animal's colour, 0 to 5), `beast` (its index in `ANIMALS`) and
        `clan` (0 to 5).
    """
    animals = draws.some(range(len(w.ANIMALS)), 3)
    colours = [draws.below(len(w.COLOURS)) for _ in animals]
    asked = draws.below(3)
    items = [(w.ANIMALS[a], w.COLOURS[c]) for a, c in zip(animals, colours, strict=True)]
    asides: list[tuple[tuple[str, ...], str]] = []
    for a, c in zip(animals, colours, strict=True):
        asides += [((w.OF, w.ANIMALS[a]), w.COLOURS[c]), ((w.OF, w.ANIMALS[a], w.IS), w.COLOURS[c])]
        asides += [((w.DYE, w.ANIMALS[a]), w.TINTS[c]), ((w.DYE, w.ANIMALS[a], w.IS), w.TINTS[c])]
    question = (w.OF, w.ANIMALS[animals[asked]])
    classes = {"hue": colours[asked], "beast": animals[asked], "clan": w.CLANS[animals[asked]]}
    return Segment(tuple(items), classes, question, tuple(asides))


def numbers(draws: Draws) -> Segment:
    """Make two number words of 0 to 11.

    Args:
        draws: Source of randomness.

    Returns:
        The segment with the classes `sum` (their total modulo 6), `parity` (modulo 2) and `thirds` (modulo 3).
    """
    values = [draws.below(len(w.NUMBERS)) for _ in range(2)]
    total = sum(values)
    return Segment(
        tuple((w.NUMBERS[v],) for v in values), {"sum": total % 6, "parity": total % 2, "thirds": total % 3}
    )


def nouns(draws: Draws) -> Segment:
    """Make a noun, `by`, and another noun, which is a distractor.

    Args:
        draws: Source of randomness.

    Returns:
        The segment with the class `form`, gender and number of the first noun, 0 to 5, drawn evenly.
    """
    form = draws.below(len(w.NOUNS))
    head, other = draws.one(w.NOUNS[form]), draws.one(draws.one(w.NOUNS))
    return Segment(((head,), (w.BY, other)), {"form": form})


def digits(draws: Draws) -> Segment:
    """Make four digits.

    Args:
        draws: Source of randomness.

    Returns:
        The segment with the classes `top` (the largest digit less one, 0 to 5, drawn evenly), `least` (the smallest),
        `start` (the first) and `end` (the last).
    """
    top = 1 + draws.below(6)
    values = [draws.below(top + 1) for _ in range(4)]
    values[draws.below(4)] = top
    classes = {"top": top - 1, "least": min(values), "start": values[0], "end": values[-1]}
    return Segment(tuple((w.DIGITS[v],) for v in values), classes)


def letters(draws: Draws) -> Segment:
    """Make three letters of the answer alphabet, for pre-training text only.

    Args:
        draws: Source of randomness.

    Returns:
        The segment with the classes `head` and `tail`, the first and the last letter, 0 to 5.
    """
    values = [draws.below(len(w.ANSWERS)) for _ in range(3)]
    return Segment(tuple((w.ANSWERS[v],) for v in values), {"head": values[0], "tail": values[-1]})


def animal(draws: Draws) -> Segment:
    """Make one animal, for the related pair of tasks only.

    Args:
        draws: Source of randomness.

    Returns:
        The segment with the classes `clan` (0 to 5) and `beast` (its index in `ANIMALS`).
    """
    index = draws.below(len(w.ANIMALS))
    return Segment(((w.ANIMALS[index],),), {"clan": w.CLANS[index], "beast": index})


RECORD: tuple[Callable[[Draws], Segment], ...] = (topic, mood, pairs, numbers, nouns, digits)
LANGUAGE: tuple[Callable[[Draws], Segment], ...] = (*RECORD, letters)
