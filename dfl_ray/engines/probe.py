"""A model tried out before a run: is it causal, is each row its own, and does every adapter do what it should?

Loading says little about a model of `transformers`: encoders load through the causal class, mixtures reorder their
tokens, state-space layers go past the module that is adapted. What is asked here is what the simulator relies on, so
any architecture, known or not, either behaves or is refused by name before an actor starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dfl_ray.engines.batches import prompt_batch
from dfl_ray.engines.training import ScoredModel
from dfl_ray.errors import InputError
from dfl_ray.lora.inject import AdaptedLinear, Binding, misfit_error
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.targets import other_names
from dfl_ray.models.checks import not_causal, shortened

LENGTHS = (42, 36, 33, 27, 18)
"""Tokens of the rows tried: longer than the windows of small models, each padded by another number of tokens."""

RANK = 2
EXACT, ROUNDED = 1e-3, 0.1
"""Largest share of an intended change that may appear where nothing should change; rounding makes less."""


def probe(
    model: ScoredModel,
    layers: Sequence[LayerShape],
    *,
    longest: int,
    vocabulary: int,
    unexportable: Callable[[Sequence[LayerShape]], Sequence[str]] = lambda _layers: (),
) -> list[int]:
    """Try a model with adapted layers.

    Args:
        model: The model as devices use it.
        layers: Its adapted layers.
        longest: Tokens of the run's longest row.
        vocabulary: Number of token ids.
        unexportable: Asked before other layers are proposed: names of those among some layers that would be refused
            for another reason.

    Returns:
        Indices of the adapted layers that see an input of their own, the first of each.

    Raises:
        InputError: It is neither causal nor a classifier, rows depend on each other, positions end before the rows do,
            or an adapter would not act on its layer as in PEFT.
    """
    rng = np.random.default_rng(0)
    most = model.most_positions or LENGTHS[0]
    rows = [rng.integers(0, vocabulary, max(2, min(n, most))) for n in LENGTHS]
    _check_runs(model, rows[: 2 if model.classifies else 1])
    _check_longest(model, rng.integers(0, vocabulary, longest))
    if not model.classifies:
        _check_causal(model, rows[0], rng.integers(0, vocabulary, len(rows[0])))
    distinct = _check_called(model, rows, layers, unexportable)
    _check_rows(model, rows, layers)
    return distinct


def _check_runs(model: ScoredModel, rows: Sequence[np.ndarray]) -> None:
    """The model computes logits from token ids alone."""
    try:
        _run(model, rows, None)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        AssertionError,
    ) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"The base model ({_kind(model)}) can't compute logits from token ids alone",
            got=f"{type(error).__name__}: {said}",
            expected="a causal language model of text",
            change="Choose another model for `model.name`",
        ) from error


def _check_longest(model: ScoredModel, row: np.ndarray) -> None:
    if len(row) <= (model.most_positions or 0):
        return
    try:
        _run(model, [row], None)
    except (IndexError, RuntimeError, ValueError) as error:
        raise InputError(
            "The base model has no positions for rows this long",
            got=f"rows of up to {len(row)} tokens, of which the model takes {model.most_positions or 'fewer'} "
            f"({' '.join(str(error).split())[:120]})",
            expected="rows inside the model's learnt positions",
            change="Lower `model.max_tokens`",
        ) from error


def _check_causal(model: ScoredModel, row: np.ndarray, other: np.ndarray) -> None:
    """Changing the last third of a row moves no logit before it."""
    cut = len(row) * 2 // 3
    changed = np.concatenate([row[:cut], other[cut:]])
    before, after = (_run(model, [r], None)[0] for r in (row, changed))
    if not bool(torch.isfinite(before).all()):
        raise InputError(
            "The base model gives NaN or infinite logits",
            expected="finite logits",
            change="Check `model.name`",
        )
    moved = (before - after).abs()
    if float(moved[:cut].mean()) > _allowed(model) * float(moved[cut:].mean()):
        raise not_causal(_kind(model))


def _check_called(
    model: ScoredModel,
    rows: Sequence[np.ndarray],
    layers: Sequence[LayerShape],
    unexportable: Callable[[Sequence[LayerShape]], Sequence[str]],
) -> list[int]:
    """Every adapted layer is given the batch's tokens in order; which of them see an input of their own."""
    called, wrong = _calls(model, rows)
    silent = [s.name for s in layers if s.name not in called]
    if not silent and not wrong:
        return inputs_seen(model, rows)[0]
    bad = {*silent, *wrong}
    good = other_names([*bad, *unexportable([s for s in layers if s.name not in bad])], layers)
    change = f"Set model.target_modules=[{','.join(good)}]" if good else "Choose another model"
    if silent:
        raise InputError(
            f"`model.target_modules` names layers whose adapters would do nothing: {shortened(silent)}",
            got=f"a forward pass of the model ({_kind(model)}) does not call them",
            expected="layers that the model calls" + (f", here {', '.join(good)}" if good else ""),
            change=change,
        )
    raise misfit_error([shortened(wrong)], next(iter(wrong.values())), change)


