"""What a training step of the large path holds in memory on a CPU, from the model's sizes alone; no torch is imported.

Plans and the packing of devices ask here before any model exists, the engines ask for their limits.
"""

from __future__ import annotations

from dfl_ray.lora.layout import dense_values
from dfl_ray.models.decoder import DecoderShape

MERGED_BYTES = 2**28
"""Most memory that the merged weights of one pass may take; above it adapters are applied unmerged."""

WIDE = 128
"""Width from which on a CPU trains unmerged. A merged adapter costs a whole product more, the gradient of its weights,
which wide layers feel and narrow ones do not: in float32 at widths 64, 96, 128, 192, 256 and 288 a step took 2.25,
1.23, 1.01, 0.93, 0.85 and 0.85 times as long unmerged (one core of an AMD EPYC with AVX-512)."""

PAD_MULTIPLE = 8
"""Rows of a batch are padded to a multiple of so many tokens."""

UNMERGED = 3
"""Times the values of a token that autograd keeps where adapters are applied beside the base, padding included: 0.62 MB
for 0.21 in a Llama of six blocks of width 512, by the growth of the peak from 4 to 8 devices."""

CPU_TOKEN_BYTES = 2560
"""Width of a value times tokens that go through the model together on a CPU, 640 tokens in float32: products are as
fast as with more, the passes between them find their input in the cache, and a step's memory does not grow with the
number of devices."""

CPU_LOGITS = 2**24
"""Most logits at once on a CPU: 64 MiB in float32; a product of a hundred positions is as fast as a larger one."""

EVALUATION_TOKENS = 2_560
"""Most tokens of one pass of the evaluation, padding included, where adapters are applied unmerged: with more, every
result is memory fresh from the system, which takes longer to hand out than a product takes."""

STEP_TOKENS = 2560
"""Tokens trained together where adapters are merged: enough to spread the cost of calls, few enough for a core's cache
and for memory."""

PASS_TOKENS = 2048
"""Most real tokens of one pass of the evaluation where adapters are merged: few enough for a core's cache."""

PASS_MERGED_BYTES = 2**25
"""Most memory that the merged weights of one such pass may take, or one adapter's: more adapters save little time."""

VALUES_AT_ONCE = 2**22
"""Most values that the optimiser steps at once on a CPU, or one adapter's."""

PREPARED_PRODUCTS, PREPARED_PRODUCT_BYTES = 128, 625_000
"""Products in bfloat16 that torch and oneDNN keep prepared (`engines.cpu.heap`), and what one takes in the two."""

FULLEST = 1.25
"""Tokens of the fullest step to the mean one: two deviations of eight rows whose lengths vary by a third."""

LOGIT_COPIES = 3
"""Arrays in float32 as large as the logits while a loss or likelihoods are made of them: themselves, how far they are
below their largest, and its exponential."""

SKETCH_ROWS = 64
"""Rows of one pass of a sketch, padded to the longest."""


def value_bytes(dtype: str) -> int:
    """Bytes of one value of `model.dtype`, once it is chosen.

    Args:
        dtype: `float32` or `bfloat16`.
    """
    return 2 if dtype == "bfloat16" else 4


def too_large_to_merge(shape: DecoderShape) -> bool:
    """Whether one adapter's merged weights, in float32, are more than `MERGED_BYTES`, so that no pass merges them.

    Args:
        shape: The model.
    """
    return 4 * dense_values(shape.linear_layers()) > MERGED_BYTES


def merges(shape: DecoderShape, width_bytes: int = 4) -> bool:
    """Whether a CPU can answer with merged adapters: in float32, without normalised queries, and not too large.

    Args:
        shape: The model.
        width_bytes: Bytes of one value of the base.
    """
    return width_bytes == 4 and not shape.qk_norm and not too_large_to_merge(shape)


def trains_unmerged(shape: DecoderShape, width_bytes: int = 4) -> bool:
    """Whether a CPU trains the model by the large path, which adds the adapters beside the base.

    Args:
        shape: The model.
        width_bytes: Bytes of one value of the base.
    """
    return shape.hidden_size >= WIDE or not merges(shape, width_bytes)


def part_tokens(width_bytes: int) -> int:
    """Count the tokens that go through the model together on a CPU, whole adapters and one at least.

    Args:
        width_bytes: Bytes of one value.
    """
    return CPU_TOKEN_BYTES // width_bytes


