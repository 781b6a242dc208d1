"""Sequence classifiers (BERT, RoBERTa) as base models: what config.json says of them.

A model of `AutoModelForSequenceClassification` answers with one of its classes. Its head (`classifier` or `score`, and
a pooler before it) is part of the frozen base: it is neither adapted, trained nor sent, so that all devices answer with
the same head and a message is as large as for a decoder of the same layers. Loss and score are over the head's classes,
one position a row; a class's number stands where a decoder's rows have the answer's token, so training, scoring and
routing need no second way.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 4.1 (fine-tuning on GLUE). Departure: the head is not trained.
"""

from __future__ import annotations

import json
from typing import Any

HEADS = ("classifier", "score", "classification_head", "logits_proj", "pooler")
"""Names of modules that turn a row's vectors into one answer."""

PEFT_HEADS = ("classifier", "score")
"""Those of them that PEFT saves with an adapter of a classifier."""


def is_classifier(config_json: bytes | str) -> bool:
    """Tell whether a folder is a sequence classifier's, by the `architectures` that saved it.

    Args:
        config_json: Contents of config.json.

    Returns:
        Whether every class named there is one for sequence classification; False for what is not JSON.
    """
    try:
        said: Any = json.loads(config_json)
    except ValueError:
        return False
    named = said.get("architectures") if isinstance(said, dict) else None
    return bool(named) and all(str(name).endswith("ForSequenceClassification") for name in named)


def class_names(config_json: bytes | str) -> tuple[str, ...] | None:
    """Give the names of a classifier's classes, in the order of its head's outputs.

    Args:
        config_json: Contents of config.json.

    Returns:
        `id2label`, or LABEL_0, LABEL_1, … where there is none; None for a model that is no classifier.
    """
    if not is_classifier(config_json):
        return None
    said = json.loads(config_json)
    labels = said.get("id2label") or {str(i): f"LABEL_{i}" for i in range(int(said.get("num_labels") or 2))}
    return tuple(str(labels[key]) for key in sorted(labels, key=int))


def in_head(module: str) -> bool:
    """Whether a module of a classifier belongs to its head.

    Args:
        module: Its path, e.g. `bert.pooler.dense`.

    Returns:
        Whether a part of the path is one of `HEADS`.
    """
    return not set(HEADS).isdisjoint(module.split("."))


def classifier_note(config_json: bytes | str) -> tuple[str, ...]:
    """Say that a base model is a classifier; nothing for others.

    Args:
        config_json: Contents of config.json.

    Returns:
        One sentence, or none.
    """
    names = class_names(config_json)
    if names is None:
        return ()
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return (
        f"The base model is a classifier of {len(names)} classes ({shown}): its head is frozen, adapters change "
        "the layers before it, and an answer is a class.",
    )
