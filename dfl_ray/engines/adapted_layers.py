"""The layers a run adapts, and which of them see the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.engines.foreign_memory import ForeignSizes, foreign_sizes
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape, dense_values
from dfl_ray.lora.targets import choose_layers, unmatched_note
from dfl_ray.models.decoder import DecoderShape, input_of, read_decoder, unknown_keys
from dfl_ray.models.described import described_model, made_layers, only_described
from dfl_ray.models.planned import embedding_rows, planned_notes
from dfl_ray.models.positions import check_row_length
from dfl_ray.models.published_shapes import PublishedModel, published_model
from dfl_ray.models.shapes import all_linear_layers, read_headers

if TYPE_CHECKING:
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.models.weights import BaseWeights
    from dfl_ray.tasks.tokens import TokenTask


@dataclass(frozen=True)
class RowSizes:
    """What a run asks of its base model.

    Attributes:
        longest: Tokens of the longest row.
        largest_id: The largest token id in any row.
        most: Tokens that a row may have (`model.max_tokens`); None where nobody says.
    """

    longest: int = 1
    largest_id: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Targets:
    """What a run adapts.

    Attributes:
        layers: The adapted layers, in model order.
        distinct: Indices of those that see an input of their own, the first of each.
        parameters: Number of the base model's parameters.
        notes: What the user should be told about model and layers, in words.
        shape: The model's shape where it is of the Llama family and is computed by the project's own decoder.
        linear_values: Values in all linear layers but the output head, adapted or not; 0 where nobody plans by it.
        foreign: Sizes of a model that `transformers` computes, where a plan asks for them.
    """

    layers: tuple[LayerShape, ...]
    distinct: tuple[int, ...]
    parameters: int
    notes: tuple[str, ...] = ()
    shape: DecoderShape | None = None
    linear_values: int = 0
    foreign: ForeignSizes | None = None


def row_sizes(tasks: Sequence[TokenTask]) -> RowSizes:
    """Find the longest row and the largest token id over all rows of all tasks.

    A test prompt counts with the longest candidate answer of its task behind it, since scoring reads them together.

    Args:
        tasks: The run's tasks as tokens.

    Returns:
        The sizes; both are at least 1.
    """
    longest = largest = 1
    for task in tasks:
        choices = task.choices or ()
        answer = max((len(c) for c in choices), default=0)
        prompts = int(task.test.answer_start.max()) if len(task.test) else 0
        longest = max(
            longest, prompts + answer, *(int(t.lengths.max()) for t in (task.train, task.test) if len(t))
        )
        ids = [task.train.ids, task.test.ids, *choices]
        largest = max(largest, *(int(i.max()) for i in ids if len(i)))
    return RowSizes(longest, largest)


def scored_tokens(tasks: Sequence[TokenTask]) -> float:
    """Mean tokens of a training row that are predicted, of the task with the longest answers; 0 without tasks.

    Args:
        tasks: The run's tasks as tokens.
    """
    return max((float((t.train.lengths - t.train.answer_start).mean()) for t in tasks), default=0.0)


def targets_of(
    weights: BaseWeights, target_modules: str | Sequence[str], rows: RowSizes | None = None
) -> Targets:
    """The adapted layers of a base model: of the Llama family by its shape alone, of others by trying it.

    Args:
        weights: The base model.
        target_modules: "all-linear" for every linear layer but the output head (as in PEFT), or name suffixes.
        rows: The rows the model is to read.

    Returns:
        The adapted layers with the notes on the model.

    Raises:
        InputError: Nothing matches, the rows do not fit the model, or the model is none that can be fine-tuned by
            this simulator; see `dfl_ray.engines.probe`.
    """
    rows = rows or RowSizes()
    shape = weights.decoder
    parameters = weights.parameters
    notes = (*weights.notes, *check_row_length(weights.config_json, rows.longest))
    if shape is None:
        notes = (*notes, *_left_to_transformers(weights.config_json))
        return _targets_by_trial(weights, target_modules, parameters, rows, notes)
    _check_ids(rows, shape.vocab_size)
    return targets_by_shape(shape, target_modules, parameters, notes)


def targets_by_shape(
    shape: DecoderShape, target_modules: str | Sequence[str], parameters: int, notes: tuple[str, ...] = ()
) -> Targets:
    """The adapted layers of a model of the Llama family.

    Args:
        shape: Its shape, from its configuration.
        target_modules: See `targets_of`.
        parameters: Number of its parameters.
        notes: What is to be said of the model already.

    Returns:
        The adapted layers; layers with equal `input_of` count as seeing one input.

    Raises:
        InputError: Nothing matches.
    """
    found = shape.linear_layers()
    layers = choose_layers(found, target_modules)
    inputs = [input_of(s.name) for s in layers]
    distinct = tuple(inputs.index(x) for x in dict.fromkeys(inputs))
    return Targets(
        tuple(layers),
        distinct,
        parameters,
        (*notes, *unmatched_note(found, target_modules)),
        shape,
        dense_values(found),
    )


def planned_targets(
    folder: Path, target_modules: str | Sequence[str], rows: RowSizes | None = None
) -> Targets:
    """The adapted layers of a local model folder, from its configuration and its weight files' headers alone.

    A folder without weights is planned from its configuration (`dfl_ray.models.described`), with a note. Outside the
    Llama family it isn't known without trying which layers see the same input; each counts as one that sees its own. A
    hub id that is no folder here is looked up in `dfl_ray.models.published_shapes`.

    Args:
        folder: The folder, or the hub id of a model whose sizes are shipped.
        target_modules: See `targets_of`.
        rows: The rows the model is to read.

    Returns:
        The adapted layers, with the notes of `dfl_ray.models.planned.planned_notes`.

    Raises:
        InputError: No weight files there and no shipped sizes, nothing matches, or the rows do not fit the model.
    """
    published = None if folder.is_dir() else published_model(folder.as_posix())
    if published is not None:
        return _published_targets(published, folder.as_posix(), target_modules, rows or RowSizes())
    described = only_described(folder)
    model = described_model(folder) if described else read_headers(folder)
    found, parameters = all_linear_layers(model)
    rows = rows or RowSizes()
    told = (f"the folder {folder} has no weights: planned from its config.json",) if described else ()
    notes = (*told, *planned_notes(model, rows.longest))
    shape = None if model.config_json is None else read_decoder(model.config_json, rows.most)
    if shape is not None:
        _check_ids(rows, shape.vocab_size)
        return targets_by_shape(shape, target_modules, parameters, notes)
    if model.config_json is not None:
        notes = (*notes, *_left_to_transformers(model.config_json))
    found = made_layers(model, parameters) or found
    layers = choose_layers(found, target_modules)
    vocabulary = embedding_rows(model)
    if vocabulary is not None:
        _check_ids(rows, vocabulary)
    notes = (*notes, *unmatched_note(found, target_modules))
    return Targets(
        tuple(layers), tuple(range(len(layers))), parameters, notes, linear_values=dense_values(found),
        foreign=foreign_sizes(model.config_json),
    )  # fmt: skip


def _published_targets(
    model: PublishedModel, name: str, target_modules: str | Sequence[str], rows: RowSizes
) -> Targets:
    _check_ids(rows, model.vocab_size)
    note = f"the sizes of {name} are those of {model.source}: planned without its files, which are not here"
    return targets_by_shape(model.shape, target_modules, model.parameters, (note,))


def _left_to_transformers(config_json: str) -> tuple[str, ...]:
    """What is said of a model of the Llama family that the project's own decoder does not take for its keys."""
    unknown = unknown_keys(config_json)
    if not unknown:
        return ()
    named = ", ".join(f"`{key}`" for key in unknown)
    return (
        f"the model's config.json has {named}, which dfl-ray does not know: the model is computed by `transformers` "
        "and not by the decoder of dfl-ray, which is slower; remove keys that have no effect",
    )


