"""Scores of a free answer against the right one: match of normalised texts, token F1, ROUGE-L; all in [0, 1]."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NOT_WORDS = re.compile(r"[^a-z0-9]+")
_DROPPED = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Write an answer in small letters without punctuation, articles and doubled white space.

    Args:
        text: The answer.

    Returns:
        The normalised text.

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), the evaluation script of SQuAD 1.1.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROPPED)).split())


def match(given: str, right: str) -> float:
    """Whether two normalised answers are equal.

    Args:
        given: What the model said.
        right: The right answer.

    Returns:
        1 or 0.

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1, "exact match".
    """
    return float(normalised(given) == normalised(right))


def token_f1(given: str, right: str) -> float:
    """F1 of the words of two normalised answers, as bags.

    With c common words (each as often as in both): precision c / |given|, recall c / |right|, F1 = 2 p r / (p + r).
    Two empty answers have 1, one empty answer 0.

    Args:
        given: What the model said.
        right: The right answer.

    Returns:
        F1 in [0, 1].

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1, "F1 score"; the rule for empty answers is that of
    SQuAD 2.0 (arXiv 1806.03822).
    """
    a, b = normalised(given).split(), normalised(right).split()
    if not a or not b:
        return float(a == b)
    return _f_measure((Counter(a) & Counter(b)).total(), len(a), len(b))


def rouge_l(given: str, right: str) -> float:
    """F-measure of the longest common subsequence of words, as the package `rouge-score` computes it without stemming.

    Words are runs of the letters a to z and digits in small letters. With l the length of the longest common
    subsequence: precision l / |given|, recall l / |right|, F = 2 p r / (p + r).

    Args:
        given: What the model said.
        right: The right answer.

    Returns:
        ROUGE-L in [0, 1]; 0 where either has no word.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", equations 2 to 4 with beta = 1.
    """
    a, b = _NOT_WORDS.sub(" ", given.lower()).split(), _NOT_WORDS.sub(" ", right.lower()).split()
    before = [0] * (len(b) + 1)
    for word in a:
        now = [0]
        for k, other in enumerate(b):
            now.append(before[k] + 1 if word == other else max(now[k], before[k + 1]))
        before = now
    return _f_measure(before[-1], len(a), len(b))


def _f_measure(common: int, given: int, right: int) -> float:
    if common == 0:
        return 0.0
    precision, recall = common / given, common / right
    return 2 * precision * recall / (precision + recall)


TEXT_SCORES: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {"generated_match": match, "f1": token_f1, "rouge_l": rouge_l}
)
"""`(given, right) -> score in [0, 1]` by the score's name in the configuration."""
