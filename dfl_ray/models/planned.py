"""What is to be said of a model folder before it is loaded, from its configuration and its weight files' headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dfl_ray.models.base import adapter_note
from dfl_ray.models.checks import check_kind
from dfl_ray.models.classifier import classifier_note
from dfl_ray.models.positions import check_row_length
from dfl_ray.models.shapes import StoredModel, StoredTensor, number_of_layers
from dfl_ray.models.weights import fewer_layers_note, own_head_note

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def planned_notes(model: StoredModel, longest: int) -> tuple[str, ...]:
    """Say of a local model folder what loading it would say, as far as its files show it.

    What only a forward pass shows (a model that is not causal, layers that can't be adapted) and what every value
    would have to be read for (NaN) is left to the run. Of the values only an output head is compared.

    Args:
        model: The folder.
        longest: Tokens of the longest row.

    Returns:
        The sentences, in the order in which a run says them; none where the folder has no config.json.

    Raises:
        InputError: It is an encoder–decoder model, or its positions do not fit the rows.
    """
    folder, config, beyond = model.folder, model.config, model.layers_not_used
    if model.config_json is None:
        return ()
    check_kind(model.config_json, str(folder))
    layers = number_of_layers(config)
    notes: list[str] = []
    if layers is not None and beyond:
        notes.append(fewer_layers_note(folder, layers, beyond))
    if _has_own_head(model.tensors) and _says_tied(config):
        notes.append(own_head_note(folder))
    notes += classifier_note(model.config_json)
    return (*notes, *adapter_note(folder), *check_row_length(model.config_json, longest))


def embedding_rows(model: StoredModel) -> int | None:
    """Find the number of rows of a model's embedding; None where no tensor is called as embeddings mostly are."""
    found = _named(model.tensors, _EMBEDDINGS)
    return None if found is None else found.shape[0]


def _says_tied(config: Mapping[str, Any]) -> bool:
    """Whether the configuration ties the head to the embedding; `transformers` knows the defaults of a file's gaps."""
    text = config.get("text_config")
    for described in (text if isinstance(text, dict) else {}, config):
        if isinstance(described.get("tie_word_embeddings"), bool):
            return bool(described["tie_word_embeddings"])
    from transformers import AutoConfig

    try:
        made = AutoConfig.for_model(**config)
    except Exception:  # the library raises anything for what it can't read; the run says it
        return False
    return bool(made.get_text_config().to_dict().get("tie_word_embeddings"))


def _has_own_head(tensors: Mapping[str, StoredTensor]) -> bool:
    head, embedding = _named(tensors, _HEADS), _named(tensors, _EMBEDDINGS)
    if head is None or embedding is None or head.shape != embedding.shape:
        return False
    return not np.array_equal(head.bytes(), embedding.bytes())


def _named(tensors: Mapping[str, StoredTensor], endings: tuple[str, ...]) -> StoredTensor | None:
    found = [tensor for name, tensor in tensors.items() if name.endswith(endings) and len(tensor.shape) == 2]
    return found[0] if len(found) == 1 else None