def _check_ids(rows: RowSizes, vocabulary: int) -> None:
    if rows.largest_id >= vocabulary:
        raise InputError(
            "The tokenizer is larger than the base model's embedding",
            got=f"token id {rows.largest_id} in the tasks' rows, for an embedding of {vocabulary} rows",
            expected=f"ids below {vocabulary}",
            change="Use the tokenizer that belongs to the model, or resize the model's embedding and save it",
        )


def _targets_by_trial(
    weights: BaseWeights,
    target_modules: str | Sequence[str],
    parameters: int,
    rows: RowSizes,
    notes: tuple[str, ...],
) -> Targets:
    from dfl_ray.engines.peft_check import check_expressible, unexportable
    from dfl_ray.engines.probe import probe, random_adapters
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.lora.inject import find_targets, inject, linear_layers
    from dfl_ray.models.build import build_model

    model = build_model(weights)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    _check_ids(rows, vocabulary)
    notes = (*notes, *unmatched_note(linear_layers(model), target_modules))
    layers = tuple(find_targets(model, target_modules))
    scored = ScoredModel(model, inject(model, layers))
    distinct = probe(
        scored, layers, longest=rows.longest, vocabulary=vocabulary,
        unexportable=partial(unexportable, weights),
    )  # fmt: skip
    a, b = random_adapters(model, layers, 1)
    check_expressible(weights, scored, layers, [x[0] for x in a], [x[0] for x in b])
    return Targets(layers, tuple(distinct), parameters, notes)


def distinct_inputs(model: ScoredModel) -> list[int]:
    """Find the adapted layers that see an input of their own.

    In a decoder of the Llama family q, k and v share one input, and so do gate and up. The layers are watched in one
    forward pass of the base model over a row of three tokens.

    Args:
        model: The model with adapted layers.

    Returns:
        Indices of the layers, the first of each group that shares an input, in the order in which they are called.
    """
    import numpy as np

    from dfl_ray.engines.probe import inputs_seen

    return inputs_seen(model, [np.array([1, 2, 3])])[0]
