"""Ready prompt templates for well-known datasets of the Hugging Face hub.

The prompts end in a cue ("Answer:", "Sentiment:"), since the text fed to a model is prompt + " " + answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        test_split: Split held out; the labels of some datasets' own test split are not public.
        row: Makes a row of one record; raises KeyError, ValueError or TypeError for a bad one.
        fields: Names of the record's fields that `row` reads.
    """

    dataset: str
    subset: str | None
    train_split: str
    test_split: str
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


READY: Mapping[str, Template] = MappingProxyType(
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
        "mbpp": Template(
            "google-research-datasets/mbpp", "full", "train", "test", mbpp, ("text", "code", "test_list")
        ),
    }
)
"""Ready templates by task name."""
