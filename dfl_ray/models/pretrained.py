"""Any other model, read by `transformers`: what its load report says is checked, and all that it loaded is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.models.checks import check_kind, layers_beyond, rests_of_old_files, shortened
from dfl_ray.models.hub import check_hub
from dfl_ray.models.weights import BaseWeights, as_arrays, fewer_layers_note, own_head_note

_SAVE_WHOLE = (
    "Check `model.name`, the names in the file and the sizes in config.json; save the whole causal model with "
    "save_pretrained (an encoder's or bare model's folder has no language-model head)"
)


def load_pretrained(path: str | Path, dtype: str, trust_remote_code: bool) -> BaseWeights:
    """Read a causal language model, or a sequence classifier, with `transformers` into plain arrays.

    Args:
        path: Folder or hub id.
        dtype: Precision to hold the weights in.
        trust_remote_code: Run code shipped with the model.

    Returns:
        The weights with persistent buffers, names of tied parameters, and notes.

    Raises:
        InputError: It can't be loaded, is no decoder, its file lacks weights of the model or holds others, or its hub
            can't be reached.
    """
    check_hub(path, asked_by="model.name")
    with _without_adapter(path) as source:
        model, report = _from_pretrained(path, source, dtype, trust_remote_code)
    config_json = json.dumps(model.config.to_dict(), default=str)
    check_kind(config_json, str(path))
    notes = check_report(path, model, report)
    stored: dict[int, str] = {}
    arrays, aliases = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = stored.setdefault(id(parameter), name)
        if first == name:
            arrays[name] = parameter.detach().contiguous()
        else:
            aliases[name] = first
    text = model.config.get_text_config().to_dict()
    if text.get("tie_word_embeddings") and _own_head(model):
        notes = (*notes, own_head_note(path))
    code = str(path) if type(model).__module__.startswith("transformers_modules") else ""
    return BaseWeights(
        config_json,
        as_arrays(arrays),
        dtype,
        trust_remote_code,
        _persistent_buffers(model),
        aliases,
        notes,
        code,
    )


def _from_pretrained(
    path: str | Path, source: str, dtype: str, trust_remote_code: bool
) -> tuple[Any, Mapping[str, Any]]:
    import torch
    from transformers import AutoConfig

    from dfl_ray.models.build import auto_class

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        with no_bars():
            loaded: Any = auto_class(config.to_dict()).from_pretrained(
                source, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=trust_remote_code,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
        return loaded
    except Exception as error:  # a broken or foreign folder makes the library raise anything
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise InputError(
            f"The base model `{path}` can't be loaded",
            got=f"{type(error).__name__}: {reason}",
            expected="a folder that AutoModelForCausalLM.from_pretrained reads, with safetensors weights",
            change="Check `model.name`.",
        ) from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep progress bars of `transformers` off the terminal, where the run's own lines stand or nothing does."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _without_adapter(path: str | Path) -> Iterator[str]:
    """The model's folder as `transformers` should see it: an adapter beside the base would be loaded with it."""
    folder = Path(path)
    if not (folder / "adapter_config.json").is_file():
        yield str(path)
        return
    with TemporaryDirectory() as made:
        for item in folder.iterdir():
            if not item.name.startswith("adapter_"):
                (Path(made) / item.name).symlink_to(item.resolve())
        yield made


def check_report(
    path: str | Path, model: Any, report: Mapping[str, Any], change: str = _SAVE_WHOLE
) -> tuple[str, ...]:
    """Refuse a file that is not the model's.

    Args:
        path: The model, for messages.
        model: As it was loaded.
        report: What `from_pretrained(…, output_loading_info=True)` gives beside it.
        change: What to do about a file that is refused.

    Returns:
        Notes on what of the file is not used.

    Raises:
        InputError: Weights are missing, of another shape, or not the model's.
    """
    missing = sorted(report["missing_keys"])
    mismatched = [
        f"{name} {tuple(there)} instead of {tuple(wanted)}"
        for name, there, wanted in report["mismatched_keys"]
    ]
    extra = [n for n in report["unexpected_keys"] if not rests_of_old_files(n)]
    text = model.config.get_text_config()
    layers = int(text.num_hidden_layers) if hasattr(text, "num_hidden_layers") else 2**31
    beyond, unknown = layers_beyond(extra, [*model.state_dict(), *extra], layers)
    wrong = {"missing": missing, "of another shape": mismatched, "not the model's": unknown}
    found = [f"{len(names)} {what}: {shortened(names)}" for what, names in wrong.items() if names]
    if found:
        raise InputError(
            f"The weights of `{path}` are not those of its {type(model).__name__}",
            got="; ".join(found),
            expected="every parameter of the model in the file, and nothing else: missing ones would be random",
            change=change,
        )
    if report.get("error_msgs"):
        raise InputError(
            f"The weights of `{path}` can't be read", got=shortened(map(str, report["error_msgs"]))
        )
    return () if not beyond else (fewer_layers_note(path, layers, beyond),)


def _own_head(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None:
        return False
    return head.weight is not embedding.weight and head.weight.shape == embedding.weight.shape


def _persistent_buffers(model: Any) -> dict[str, np.ndarray]:
    """Buffers that are part of the file, in their own type."""
    saved = set(model.state_dict())
    return as_arrays({n: b.detach().contiguous() for n, b in model.named_buffers() if n in saved})
