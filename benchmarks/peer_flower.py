"""The reference workload in Flower's simulation; run by `peers` with the Python of Flower's own environment.

N clients, each a LoRA of all linear layers (A and B trained) over one base that a worker process loads once, AdamW,
H steps of the same rows and lengths as our side, plain FedAvg on the server. One JSON object on the last line.
"""

# pyright: reportMissingImports=false
# Flower lives in an environment of its own.

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import statistics
import sys
import time
import warnings
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np


def options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("model", str), ("rows-file", str), ("devices", int), ("rounds", int), ("steps", int),
                       ("batch", int), ("length", int), ("rank", int), ("cpus", int)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, required=True)
    return parser.parse_args()


@lru_cache(maxsize=1)
def shared(model_path: str, rows_file: str, length: int, rank: int) -> Any:
    """Base with adapters, and tokens with labels; once in every worker process."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(model_path)
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
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


def local_steps(model: Any, tokens: Any, labels: Any, client: int, steps: int, batch: int) -> None:
    """H AdamW steps of one client, in place."""
    import torch

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    draw = torch.Generator().manual_seed(client)
    for _ in range(steps):
        rows = torch.randint(0, len(tokens), (batch,), generator=draw)
        optimizer.zero_grad()
        model(input_ids=tokens[rows], labels=labels[rows]).loss.backward()
        optimizer.step()


def simulate(o: argparse.Namespace) -> list[float]:
    """Run Flower; gives the time at which each round's results were all in."""
    from flwr.client import ClientApp, NumPyClient
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.simulation import run_simulation

    ends: list[float] = []
    where = (o.model, o.rows_file, o.length, o.rank)

    class Client(NumPyClient):
        def __init__(self, number: int) -> None:
            self.number = number

        def fit(self, parameters: list[np.ndarray], config: Any) -> Any:
            import torch

            model, tokens, labels = shared(*where)
            trained = [p for p in model.parameters() if p.requires_grad]
            with torch.no_grad():
                for parameter, values in zip(trained, parameters, strict=True):
                    parameter.copy_(torch.from_numpy(values))
            local_steps(model, tokens, labels, self.number, o.steps, o.batch)
            return [p.detach().numpy().copy() for p in trained], o.batch * o.steps, {}

    class Timed(FedAvg):
        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            if failures:
                raise RuntimeError(f"{len(failures)} clients failed: {failures[0]}")
            ends.append(time.time())
            return super().aggregate_fit(server_round, results, failures)

    def server(_context: Any) -> Any:
        first = [p.detach().numpy() for p in shared(*where)[0].parameters() if p.requires_grad]
        strategy = Timed(
            fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=o.devices,
            min_available_clients=o.devices, initial_parameters=ndarrays_to_parameters(first),
        )  # fmt: skip
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=o.rounds))

    client = ClientApp(client_fn=lambda c: Client(int(c.node_config.get("partition-id", 0))).to_client())
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": o.cpus, "include_dashboard": False},
    }
    run_simulation(ServerApp(server_fn=server), client, num_supernodes=o.devices, backend_config=backend)
    return ends


def main() -> None:
    """Command line."""
    import psutil

    warnings.filterwarnings("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    o = options()
    began = psutil.Process().create_time()
    ends = simulate(o)
    rounds = [b - a for a, b in pairwise(ends)]
    found = {"first_round_s": ends[0] - began, "round_s": rounds}
    if rounds:
        found["device_steps_per_s"] = o.devices * o.steps / statistics.median(rounds)
    print(json.dumps(found))


if __name__ == "__main__":
    # Worker processes must find this module by its name: what is cached in it is kept from client to client.
    folder = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    sys.path.insert(0, folder)
    importlib.import_module(Path(__file__).stem).main()
