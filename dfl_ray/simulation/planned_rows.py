"""The rows of a run that is planned: read and tokenised where that can be done, else taken to be of some length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.models.classifier import class_names
from dfl_ray.models.folder import has_tokenizer
from dfl_ray.models.published_shapes import published_model
from dfl_ray.simulation.asked_rows import AskedRows, read_rows, unread_rows
from dfl_ray.simulation.experiment import model_path, token_tasks

if TYPE_CHECKING:
    from dfl_ray.tasks.data import Row, Task
    from dfl_ray.tasks.tokens import TokenTask

HUB_TOKENS = 256.0
"""Mean tokens of a row of hub data, which a plan does not read."""
CHARACTERS_PER_TOKEN = 4.0
"""Characters of English text a token, where the rows are here and the model's tokenizer is not; usual vocabularies of
30,000 to 150,000 pieces have 3.5 to 4.5."""


@dataclass(frozen=True)
class PlannedRows:
    """The tasks of a run that is planned.

    Attributes:
        names: Their names.
        tokens: Their rows as tokens; empty where they can't be had.
        means: (tasks,) mean tokens of a training row that go through the model: a row's last token is only predicted.
        asked: The rows of each task that an evaluation asks.
        notes: What is to be told of the rows.
    """

    names: tuple[str, ...]
    tokens: tuple[TokenTask, ...]
    means: np.ndarray
    asked: tuple[AskedRows, ...]
    notes: tuple[str, ...]

    @property
    def lengths(self) -> list[np.ndarray]:
        """For each task the (rows,) tokens of its training rows that go through the model; empty without tokens."""
        return [t.train.lengths - 1 for t in self.tokens]


def planned_rows(config: Config) -> PlannedRows:
    """Read the rows that a plan counts.

    Args:
        config: The experiment. Hub data are not read; where the model is a hub id or a folder without a tokenizer,
            rows are counted by their characters.

    Returns:
        The tasks.

    Raises:
        InputError: The rows can't be read, the tokenizer that is there can't read them, or generated answers leave no
            room for a prompt.
    """
    from dfl_ray.config.check import task_names
    from dfl_ray.tasks.load import read_tasks

    names = task_names(config)
    if config.tasks.source == "hub" and names is not None:
        return _hub_rows(config, names)
    loaded = read_tasks(config)
    folder = Path(model_path(config))
    if _without_tokenizer(folder):
        means = np.array([_mean_tokens(t.train, config.model.max_tokens) for t in loaded.tasks])
        asked = tuple(_counted_rows(config, t) for t in loaded.tasks)
        told = (
            f"the tokenizer of {folder.as_posix()} is not here: a token is taken for every {CHARACTERS_PER_TOKEN:g} "
            "characters of the rows"
        )
        return PlannedRows(tuple(t.name for t in loaded.tasks), (), means, asked, (*loaded.notes, told))
    described = folder / "config.json"
    classes = class_names(described.read_bytes()) if described.is_file() else None
    tokens = token_tasks(config, loaded.tasks, classes)
    means = np.array([float((t.train.lengths - 1).mean()) for t in tokens])
    asked = tuple(read_rows(config, t) for t in tokens)
    return PlannedRows(tuple(t.name for t in tokens), tokens, means, asked, loaded.notes)


def _hub_rows(config: Config, names: Sequence[str]) -> PlannedRows:
    """Rows that are not read: of `HUB_TOKENS` tokens, or as many as `model.max_tokens` allows."""
    tokens = min(HUB_TOKENS, config.model.max_tokens)
    held_out = config.tasks.validation_rows or config.tasks.test_rows
    asked = tuple(unread_rows(config, name, held_out, tokens, tokens) for name in names)
    told = f"rows are taken to have {tokens:.0f} tokens: hub data are not read for a plan"
    return PlannedRows(tuple(names), (), np.full(len(names), tokens), asked, (told,))


def _counted_rows(config: Config, task: Task) -> AskedRows:
    prompts = [len(row.prompt) / CHARACTERS_PER_TOKEN for row in task.test]
    tokens = _mean_tokens(task.test, config.model.max_tokens)
    return unread_rows(config, task.name, len(task.test), tokens, float(np.mean(prompts)))


def _without_tokenizer(folder: Path) -> bool:
    """Whether a folder has none, or a hub id of known sizes is in no cache."""
    if folder.is_dir():
        return not has_tokenizer(folder)
    if published_model(folder.as_posix()) is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return not any(isinstance(try_to_load_from_cache(folder.as_posix(), name), str) for name in names)


def _mean_tokens(rows: Sequence[Row], most: int) -> float:
    return float(np.mean([min(most, (len(r.prompt) + len(r.answer)) / CHARACTERS_PER_TOKEN) for r in rows]))
