"""How fast a CPU works at a real model's size: training, evaluation and generation, each against what others would use.

    python benchmarks/real_model_speed.py --json                # SmolLM2-135M's sizes, 8 devices, one thread
    python benchmarks/real_model_speed.py --layers 4 --json     # the same widths, fewer blocks, a minute or two

Weights, adapters and tokens are random: speed does not depend on them, and all answers get the same number of tokens.
Both sides of a comparison take turns in this process, with the same tokens, threads and precision. Seconds are of the
processor (`time.process_time`) with one thread, so that a busy machine disturbs them little. Operations are counted by
`benchmarks.gpu_work.step_operations`; the rate they are compared with is that of a large square product, measured
here. No Ray is imported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.gpu_peft import InTurn, Manner, manners
from benchmarks.gpu_sides import SCALE, Batched, random_base
from benchmarks.gpu_work import Work, draw_ids, linear_sizes, qwen_shape, step_operations
from benchmarks.result import with_origin
from dfl_ray.engines.batches import Batch
from dfl_ray.evaluation.free_answers import generate
from dfl_ray.lora.inject import Binding

WANTED = {"times_peft": 3.0, "training_share": 0.5, "evaluation_share": 0.5, "times_generate": 3.0}
"""The bars of this benchmark."""

EVERY_LOGIT = Manner("logits of all positions, as with labels=", every=True)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and print its lines, and one JSON object last with `--json`."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    work = Work(
        qwen_shape(options), options.devices, options.batch, options.length, options.scored, options.rank,
        getattr(torch, options.dtype), "cpu",
    )  # fmt: skip
    rate = product_rate(work.dtype, options.square)
    found: dict[str, Any] = {"options": vars(options), "product_flops_per_s": rate}
    print(f"a product of {options.square}^3 in {options.dtype}: {rate / 1e9:.1f} GFLOP/s", flush=True)
    base = random_base(work)
    weights = {n: p.detach().clone() for n, p in base.named_parameters()}
    ours = Batched(work, base, trains_a=False, compile="off")
    factors = [ours.factors(k) for k in range(work.devices)]
    peft = InTurn(work, weights, factors, manners(work, trains_a=False)[0], trains_a=False)
    usual = InTurn(work, weights, factors, EVERY_LOGIT, trains_a=False)
    found |= training(work, ours, (peft, usual), rate, options.repeats)
    del usual
    found |= evaluation(work, ours, rate, options.repeats)
    found |= generation(work, ours, peft, options)
    print(f"{'times_peft, logits of all positions':<18} {found['times_peft_every_logit']:.2f}")
    for name, least in WANTED.items():
        print(f"{name:<18} {found[name]:.2f} ({least:g} {'reached' if found[name] >= least else 'missed'})")
    if options.json:
        print(json.dumps(with_origin(found)), flush=True)
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "devices": 8, "batch": 8, "length": 80, "scored": 3, "rank": 8, "layers": 30, "hidden": 576, "heads": 9,
        "kv-heads": 3, "intermediate": 1536, "vocabulary": 49_152, "square": 1024, "repeats": 3, "threads": 1,
        "prompts": 16, "new-tokens": 16,
    }  # fmt: skip
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float32"))
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser.parse_args(arguments)


def seconds(*sides: Callable[[], Any], repeats: int) -> list[float]:
    """Processor seconds of each side, the median of `repeats` calls in turn behind one that doesn't count."""
    taken: list[list[float]] = [[] for _ in sides]
    for number in range(repeats + 1):
        for side, own in zip(sides, taken, strict=True):
            began = time.process_time()
            side()
            if number:
                own.append(time.process_time() - began)
    return [statistics.median(own) for own in taken]


def product_rate(dtype: torch.dtype, side: int) -> float:
    """Operations a second of a square product, the best of some."""
    x, y = (torch.ones(side, side, dtype=dtype) for _ in range(2))
    out = torch.empty(side, side, dtype=dtype)
    best = min(seconds(lambda: torch.mm(x, y, out=out), repeats=1)[0] for _ in range(4))
    return 2.0 * side**3 / best


def training(
    work: Work, ours: Batched, peft: tuple[InTurn, InTurn], rate: float, repeats: int
) -> dict[str, float]:
    """One step of all devices, B trained: ours, and PEFT device after device.

    PEFT is timed twice: with logits of the scored positions alone, which is its fastest and needs answers of one
    length, and of all positions, as `model(input_ids, labels=labels)` computes them.
    """
    ours_s, peft_s, usual_s = seconds(ours.step, *(p.all_devices for p in peft), repeats=repeats)
    done = sum(step_operations(work, trains_a=False).values())
    return {
        "training_s": ours_s, "peft_s": peft_s, "training_operations": float(done),
        "times_peft": peft_s / ours_s, "peft_every_logit_s": usual_s,
        "times_peft_every_logit": usual_s / ours_s, "training_share": done / ours_s / rate,
        "peft_share": done / peft_s / rate,
    }  # fmt: skip


def evaluation(work: Work, ours: Batched, rate: float, repeats: int) -> dict[str, float]:
    """One pass over as many rows as a training step has, under one adapter, scored at the last positions."""
    rows = work.devices * work.batch
    ids = torch.from_numpy(draw_ids(work, rows).astype(np.int64))[:, :-1].contiguous()
    lengths = np.full(rows, work.length)
    at = np.arange(work.length - work.scored, work.length)
    source = np.stack([np.repeat(np.arange(rows), work.scored), np.tile(at, rows)], 1)
    batch = Batch(
        ids, torch.from_numpy(source), torch.zeros(len(source), dtype=torch.int64), int(lengths.sum()), None, None,
        lengths,
    )  # fmt: skip
    binding = _binding(ours)

    def once() -> None:
        with torch.no_grad():
            ours.model.logits(batch, binding)

    (taken,) = seconds(once, repeats=repeats)
    shape = work.shape
    weights = sum(m * d for m, d in linear_sizes(shape).values()) * shape.layers
    pairs = rows * work.length * (work.length + 1) // 2
    done = (
        2 * rows * work.length * weights
        + 2 * len(source) * shape.vocab_size * shape.hidden_size
        + shape.layers * 4 * pairs * shape.heads * shape.head_dim
    )
    return {"evaluation_s": taken, "evaluation_share": done / taken / rate}


def _binding(ours: Batched) -> Binding:
    a = ours.static_a if ours.static_a is not None else ours.layout.views(ours.state.theta, "a")
    b = ours.layout.views(ours.state.theta, "b")
    return Binding([x[:1] for x in a], [x[:1] for x in b], None, SCALE)


def generation(work: Work, ours: Batched, peft: InTurn, options: argparse.Namespace) -> dict[str, float]:
    """Greedy answers under one adapter: ours for all prompts at once, `transformers.generate` prompt after prompt."""
    prompts = draw_ids(work, options.prompts, seed=1)[:, : work.length].astype(np.int64)
    binding = _binding(ours)

    def mine() -> None:
        generate(ours.model, list(prompts), lambda _rows: binding, end=(), most=options.new_tokens)

    def theirs() -> None:
        with torch.no_grad():
            for prompt in torch.from_numpy(prompts):
                peft.model.generate(
                    input_ids=prompt.unsqueeze(0), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                    max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens, do_sample=False,
                    use_cache=True, pad_token_id=0,
                )  # fmt: skip

    peft.model.eval()
    ours_s, theirs_s = seconds(mine, theirs, repeats=1)
    return {"generation_s": ours_s, "generate_s": theirs_s, "times_generate": theirs_s / ours_s}


if __name__ == "__main__":
    main()
