"""The linear layers of a base model in 4 bits, as QLoRA holds them; bitsandbytes computes with them (extra `gpu`).

Each block of 64 values w is stored as its largest magnitude m (float32) and 16 levels c: w ~ m c[q], with q the level
nearest to w / m. The levels of NF4 are quantiles of the normal distribution; that is 0.5 + 4 / 64 bytes a value. In a
product the weight is taken back to `model.dtype` first, forward and backward, and never kept. Adapters, embeddings,
norms, output head, a classifier's head and layers of no whole number of blocks stay as they are.

Source: Dettmers et al. 2023 (arXiv 2305.14314), section 3 (4-bit NormalFloat) and equation 5. Departure: the blocks'
constants are not quantised again ("double quantisation"), as in the defaults of `transformers`.
"""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import nn

from dfl_ray.errors import InputError
from dfl_ray.lora.inject import linear_layers
from dfl_ray.models.build import empty_transformer, shared_tensor
from dfl_ray.models.four_bit_linear import LEVELS, FourBitLinear, functional
from dfl_ray.models.weights import FOUR_BIT_BLOCK, BaseWeights, FourBitTensor, as_arrays


def in_four_bits(weights: BaseWeights, path: str) -> BaseWeights:
    """Put the linear layers of a base model into 4 bits.

    Args:
        weights: The base model, in full.
        path: The model, for messages.

    Returns:
        The same model with `four_bit` in the place of these layers' arrays, and a note on how much of it that is.

    Raises:
        InputError: The model has no linear layer of torch's kind.
    """
    model = empty_transformer(
        json.loads(weights.config_json), weights.dtype, trust_remote_code=weights.trust_remote_code,
        code=weights.code,
    )  # fmt: skip
    tied = set(weights.aliases.values())
    linear = [s.name for s in linear_layers(model) if isinstance(model.get_submodule(s.name), nn.Linear)]
    whole = {n for n, a in weights.arrays.items() if a.size % FOUR_BIT_BLOCK == 0}
    names = [w for w in (f"{n}.weight" for n in linear) if w in whole and w not in tied]
    if not names:
        raise InputError(
            f"`model.load_in_4bit`: the base model `{path}` has nothing that can be held in 4 bits",
            got=f"no linear layer of torch's kind in {type(model).__name__} (GPT-2's Conv1D and fused experts are not)",
            change="Leave `model.load_in_4bit` out.",
        )
    held = {name: _quantised(shared_tensor(weights.arrays[name])) for name in names}
    rest = {name: array for name, array in weights.arrays.items() if name not in held}
    few = replace(weights, arrays=rest, four_bit=held)
    inside = sum(t.shape[0] * t.shape[1] for t in held.values())
    note = (
        f"`model.load_in_4bit`: {len(held)} linear layers with {inside:,} of {few.parameters:,} parameters are held in "
        f"4 bits (NF4, blocks of {FOUR_BIT_BLOCK}): {weights.size_bytes / 2**20:,.1f} MB have become "
        f"{few.size_bytes / 2**20:,.1f} MB. They are computed by `transformers` and bitsandbytes."
    )
    return replace(few, notes=(*weights.notes, note))


def in_full(weights: BaseWeights) -> BaseWeights:
    """Take a base model's 4-bit layers back to its precision; the model stays the same.

    Args:
        weights: Any base model.

    Returns:
        The model without `four_bit`.
    """
    if not weights.four_bit:
        return weights
    dtype = getattr(torch, weights.dtype)
    back = {
        name: FourBitLinear(shared_tensor(t.packed), shared_tensor(t.absmax), t.shape, None, dtype).weight
        for name, t in weights.four_bit.items()
    }
    return replace(weights, arrays={**weights.arrays, **as_arrays(back)}, four_bit={})


def _quantised(weight: torch.Tensor) -> FourBitTensor:
    packed, state = functional().quantize_4bit(
        weight.contiguous(), blocksize=FOUR_BIT_BLOCK, compress_statistics=False, quant_type=LEVELS
    )
    outputs, inputs = weight.shape
    return FourBitTensor(packed.numpy(), state.absmax.float().numpy(), (int(outputs), int(inputs)))
