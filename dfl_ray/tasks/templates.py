"""Ready prompt templates for well-known datasets of the Hugging Face hub.

The prompts end in a cue ("Answer:", "Sentiment:"), since the text fed to a model is prompt + " " + answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import dedent
from types import MappingProxyType
from typing import Any

from dfl_ray.tasks.data import Row

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """How one dataset becomes a task.

    Attributes:
        dataset: Id on the hub, or a local folder that `datasets.load_dataset` reads.
        subset: Configuration name of the dataset, or None.
        train_split: Split to train on.
        test_split: Split held out; the labels of some datasets' own test split are not public. None = there is one
            split only (`tasks.test_share`).
        row: Makes a row of one record; raises KeyError, ValueError or TypeError for a bad one.
        fields: Names of the record's fields that `row` reads.
    """

    dataset: str
    subset: str | None
    train_split: str
    test_split: str | None
    row: Callable[[Fields], Row]
    fields: tuple[str, ...]


def gsm8k(record: Fields) -> Row:
    """GSM8K: a question in words; the answer is the number behind `####`, without the reasoning before it.

    Source: Cobbe et al. 2021 (arXiv 2110.14168).

    Raises:
        ValueError: There is no `####` with a number behind it.
    """
    found = re.search(r"####\s*(\S+)\s*$", record["answer"])
    if found is None:
        raise ValueError("no number behind #### in the field `answer`")
    return Row(f"Question: {record['question']}\nAnswer:", found.group(1).replace(",", ""))


def boolq(record: Fields) -> Row:
    """BoolQ: passage and question; yes or no. The passage comes first, since long prompts lose their beginning.

    Source: Clark et al. 2019 (arXiv 1905.10044).

    Raises:
        ValueError: The answer is neither true nor false.
    """
    if not isinstance(record["answer"], bool):
        raise ValueError("the field `answer` is not true or false")
    prompt = f"Passage: {record['passage']}\nQuestion: {record['question']}?\nYes or no:"
    return Row(prompt, "yes" if record["answer"] else "no")


def sst2(record: Fields) -> Row:
    """SST-2: a review's sentence; negative or positive.

    Source: Socher et al. 2013, "Recursive deep models for semantic compositionality over a sentiment treebank",
    EMNLP.
    """
    return Row(
        f"Review: {record['sentence'].strip()}\nSentiment:", pick(("negative", "positive"), record["label"])
    )


def ag_news(record: Fields) -> Row:
    """AG News: a news item; one of four topics.

    Source: Zhang, Zhao and LeCun 2015 (arXiv 1509.01626).
    """
    names = ("World", "Sports", "Business", "Technology")
    return Row(f"News: {record['text'].strip()}\nTopic:", pick(names, record["label"]))


def arc(record: Fields) -> Row:
    """ARC: a question with lettered choices (some rows number them); the answer is the letter A to E.

    Source: Clark et al. 2018 (arXiv 1803.05457).

    Raises:
        ValueError: The answer is none of the choices, or there are more than five.
    """
    choices = record["choices"]
    letters = "ABCDE"[: len(choices["text"])]
    lines = [f"{letter}. {text}" for letter, text in zip(letters, choices["text"], strict=True)]
    answer = letters[list(choices["label"]).index(record["answerKey"])]
    return Row("\n".join([f"Question: {record['question']}", *lines, "Answer:"]), answer)


def piqa(record: Fields) -> Row:
    """PIQA: a goal and two ways to reach it; the answer is the letter of the better one.

    Source: Bisk et al. 2020 (arXiv 1911.11641).

    Raises:
        ValueError: The label is neither 0 nor 1, as in the test split, whose labels are hidden.
    """
    ways = [f"{letter}. {record[key].strip()}" for letter, key in (("A", "sol1"), ("B", "sol2"))]
    prompt = "\n".join([f"Goal: {record['goal'].strip()}", *ways, "Better way:"])
    return Row(prompt, pick(("A", "B"), record["label"]))


def hellaswag(record: Fields) -> Row:
    """HellaSwag: the beginning of a text and four endings; the answer is the letter of the right one.

    Source: Zellers et al. 2019 (arXiv 1905.07830).

    Raises:
        ValueError: There are not four endings, or the label is no number 0 to 3, as in the test split, whose labels
            are hidden.
    """
    letters = ("A", "B", "C", "D")
    lines = [f"{letter}. {e.strip()}" for letter, e in zip(letters, record["endings"], strict=True)]
    prompt = "\n".join([f"Text: {record['ctx'].strip()}", *lines, "Best ending:"])
    return Row(prompt, pick(letters, int(record["label"])))


def humaneval(record: Fields) -> Row:
    """HumanEval: a Python function's head with its description; the answer is its body, not indented.

    The hub's data set has one split of 164 problems: set `tasks.test_share` to train on a part of them.

    Source: Chen et al. 2021 (arXiv 2107.03374).
    """
    body = dedent(record["canonical_solution"].strip("\n")).strip()
    return Row(f"{record['prompt'].strip()}\nBody of the function:", body)


def mbpp(record: Fields) -> Row:
    """MBPP: a task in words with its first test; the answer is the code.

    Source: Austin et al. 2021 (arXiv 2108.07732).
    """
    prompt = f"{record['text'].strip()}\nTest: {record['test_list'][0]}\nCode:"
    return Row(prompt, record["code"].replace("\r\n", "\n").strip())


def pick(names: tuple[str, ...], label: Any) -> str:
    """Find the name of an integer label.

    Args:
        names: The names, by label.
        label: The label.

    Returns:
        The name.

    Raises:
        ValueError: The label is no integer or out of range; a negative one stands for a hidden label.
    """
    if not isinstance(label, int) or not 0 <= label < len(names):
        raise ValueError(f"label {label!r} is not one of 0 to {len(names) - 1}")
    return names[label]


SINGLE: Mapping[str, Template] = MappingProxyType(
    {
        "gsm8k": Template("openai/gsm8k", "main", "train", "test", gsm8k, ("question", "answer")),
        "boolq": Template(
            "google/boolq", None, "train", "validation", boolq, ("passage", "question", "answer")
        ),
        "sst2": Template("stanfordnlp/sst2", None, "train", "validation", sst2, ("sentence", "label")),
        "ag_news": Template("fancyzhx/ag_news", None, "train", "test", ag_news, ("text", "label")),
        "arc_easy": Template(
            "allenai/ai2_arc", "ARC-Easy", "train", "test", arc, ("question", "choices", "answerKey")
        ),
        "arc_challenge": Template(
            "allenai/ai2_arc", "ARC-Challenge", "train", "test", arc, ("question", "choices", "answerKey")
        ),
        "piqa": Template("ybisk/piqa", None, "train", "validation", piqa, ("goal", "sol1", "sol2", "label")),
        "hellaswag": Template(
            "Rowan/hellaswag", None, "train", "validation", hellaswag, ("ctx", "endings", "label")
        ),
        "humaneval": Template(
            "openai/openai_humaneval", None, "test", None, humaneval, ("prompt", "canonical_solution")
        ),
        "mbpp": Template(
            "google-research-datasets/mbpp", "full", "train", "test", mbpp, ("text", "code", "test_list")
        ),
    }
)
"""Ready templates of single data sets by task name; `dfl_ray.tasks.ready` has all."""
