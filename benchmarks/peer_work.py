"""What a device of a peer does; needs nothing but torch, transformers and peft, and is the same for all peers.

Each peer's worker process keeps base, adapters, tokens and labels from call to call, and runs one thread.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np


def options(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of a peer's script."""
    parser = argparse.ArgumentParser(description=description)
    for name, kind in (("model", str), ("rows-file", str), ("devices", int), ("rounds", int), ("steps", int),
                       ("batch", int), ("length", int), ("rank", int), ("cpus", int)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument(
        "--paced", action="store_true", help="tell each round's time; wait for a line before the next"
    )
    return parser.parse_args(arguments)


@lru_cache(maxsize=1)
def shared(model_path: str, rows_file: str, length: int, rank: int) -> Any:
    """Base with adapters, and tokens with labels; once in every worker process."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(model_path).float()
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model_path)
    with open(rows_file, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:2000]
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    for i, row in enumerate(rows):
        prompt = len(tokenizer(row["prompt"]).input_ids)
        ids = [*tokenizer(f"{row['prompt']} {row['answer']}").input_ids, tokenizer.eos_token_id]
        cut = max(0, len(ids) - length)
        ids, start = ids[cut:], max(1, prompt - cut)
        tokens[i, : len(ids)] = torch.tensor(ids)
        labels[i, start : len(ids)] = tokens[i, start : len(ids)]
    return model, tokens, labels


def first_adapters(o: argparse.Namespace) -> list[np.ndarray]:
    """What every device starts from."""
    return [p.detach().numpy().copy() for p in _trained(shared(o.model, o.rows_file, o.length, o.rank)[0])]


def train(o: argparse.Namespace, device: int, adapters: Sequence[np.ndarray]) -> list[np.ndarray]:
    """H AdamW steps of one device, from its adapters to new ones."""
    import torch

    model, tokens, labels = shared(o.model, o.rows_file, o.length, o.rank)
    parameters = _trained(model)
    with torch.no_grad():
        for parameter, values in zip(parameters, adapters, strict=True):
            parameter.copy_(torch.tensor(values))
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    draw = torch.Generator().manual_seed(device)
    for _ in range(o.steps):
        rows = torch.randint(0, len(tokens), (o.batch,), generator=draw)
        width = (
            int((labels[rows] >= 0).nonzero()[:, 1].max()) + 1
        )  # answers end rows: no wider than the longest
        optimizer.zero_grad()
        model(input_ids=tokens[rows, :width], labels=labels[rows, :width]).loss.backward()
        optimizer.step()
    return [p.detach().numpy().copy() for p in parameters]


def _trained(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


def figures(o: argparse.Namespace, began: float, ends: Sequence[float]) -> dict[str, Any]:
    """What a peer's script prints, from when its process began and its rounds ended."""
    rounds = [b - a for a, b in pairwise(ends)]
    found: dict[str, Any] = {"first_round_s": ends[0] - began, "round_s": rounds}
    if rounds:
        found["device_steps_per_s"] = o.devices * o.steps / statistics.median(rounds)
    return found


def tell_and_wait(wall_s: float) -> None:
    """Print a round's wall time as JSON, then wait for a line of input."""
    print(json.dumps({"wall_s": wall_s}), flush=True)
    sys.stdin.readline()


def run_by_name(script: str) -> None:
    """Run a script's `main` from a module that worker processes find too: what they cache in it is kept."""
    folder = str(Path(script).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    sys.path.insert(0, folder)
    importlib.import_module(Path(script).stem).main()
