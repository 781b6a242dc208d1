"""Whether and how a model takes the large path, and how many devices fit on the GPU at once."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import nn

from dfl_ray.engines.cpu import gate, passes
from dfl_ray.engines.cpu.activations import ActivationMemory
from dfl_ray.engines.cpu.arrays import KINDS
from dfl_ray.engines.cpu.heap import keep_freed_memory, limit_prepared_products
from dfl_ray.engines.gpu.decoder import Block, LargeDecoder
from dfl_ray.engines.gpu.head import PIECE_LOGITS
from dfl_ray.engines.gpu.kernels import Compile, make_kernels
from dfl_ray.engines.gpu.linear import Joined, Part
from dfl_ray.engines.memory import CPU_LOGITS, bytes_per_token, part_tokens, trains_unmerged
from dfl_ray.lora.inject import AdaptedLinear
from dfl_ray.models.llama import CausalDecoder, GatedLayer, RMSNorm

Choice = Literal["auto", "on", "off"]

ENOUGH_TOKENS = 65_536
"""More tokens in one pass make no product faster and only take memory."""

FREE_SHARE = 0.85
"""Share of the free memory that activations may take; the rest is left to the allocator's gaps."""


def large_decoder(
    model: nn.Module, choice: Choice = "auto", compile: Compile = "auto"
) -> LargeDecoder | None:
    """The large path's view of an adapted model, or None where it is not taken.

    On CUDA the weights of layers that share an input are laid one under the other, once; the modules are pointed at
    their parts, so that the model is held once. On a CPU nothing is copied.

    Args:
        model: A model after `inject`.
        choice: "auto" takes the path on CUDA, and on a CPU in float32 and bfloat16 for models that
            `engines.memory.trains_unmerged`; "on" wherever the model allows, "off" never.
        compile: Whether passes over memory are compiled on CUDA.

    Returns:
        None for models other than the project's own decoder, or with an adapted output head, or if not chosen.
    """
    if not isinstance(model, CausalDecoder) or isinstance(model.lm_head, AdaptedLinear) or choice == "off":
        return None
    embedding = model.model.embed_tokens.weight.detach()
    on_cpu = embedding.device.type == "cpu"
    unmerged = embedding.dtype in KINDS and trains_unmerged(model.shape, embedding.element_size())
    if choice == "auto" and embedding.device.type != "cuda" and not unmerged:
        return None
    take_compiled_passes(model)
    activations = ActivationMemory() if on_cpu else None
    if on_cpu:
        keep_freed_memory()
        limit_prepared_products()
    return LargeDecoder(
        shape=model.shape, embedding=embedding, head=model.lm_head.weight.detach(),
        blocks=tuple(_block(cast(Any, layer)) for layer in model.model.layers),
        norm=model.model.norm.weight.detach(), frequencies=model.get_buffer("frequencies"),
        kernels=make_kernels(embedding.device, compile, embedding.dtype, activations),
        piece_logits=CPU_LOGITS if on_cpu else PIECE_LOGITS,
        most_tokens=part_tokens(embedding.element_size()) if on_cpu else None, activations=activations,
    )  # fmt: skip


def take_compiled_passes(model: CausalDecoder) -> None:
    """Let a model's modules take the loops of `engines.cpu` where no gradient is recorded, as in evaluation.

    Args:
        model: On a CPU, in float32 or bfloat16; others are left as they are.
    """
    weight = model.model.norm.weight
    if weight.device.type != "cpu" or weight.dtype not in KINDS:
        return
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.compiled = passes.norm
        elif isinstance(module, GatedLayer):
            module.compiled = gate.gated


def _block(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    normed = attention.normed
    return Block(
        qkv=_join(attention.q_proj, attention.k_proj, attention.v_proj), o=_join(attention.o_proj),
        gate_up=_join(mlp.gate_proj, mlp.up_proj), down=_join(mlp.down_proj),
        norm_in=layer.input_layernorm.weight.detach(), norm_out=layer.post_attention_layernorm.weight.detach(),
        q_norm=attention.q_norm.weight.detach() if normed else None,
        k_norm=attention.k_norm.weight.detach() if normed else None,
    )  # fmt: skip


def _join(*modules: nn.Module) -> Joined:
    linear = [cast(nn.Linear, m.base if isinstance(m, AdaptedLinear) else m) for m in modules]
    weights = tuple(m.weight.detach() for m in linear)
    biases = [m.bias for m in linear]
    zeros = [weights[0].new_zeros(m.out_features) for m in linear]
    filled = tuple(z if b is None else b.detach() for z, b in zip(zeros, biases, strict=True))
    index = [m.index if isinstance(m, AdaptedLinear) else None for m in modules]
    none = all(b is None for b in biases)
    if len(linear) == 1 or weights[0].device.type != "cuda":
        parts = tuple(
            Part(i, 0, m.out_features, n) for i, (m, n) in enumerate(zip(linear, index, strict=True))
        )
        return Joined(weights, None if none else filled, parts)
    whole = torch.cat(weights)
    together: list[Part] = []
    start = 0
    for layer, number in zip(linear, index, strict=True):
        stop = start + layer.out_features
        layer.weight = nn.Parameter(whole[start:stop], requires_grad=False)
        together.append(Part(0, start, stop, number))
        start = stop
    return Joined((whole,), None if none else (torch.cat(filled),), tuple(together))


def devices_that_fit(
    decoder: LargeDecoder, free_bytes: int, *, tokens: int, adapters: int, size: int, rank: int
) -> int:
    """Count the devices that can share one batched forward and backward.

    The smaller of what `FREE_SHARE` of the free memory holds beside one piece of logits, and of what makes up
    `ENOUGH_TOKENS`.

    Args:
        decoder: The base, already in memory, as are all adapters' parameters and moments.
        free_bytes: Memory not taken.
        tokens: Tokens of one device's step.
        adapters: Adapters of one device.
        size: Values of one adapter.
        rank: r with frozen directions.

    Returns:
        At least 1: a single device that does not fit fails with torch's own account of the memory.
    """
    width = decoder.embedding.element_size()
    # Gradient and three temporaries of AdamW in float32, one copy of both factors for the products.
    per_adapter = size * (4 * 4 + 2 * width)
    device = tokens * bytes_per_token(decoder.shape, rank, width) + adapters * per_adapter
    logits = PIECE_LOGITS * (2 * width + 4)
    room = int(FREE_SHARE * free_bytes) - logits
    return max(1, min(room // device, ENOUGH_TOKENS // max(1, tokens)))


def free_memory(device: torch.device, share: float = 1.0) -> int:
    """Count the bytes a CUDA device can still give this process, those that torch holds and does not use included.

    Args:
        device: A CUDA device.
        share: Share in (0, 1] of the whole memory that this process may use, where several share a device.

    Returns:
        Bytes; negative where this process already uses more than its share.
    """
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    return int(min(free + torch.cuda.memory_reserved(device) - used, share * total - used))
