"""An adapter folder read back with PEFT: does it give the logits that the simulator computes itself?

PEFT renames, fuses or drops what some architectures' adapters are called, with no more than a warning, and refuses
some layers. So a folder is only right when it has been loaded.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from dfl_ray.engines.batches import prompt_batch
from dfl_ray.engines.training import ScoredModel
from dfl_ray.errors import InputError
from dfl_ray.lora.inject import Binding
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.targets import other_names
from dfl_ray.models.build import build_transformer
from dfl_ray.models.checks import shortened
from dfl_ray.models.peft_folder import read_peft_folder, write_peft_folder
from dfl_ray.models.weights import BaseWeights

EXACT, ROUNDED = 1e-3, 0.1
"""Largest mean difference of logits, as a share of what the adapter changes, in float32 and in coarser types."""
NOISE = 1e-5, 1e-2
"""What the order of sums makes of the logits of the base alone, as a share of their mean size, in both; an untrained
adapter changes nothing, so that it is all there is."""


def check_expressible(
    weights: BaseWeights,
    model: ScoredModel,
    layers: Sequence[LayerShape],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
) -> None:
    """Write one adapter as a PEFT folder, load it with PEFT and compare.

    Args:
        weights: The base model.
        model: The same as devices use it.
        layers: Its adapted layers.
        a: One (r, d) factor a layer.
        b: One (m, r) factor a layer.

    Raises:
        InputError: PEFT refuses, drops or changes some layer's adapter.
    """
    with TemporaryDirectory() as made:
        factors = [[x.numpy() for x in f] for f in (a, b)]
        folder = write_peft_folder(Path(made) / "adapter", layers, *factors, scale=1.0, base_model="",
            head=weights.head)  # fmt: skip
        verify_folder(weights, model, layers, folder)


def verify_folder(
    weights: BaseWeights, model: ScoredModel, layers: Sequence[LayerShape], folder: Path
) -> float:
    """Compare an adapter folder as PEFT loads it with the simulator's own computation.

    Args:
        weights: The base model.
        model: The same as devices use it, on the CPU.
        layers: Its adapted layers.
        folder: What `write_peft_folder` wrote.

    Returns:
        Largest difference of a logit.

    Raises:
        InputError: PEFT refuses, drops or changes some layer's adapter.
    """
    a, b, scale = read_peft_folder(folder, layers)
    row = np.random.default_rng(0).integers(0, _vocabulary(weights), min(24, model.most_positions or 24))
    batch, _ = prompt_batch([row], most=model.most_positions, every=True)
    binding = Binding(
        [torch.from_numpy(x)[None] for x in a], [torch.from_numpy(x)[None] for x in b], None, scale
    )
    with torch.no_grad():
        mine, bare = model.logits(batch, binding), model.logits(batch, None)
        try:
            loaded = _load(weights, folder)
        except _PeftRefuses as error:
            raise _refusal(f"PEFT refuses: {error.said}", weights, layers, error.named) from error.__cause__
        settings = {} if model.classifies else {"use_cache": False}
        theirs = loaded(input_ids=torch.from_numpy(row)[None], **settings).logits[0].float()
    error, effect = (mine - theirs).abs(), (mine - bare).abs()
    share, noise = (EXACT, NOISE[0]) if weights.dtype == "float32" else (ROUNDED, NOISE[1])
    if float(error.mean()) > share * float(effect.mean()) + noise * float(bare.abs().mean()):
        lost = _lost(loaded, layers, b)
        dropped = f"PEFT drops the adapters of {shortened(lost)}"
        why = dropped if lost else f"logits differ by up to {float(error.max()):.3g}"
        raise _refusal(why, weights, layers, lost)
    return float(error.max())


def unexportable(weights: BaseWeights, layers: Sequence[LayerShape]) -> list[str]:
    """Find the layers whose adapters PEFT refuses or drops, by loading them until it takes the others.

    Args:
        weights: The base model.
        layers: Some of its linear layers.

    Returns:
        Names of layers; all of them where PEFT refuses without naming one.
    """
    bad: list[str] = []
    while rest := [s for s in layers if s.name not in bad]:
        a = [np.zeros((1, s.in_features), np.float32) for s in rest]
        b = [np.ones((s.out_features, 1), np.float32) for s in rest]
        with TemporaryDirectory() as made:
            folder = write_peft_folder(Path(made) / "adapter", rest, a, b, scale=1.0, base_model="",
                head=weights.head)  # fmt: skip
            try:
                found = _lost(_load(weights, folder), rest, b)
            except _PeftRefuses as error:
                found = error.named or [s.name for s in rest]
        if not found:
            break
        bad += found
    return bad


class _PeftRefuses(Exception):
    """PEFT does not load a folder.

    Attributes:
        said: What it says.
        named: The layers whose names it says.
    """

    def __init__(self, said: str, named: list[str]) -> None:
        super().__init__(said)
        self.said, self.named = said, named


def _load(weights: BaseWeights, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return PeftModel.from_pretrained(build_transformer(weights), str(folder)).eval()
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
            said = " ".join(str(error).split())[:200]
            layers = json.loads((folder / "adapter_config.json").read_bytes())["target_modules"]
            named = [name for name in layers if f"'{name.rsplit('.', 1)[-1]}'" in said]
            raise _PeftRefuses(said, named) from error


def _refusal(why: str, weights: BaseWeights, layers: Sequence[LayerShape], bad: Sequence[str]) -> InputError:
    """The error, which proposes the layers that PEFT takes where some were found that it does not take."""
    good: list[str] = []
    if bad:
        others = unexportable(weights, [s for s in layers if s.name not in bad])
        good = other_names([*bad, *others], layers)
    return InputError(
        "Adapters of these layers can't be exported as a PEFT folder",
        got=why,
        expected="layers whose adapters PEFT loads as they were trained",
        change=f"Set model.target_modules=[{','.join(good)}]"
        if good
        else "Choose other `model.target_modules`",
    )


def _lost(loaded: Any, layers: Sequence[LayerShape], b: Sequence[np.ndarray]) -> list[str]:
    """Layers whose trained factors are not where PEFT computes with them."""
    modules = dict(loaded.base_model.model.named_modules())
    out: list[str] = []
    for layer, up in zip(layers, b, strict=True):
        held = getattr(modules.get(layer.name), "lora_B", None)
        there = held is not None and "default" in held and bool(held["default"].weight.any())
        if bool(up.any()) and not there:
            out.append(layer.name)
    return out


def _vocabulary(weights: BaseWeights) -> int:
    raw = json.loads(weights.config_json)
    sizes = [c.get("vocab_size") for c in (raw, raw.get("text_config") or {})]
    return min((s for s in sizes if isinstance(s, int)), default=2)
