"""The base model of a run that is planned: the layers that are adapted, and the sizes that memory follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.engines.adapted_layers import Targets, planned_targets, row_sizes
from dfl_ray.engines.foreign_memory import foreign_sizes
from dfl_ray.models.checks import bitsandbytes_missing
from dfl_ray.models.published_shapes import published_model

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.tasks.tokens import TokenTask


def planned_model(config: Config, folder: Path, tokens: Sequence[TokenTask]) -> Targets:
    """What a run would adapt (`planned_targets`); a base in 4 bits is one that `transformers` computes.

    Args:
        config: The experiment.
        folder: The model's folder, or the hub id of one whose sizes are shipped.
        tokens: The tasks as tokens; none where a plan has not read them.

    Returns:
        The adapted layers.

    Raises:
        InputError: See `planned_targets`.
    """
    rows = replace(row_sizes(tokens), most=config.model.max_tokens)
    found = planned_targets(folder, config.model.target_modules, rows)
    if not config.model.load_in_4bit:
        return found
    told = (
        "`model.load_in_4bit`: bitsandbytes is not installed here, so that a run would be refused (extra `gpu`)",
    )
    foreign = found.foreign or foreign_sizes(None if found.shape is None else _config_json(folder))
    return replace(
        found, shape=None, foreign=foreign, notes=(*found.notes, *(told if bitsandbytes_missing() else ()))
    )


def _config_json(folder: Path) -> str:
    """Contents of a folder's config.json, or what is published of a hub id."""
    published = None if folder.is_dir() else published_model(folder.as_posix())
    if published is not None:
        return published.config_json
    return (folder / "config.json").read_text(encoding="utf-8")
