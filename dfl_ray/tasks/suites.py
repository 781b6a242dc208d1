"""Ready templates of two suites that federated fine-tuning is reported on: GLUE, and instructions with free answers.

GLUE's own test labels are not public, so its validation split is held out. Instruction sets have one split; a share of
it is held out (`tasks.test_share`). The field names are those of the data sets' cards on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dfl_ray.tasks.data import Row
from dfl_ray.tasks.row_layouts import instruction_row
from dfl_ray.tasks.templates import Fields, Template, pick


def _pair(
    subset: str, fields: tuple[str, str], heads: tuple[str, str], ask: str, labels: tuple[str, ...]
) -> Template:
    """Two texts and a label."""

    def row(record: Fields) -> Row:
        texts = [f"{head}: {record[field].strip()}" for head, field in zip(heads, fields, strict=True)]
        return Row("\n".join([*texts, ask]), pick(labels, record["label"]))

    held_out = "validation_matched" if subset == "mnli" else "validation"
    return Template("nyu-mll/glue", subset, "train", held_out, row, (*fields, "label"))


def cola(record: Fields) -> Row:
    """CoLA: a sentence; acceptable or not. Source: Warstadt, Singh and Bowman 2019 (arXiv 1805.12471)."""
    labels = ("unacceptable", "acceptable")
    return Row(f"Sentence: {record['sentence'].strip()}\nGrammar:", pick(labels, record["label"]))


def flashcard(record: Fields) -> Row:
    """An instruction that is the same for all rows, a question and its answer."""
    return Row(f"{record['input'].strip()}\nAnswer:", _text(record, "output"))


def finance(record: Fields) -> Row:
    """FinGPT's sentiment rows: the instruction names the labels, the input is the news item."""
    return Row(
        f"{record['instruction'].strip()}\n{record['input'].strip()}\nAnswer:", _text(record, "output")
    )


def instruction(record: Fields) -> Row:
    """Alpaca's fields: instruction, input (may be empty) and output.

    Raises:
        ValueError: A field holds no text.
    """
    made = instruction_row(record, "input", "output")
    if isinstance(made, str):
        raise ValueError(made)
    return made


def _text(record: Fields, field: str) -> str:
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the field `{field}` holds no text")
    return value.strip()


_SENTENCES = ("sentence1", "sentence2")
_ALIKE = ("different", "equivalent")
_FOLLOWS = ("entailment", "neutral", "contradiction")
_ALPACA = ("instruction", "input", "output")
SUITES: Mapping[str, Template] = MappingProxyType(
    {
        "cola": Template("nyu-mll/glue", "cola", "train", "validation", cola, ("sentence", "label")),
        "mrpc": _pair("mrpc", _SENTENCES, ("First", "Second"), "Meaning:", _ALIKE),
        "qqp": _pair("qqp", ("question1", "question2"), ("First", "Second"), "Questions:", _ALIKE),
        "mnli": _pair("mnli", ("premise", "hypothesis"), ("Premise", "Hypothesis"), "Relation:", _FOLLOWS),
        "qnli": _pair(
            "qnli", ("question", "sentence"), ("Question", "Text"), "Does the text answer it?", ("yes", "no")
        ),
        "rte": _pair("rte", _SENTENCES, ("Text", "Claim"), "Does the claim follow?", ("yes", "no")),
        "alpaca_gpt4": Template("vicgalle/alpaca-gpt4", None, "train", None, instruction, _ALPACA),
        "code_alpaca": Template("sahil2801/CodeAlpaca-20k", None, "train", None, instruction, _ALPACA),
        "medical_flashcards": Template(
            "medalpaca/medical_meadow_medical_flashcards", None, "train", None, flashcard, ("input", "output")
        ),
        "finance_sentiment": Template("FinGPT/fingpt-sentiment-train", None, "train", None, finance, _ALPACA),
    }
)
"""Ready templates by task name."""