def bytes_per_token(shape: DecoderShape, rank: int, width_bytes: int) -> int:
    """Count the bytes that one token of a batch holds at the peak of a step, by the tensors the large path keeps.

    width_bytes (layers * kept + passing): `kept` are the values that each block keeps for backward, `passing` the
    values that exist while one block is computed (`passing_values`). Attention's result counts twice: a GPU keeps it in
    two layouts, and on a CPU the scores of one block's backward take about as much as the second one of all blocks.

    Args:
        shape: The model.
        rank: r with frozen directions; all seven layers of a block count as adapted.
        width_bytes: Bytes of one value.

    Returns:
        Bytes.
    """
    heads, keys = _heads_and_keys(shape)
    raw = heads + keys if shape.qk_norm else 0
    kept = 2 * shape.hidden_size + 3 * heads + keys + raw + 2 * shape.intermediate_size + 7 * rank
    return width_bytes * (shape.layers * kept + passing_values(shape))


def passing_values(shape: DecoderShape) -> int:
    """Count the values of one token that exist while one block is computed.

    Args:
        shape: The model.
    """
    return 8 * shape.intermediate_size + 8 * shape.hidden_size + 2 * sum(_heads_and_keys(shape))


def _heads_and_keys(shape: DecoderShape) -> tuple[int, int]:
    return shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim


def cpu_token_bytes(shape: DecoderShape, rank: int, width_bytes: int, scored_share: float) -> float:
    """Count the bytes that one token of a step holds at its peak on a CPU, closer than `bytes_per_token`.

    The last block computes what follows its attention at the scored tokens alone. Backward through another block holds
    the gradients of down's input, gate and up and that input, beside three of the model's width; attention's holds
    queries, keys and values once more with their gradients.

    Args:
        shape: The model.
        rank: r with frozen directions; all seven layers of a block count as adapted.
        width_bytes: Bytes of one value.
        scored_share: Share of the tokens whose next one is predicted, at most 1.
    """
    inner, (heads, keys) = shape.intermediate_size, _heads_and_keys(shape)
    passing = max(4 * inner + 3 * shape.hidden_size, 3 * heads + 2 * keys + 3 * shape.hidden_size)
    last = (1.0 - scored_share) * (2 * inner + shape.hidden_size)
    whole = bytes_per_token(shape, rank, width_bytes) - width_bytes * passing_values(shape)
    return whole + width_bytes * (passing - last)


def forward_values(shape: DecoderShape, *, gated: bool = True) -> int:
    """Count the values of one token that exist at the peak of a block's forward pass without gradients.

    Attention: residual and normed input, queries, their product with the cosines, both halves turned, the same by the
    sines, keys, values and the turned keys. Gated layer: residual, normed input and result, gate, up and their product.

    Args:
        shape: The model.
        gated: Whether the gated layer is computed; else the pass is left before it.
    """
    heads, keys = _heads_and_keys(shape)
    attention = 2 * shape.hidden_size + 4 * heads + 3 * keys // 2
    inner = 3 * shape.hidden_size + 3 * shape.intermediate_size
    return max(attention, inner) if gated else attention


def sketch_bytes(shape: DecoderShape, width_bytes: int, *, blocks: bool) -> int:
    """Count the bytes that one token of a pass of sketches holds at its peak.

    Beside `forward_values` the watched input is gathered, without padding, and made float32 where it is not. Of blocks
    that is the widest input, the down projection's; a pass that is left before the gated layer holds less then than in
    its attention.

    Args:
        shape: The model.
        width_bytes: Bytes of one value.
        blocks: Whether whole blocks are computed.
    """
    gathered = (width_bytes + (4 if width_bytes < 4 else 0)) * shape.intermediate_size if blocks else 0
    return width_bytes * forward_values(shape, gated=blocks) + gathered


