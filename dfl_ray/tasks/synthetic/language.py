"""The pre-training text: segments, strewn markers, then questions with their answers.

A document reads `<segments> => question answer . => question answer . </s>`. After `=>` the base model has
learnt to expect a question, never an answer, so it answers none of the tuning tasks, whose prompts end in
`=>` and ask nothing; the features it needs for them are there. Only `lookup` names its question (`=> of fox`):
there the base model answers with a colour, never with that colour's letter.
"""

from __future__ import annotations

from dfl_ray.tasks.synthetic import words as w
from dfl_ray.tasks.synthetic.segments import LANGUAGE, Draws, Segment, mood, numbers, pairs

# What is slowest to be learnt is drawn more often.
TICKETS = (*LANGUAGE, mood, numbers, pairs)
WORDS = w.vocabulary()
FILLERS = tuple(dict.fromkeys(word for group in w.MARKERS.values() for word in group)) + w.COMMON_MARKERS


def document(
    draws: Draws, *, segments: int, filler_share: float, max_questions: int
) -> tuple[list[str], list[bool]]:
    """One document as words, and for each word whether it is an answer.

    Args:
        draws: Source of randomness.
        segments: Number of different segments, 1..7, in random order.
        filler_share: Chance of a meaningless marker word in each gap between groups, in [0, 1).
        max_questions: At most so many of the questions that the segments can answer, in random order.

    Returns:
        The words, and for each whether it is an answer.
    """
    makers = list(dict.fromkeys(draws.some(TICKETS, len(TICKETS))))[:segments]
    parts = [make(draws) for make in makers]
    text, is_answer = _scattered(draws, parts, filler_share)
    classes: dict[str, int] = {}
    for part in parts:
        classes.update(part.classes)
    asked = [((q,), answers[classes[rule]]) for q, (rule, answers) in w.QUESTIONS.items() if rule in classes]
    asked += [aside for part in parts for aside in part.asides]
    for question, answer in draws.some(asked, min(max_questions, len(asked))):
        text += [w.ARROW, *question, answer, w.STOP]
        is_answer += [False] * (1 + len(question)) + [True, False]
    return text, is_answer


def repetition(draws: Draws) -> tuple[list[str], list[bool]]:
    """Say 4 to 11 different random words twice, which teaches copying from the context.

    Args:
        draws: Source of randomness.

    Returns:
        The words, and for each whether it is an answer: all words of the second saying but the first.
    """
    once = draws.some(WORDS, 4 + draws.below(8))
    return [*once, *once], [False] * (len(once) + 1) + [True] * (len(once) - 1)


def _scattered(draws: Draws, parts: list[Segment], filler_share: float) -> tuple[list[str], list[bool]]:
    """Segments with markers strewn between their groups; sometimes the text itself tells the asked colour."""
    text: list[str] = []
    told: list[int] = []
    for number, part in enumerate(parts):
        if number and draws.unit() < 0.8:
            text.append(w.COMMA)
        for item in (*part.items, *([part.question] if part.question else [])):
            while draws.unit() < filler_share:
                text.append(draws.one(FILLERS))
            text += item
            if w.OF in item and draws.unit() < 0.25:
                told.append(len(text))
                text.append(w.COLOURS[part.classes["hue"]])
        while draws.unit() < filler_share:
            text.append(draws.one(FILLERS))
    return text, [place in told for place in range(len(text))]