def _calls(model: ScoredModel, rows: Sequence[np.ndarray]) -> tuple[set[str], dict[str, str]]:
    """The adapted layers that a forward pass calls, and what is wrong with how it calls them."""
    called: set[str] = set()
    wrong: dict[str, str] = {}
    batch, real = prompt_batch(rows, most=model.most_positions)

    def see(module: Any, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        called.add(module.layer.name)
        misfit = module.misfit(inputs[0], output, tuple(real.shape))
        if misfit:
            wrong.setdefault(module.layer.name, misfit)

    adapted = [m for m in model.model.modules() if isinstance(m, AdaptedLinear)]
    hooks = [m.register_forward_hook(see) for m in adapted]
    try:
        with torch.no_grad():
            model.logits(batch.to(model.device), None)
    finally:
        for hook in hooks:
            hook.remove()
    return called, wrong


def inputs_seen(model: ScoredModel, rows: Sequence[np.ndarray]) -> tuple[list[int], set[int]]:
    """Run the bare base model on rows and see what its adapted layers are given.

    Args:
        model: The model with adapted layers.
        rows: Token ids of each row.

    Returns:
        The layers that see an input of their own (the first of each), and all layers that were called.
    """
    seen: dict[int, tuple[int, torch.Tensor]] = {}
    called: set[int] = set()
    order: list[int] = []

    def see(layer: int, x: torch.Tensor) -> None:
        called.add(layer)
        if x.data_ptr() not in seen:
            order.append(layer)
        seen[x.data_ptr()] = (layer, x)  # kept alive, so that no address is used twice

    model.observe(prompt_batch(rows, most=model.most_positions)[0].to(model.device), see)
    return order, called


def _check_rows(model: ScoredModel, rows: Sequence[np.ndarray], layers: Sequence[LayerShape]) -> None:
    """Each row under an adapter of its own gives what it gives alone and without padding under that adapter."""
    a, b = ([x.to(model.device) for x in f] for f in random_adapters(model.model, layers, len(rows)))
    together = _run(model, rows, Binding(a, b, torch.arange(len(rows), device=model.device), 1.0))
    for k, row in enumerate(rows):
        mine = Binding([x[k : k + 1] for x in a], [x[k : k + 1] for x in b], None, 1.0)
        alone, bare = _run(model, [row], mine, most=1)[0], _run(model, [row], None, most=1)[0]
        found = together[k][: len(row)]
        effect, error = float((alone - bare).abs().mean()), float((alone - found).abs().mean())
        if not error <= _allowed(model) * effect:
            raise InputError(
                f"The base model ({_kind(model)}) does not treat the rows of a batch apart",
                got=f"a row's logits differ by {error:.3g} between a padded batch and alone, where its adapter's "
                f"whole effect is {effect:.3g}",
                expected="rows that depend on their own tokens and adapter alone",
                change="Choose another model, or other layers with `model.target_modules`",
            )


def random_adapters(
    model: torch.nn.Module, layers: Sequence[LayerShape], count: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Draw random adapters whose updates are half as large as the weights.

    With r = `RANK`, A has independent normal entries of variance 1 / d and B of variance (rms(W) / 2)^2 d / r, so
    that the root mean square of B A is expected to be rms(W) / 2. The seed is fixed.

    Args:
        model: The model; the weights of its layers set the scale.
        layers: The adapted layers, (m, d) each.
        count: Number of adapters.

    Returns:
        One (count, r, d) stack A a layer, and one (count, m, r) stack B a layer, float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = [], []
    for layer in layers:
        weight = model.get_submodule(layer.name).weight
        size = 0.5 * float(weight.float().square().mean().sqrt()) * (layer.in_features / RANK) ** 0.5  # type: ignore[operator,union-attr]
        down = torch.randn((count, RANK, layer.in_features), generator=generator) * layer.in_features**-0.5
        up = torch.randn((count, layer.out_features, RANK), generator=generator) * size
        a.append(down)
        b.append(up)
    return a, b


def _run(
    model: ScoredModel, rows: Sequence[np.ndarray], binding: Binding | None, most: int | None = None
) -> list[torch.Tensor]:
    """Logits (length, vocabulary) of every row, asked at all its tokens as scoring asks them.

    Padding reaches to `most` tokens at the furthest, by default as in a run; 1 leaves the longest row unpadded.
    """
    batch, _ = prompt_batch(rows, most=most or model.most_positions, every=True)
    with torch.no_grad():
        logits = model.logits(batch.to(model.device), binding).cpu()
    return list(torch.split(logits, [len(r) for r in rows]))


def _allowed(model: ScoredModel) -> float:
    return EXACT if next(model.model.parameters()).dtype == torch.float32 else ROUNDED


def _kind(model: ScoredModel) -> Any:
    return model.model.config.model_type  # type: ignore[union-attr]