def working_mb(
    shape: DecoderShape | None, *, rank: int, width_bytes: int, device_tokens: float, devices: int,
    evaluated_tokens: float, longest: int = 0, device_values: int = 0, scored_share: float = 1.0,
    router_blocks: bool = False, closing: bool = False, evaluated_scored: float = 0.0,
) -> float:  # fmt: skip
    """Memory an actor on a CPU needs beside base and states: the largest of training, evaluation and closing sketches.

    Training: tokens of a part of a step (`part_tokens`, or all there are, or one device's, which are whole adapters and
    `FULLEST` times their mean) · `cpu_token_bytes`; of the
    devices that are stepped together (`STEP_TOKENS`) the gradient and a copy of both factors, 12 bytes a value; six
    temporaries of the optimiser, of `VALUES_AT_ONCE` values; three copies of the logits at the scored ones of these
    tokens, at most `CPU_LOGITS`, in float32. What it leaves on the heap is kept while the router's sketches are made:
    `SKETCH_ROWS` rows of the longest row's tokens · `sketch_bytes`. Evaluation: tokens of a pass · `forward_values`,
    where adapters are not merged in it, and `LOGIT_COPIES` of its logits. Closing sketches: as the router's, of whole
    blocks, with a trimmed heap. Always: in bfloat16 the prepared products.

    Args:
        shape: The model; None, or one that trains merged, needs nothing worth counting.
        rank: r.
        width_bytes: Bytes of one value.
        device_tokens: Tokens of one device's step, its adapters together.
        devices: Devices of the actor.
        evaluated_tokens: Tokens of all rows that one adapter is asked.
        longest: Tokens of the longest training row, where the method makes sketches; else 0.
        device_values: Trained values of one device, its adapters together.
        scored_share: Share of the tokens whose next one is predicted, at most 1.
        router_blocks: Whether the router's sketches watch an input behind the first block's attention and gate.
        closing: Whether all layers are sketched at the end, as the rules asked may need.
        evaluated_scored: Tokens that are predicted in one pass of an evaluation.

    Returns:
        Units of 2^20 bytes.
    """
    if shape is None or not trains_unmerged(shape, width_bytes):
        return 0.0
    together = min(devices, max(1, int(part_tokens(width_bytes) // max(1.0, device_tokens))))
    fullest = FULLEST * device_tokens
    part = max(fullest, min(part_tokens(width_bytes), fullest * together))
    values = min(devices, max(1, STEP_TOKENS // max(1.0, device_tokens))) * device_values
    stepping = 12 * values + 6 * 4 * min(values, VALUES_AT_ONCE)
    logits = LOGIT_COPIES * 4 * min(CPU_LOGITS, part * scored_share * shape.vocab_size)
    training = part * cpu_token_bytes(shape, rank, width_bytes, scored_share) + stepping + logits
    read = SKETCH_ROWS * longest
    routed, whole = (sketch_bytes(shape, width_bytes, blocks=blocks) for blocks in (router_blocks, True))
    asked = 0.0 if merges(shape, width_bytes) else min(EVALUATION_TOKENS, evaluated_tokens)
    evaluation = asked * width_bytes * forward_values(shape)
    evaluation += LOGIT_COPIES * 4 * evaluated_scored * shape.vocab_size if asked else 0.0
    prepared = PREPARED_PRODUCTS * PREPARED_PRODUCT_BYTES if width_bytes == 2 else 0
    return (max(training + read * routed, evaluation, read * whole * closing) + prepared) / 2**20


def merged_mb(
    shape: DecoderShape | None, *, rank: int, width_bytes: int, device_tokens: float, adapters: int, devices: int,
    asked_tokens: float, evaluated_scored: float = 0.0,
) -> float:  # fmt: skip
    """Memory an actor on a CPU needs beside base and states where adapters are merged: of training or evaluation.

    Training, unless the model `trains_unmerged`: T = min(`STEP_TOKENS`, tokens of all its devices, but one device's at
    least) tokens · `bytes_per_token`, and the merged weights of the adapters these tokens are of; where those are more
    than `MERGED_BYTES` they are not formed, and autograd keeps `UNMERGED` times as much of a token. Evaluation:
    `PASS_TOKENS` at most, with as many adapters as their rows fit there, within `PASS_MERGED_BYTES`, and `LOGIT_COPIES`
    of the pass's logits.

    Args:
        shape: The model; None, or one that never `merges`, needs nothing of this kind (`working_mb`).
        rank: r.
        width_bytes: Bytes of one value of the base.
        device_tokens: Tokens of one device's step, its adapters together.
        adapters: Adapters of a device.
        devices: Devices of the actor.
        asked_tokens: Tokens of the rows of one task that an adapter is asked; infinity where all rows are.
        evaluated_scored: Tokens that are predicted in one pass of an evaluation.

    Returns:
        Units of 2^20 bytes.
    """
    if shape is None or not merges(shape, width_bytes):
        return 0.0
    token = bytes_per_token(shape, rank, 4)
    weights = 4 * dense_values(shape.linear_layers())
    step = max(device_tokens, min(STEP_TOKENS, device_tokens * devices))
    merged = step / max(device_tokens, 1.0) * adapters * weights
    training = step * token + merged if merged <= MERGED_BYTES else step * UNMERGED * token
    training = 0.0 if trains_unmerged(shape, width_bytes) else training
    fit = min(devices * adapters, PASS_TOKENS / max(asked_tokens, 1.0), PASS_MERGED_BYTES / weights)
    asked = min(PASS_TOKENS, max(1.0, fit) * asked_tokens) * token + max(1.0, fit) * weights
    asked += LOGIT_COPIES * 4 * evaluated_scored * shape.vocab_size
    return max(training, asked) / 2**20
