"""What share of what the matrix products allow do the driver, the bare loop, PEFT in turn and Flower reach?

`python benchmarks/limit.py --model stories260K=FOLDER --model llama15m=FOLDER --tasks FOLDER --flower PYTHON --json`
trains what `peers` trains: LoRA of rank 8 on all linear layers, A and B, 5 steps of 8 rows of at most 96 tokens of
`sst2` in each device and round. `--make-llama FOLDER --like FOLDER` makes a Llama of 15 million random weights with
another model's tokenizer first. All sides take turns round by round; the first third of the rounds is left out.

- driver: Ray, radio, messages and records (`timed_run`); bare loop: its training alone, in plain processes
  (`overhead`);
- PEFT in turn: one process a core, whose devices train one after the other (`peer_work`); Flower: its simulation.

The limit is (rate of a square product, measured by one process a core at the same time between the rounds) over
(operations of a device-step). `gpu_work.step_operations` counts them for the lengths that the rows have, so that
padding is loss, like everything that is not a product. float32 everywhere.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peer_work
from benchmarks.overhead import TIMEOUT_S, BareLoop, Paced, paced_driver
from benchmarks.peers import LENGTH, RANK, TASK, peer_arguments, settings
from benchmarks.result import with_origin
from dfl_ray.packing.machine import usable_cpus

LLAMA = {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
         "num_key_value_heads": 6, "vocab_size": 32_000, "tie_word_embeddings": True}  # fmt: skip
"""The sizes of stories15M: 15.2 million parameters."""
GOALS = ((1_000_000, 0.85), (50_000_000, 0.60), (float("inf"), 0.50))
"""Below so many parameters of the base, the share of the limit that the driver is to reach."""
TIMES = 3.0
"""How many times as fast as PEFT in turn and as Flower it is to be."""
SQUARE = 1024


def make_llama(folder: Path, like: Path) -> None:
    """A Llama with random weights, seed 0, and the tokenizer of another model.

    Args:
        folder: Folder to make.
        like: A model's folder, whose tokenizer is taken.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(like)
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    LlamaForCausalLM(LlamaConfig(**LLAMA, **special)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def peft_worker(arguments: Sequence[str], share: tuple[int, int], barrier: Any, results: Any) -> None:
    """One core's share of the devices, one after the other; between the rounds, the rate of a product.

    Args:
        arguments: See `peers.peer_arguments`.
        share: (number of this process, processes).
        barrier: Passed before each round, and before each product, by all at once.
        results: Queue for (seconds of the share's steps, operations a second).
    """
    import torch

    from benchmarks.real_model_speed import product_rate

    o = peer_work.options(None, arguments)
    adapters = {d: peer_work.first_adapters(o) for d in range(share[0], o.devices, share[1])}
    while True:
        barrier.wait(TIMEOUT_S)
        began = time.perf_counter()
        for device in adapters:
            adapters[device] = peer_work.train(o, device, adapters[device])
        taken = time.perf_counter() - began
        barrier.wait(TIMEOUT_S)
        results.put((taken, product_rate(torch.float32, SQUARE)))


class PeftLoop:
    """The processes of PEFT in turn.

    Args:
        arguments: See `peers.peer_arguments`.
        processes: How many share the devices.
    """

    def __init__(self, arguments: Sequence[str], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier, self._results = context.Barrier(processes + 1), context.Queue()
        self._workers = [
            context.Process(
                target=peft_worker, args=(arguments, (k, processes), self._barrier, self._results)
            )
            for k in range(processes)
        ]
        for worker in self._workers:
            worker.start()

    def round(self) -> tuple[float, float]:
        """Seconds of the next round, of the slowest process, and the operations a second of all processes' products."""
        for _ in range(2):
            self._barrier.wait(TIMEOUT_S)
        found = [self._results.get(timeout=TIMEOUT_S) for _ in self._workers]
        return max(taken for taken, _ in found), sum(rate for _, rate in found)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
            worker.join()


def operations(words: Sequence[str], batch: int) -> tuple[float, int]:
    """Operations of one device's step, the mean over the rows there are, and the base's parameters.

    Args:
        words: Settings of our side.
        batch: Rows of a step.
    """
    import torch

    from benchmarks.gpu_work import Work, step_operations
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.experiment import build_experiment

    setup = build_experiment(load_config(None, [*words, "track.wandb.mode=disabled", "name=limit"])).setup
    shape = setup.weights.decoder
    if shape is None:
        raise ValueError("the model is none of the project's own decoders, whose operations can be counted")
    rows = setup.tasks[0].train
    scored = rows.lengths - rows.answer_start
    lengths, counts = _unique_pairs(rows.lengths - 1, scored)  # the last token of a row is only predicted
    total = sum(
        count * sum(step_operations(Work(shape, 1, 1, length, end, RANK, torch.float32, "cpu"), trains_a=True).values())
        for (length, end), count in zip(lengths, counts, strict=True)
    )  # fmt: skip
    return batch * total / len(rows), setup.weights.parameters


def _unique_pairs(first: Any, second: Any) -> tuple[list[tuple[int, int]], list[int]]:
    import numpy as np

    pairs, counts = np.unique(np.stack([first, second], 1), axis=0, return_counts=True)
    return [(int(a), int(b)) for a, b in pairs], counts.tolist()


def compare(name: str, model: str, o: argparse.Namespace) -> dict[str, Any]:
    """One model's sides, round by round.

    Args:
        name: What the model is called in the table.
        model: Its folder, or what `model.name` takes.
        o: The command line.
    """
    work = argparse.Namespace(**{**vars(o), "model": model})
    words, arguments = settings(work), peer_arguments(work)
    needed, parameters = operations(words, o.batch)
    driver = paced_driver(words)
    bare, peft = BareLoop(words, usable_cpus()), PeftLoop(arguments, usable_cpus())
    script = str(Path(__file__).with_name("peer_flower.py"))
    flower = Paced([o.flower, script, *arguments, "--paced"]) if o.flower else None
    rounds: list[dict[str, float]] = []
    try:
        for _ in range(o.rounds):
            row = driver.row()
            found = {"driver": row["wall_s"] - row.get("evaluate_wall_s", 0.0), "bare loop": bare.round()}
            found["PEFT in turn"], found["rate"] = peft.round()
            if flower is not None:
                found["Flower"] = flower.row()["wall_s"]
            rounds.append(found)
            print(f"{name}: {found}", file=sys.stderr, flush=True)
    finally:
        for side in (driver, bare, peft, flower):
            if side is not None:
                side.close()
    return summed_up(name, parameters, needed, rounds[len(rounds) // 3 : -1], o.devices * o.steps)


def summed_up(
    name: str, parameters: int, needed: float, rounds: Sequence[Mapping[str, float]], steps: int
) -> dict[str, Any]:
    """Medians over the rounds, of rates and of ratios taken round by round.

    Args:
        name: The model's name.
        parameters: Parameters of its base.
        needed: Operations of a device-step.
        rounds: Seconds of each side, and the product's `rate`.
        steps: Device-steps of a round.

    Returns:
        Device-steps a second and share of the limit of every side, and how many times as fast the driver is.
    """
    sides = [side for side in rounds[0] if side != "rate"]
    middle = statistics.median
    return {
        "model": name, "parameters": parameters, "operations_a_step": needed, "rounds": len(rounds),
        "product_flops_per_s": middle(r["rate"] for r in rounds),
        "limit_steps_per_s": middle(r["rate"] / needed for r in rounds),
        "steps_per_s": {s: middle(steps / r[s] for r in rounds) for s in sides},
        "share": {s: middle(steps * needed / r[s] / r["rate"] for r in rounds) for s in sides},
        "times": {s: middle(r[s] / r["driver"] for r in rounds) for s in sides if s != "driver"},
        "goal": next(goal for size, goal in GOALS if parameters < size),
    }  # fmt: skip


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table, and what is reached of the goals."""
    out = [
        f"{'model':>12}  {'side':>12}  {'device-steps/s':>14}  {'of the limit':>12}  {'driver is times':>15}"
    ]
    for f in found:
        out.append(
            f"{f['model']:>12}  {'the limit':>12}  {f['limit_steps_per_s']:>14.2f}  {'1.00':>12}  {'':>15}"
        )
        for side, speed in f["steps_per_s"].items():
            times = f"{f['times'][side]:.2f}" if side in f["times"] else ""
            out.append(
                f"{f['model']:>12}  {side:>12}  {speed:>14.2f}  {f['share'][side]:>12.2f}  {times:>15}"
            )
    for f in found:
        reached = [("of the limit", f["share"]["driver"], f["goal"])]
        reached += [(f"times {s}", t, TIMES) for s, t in f["times"].items() if s != "bare loop"]
        out += [
            f"{f['model']}: {value:.2f} {what} ({goal:g} {'reached' if value >= goal else 'missed'})"
            for what, value, goal in reached
        ]
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=FOLDER", help="a model; may be repeated"
    )
    parser.add_argument("--tasks", help=f"folder that holds {TASK}/train.jsonl and test.jsonl")
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="local steps")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--flower", help="interpreter of an environment with Flower; see `peers --make`")
    parser.add_argument(
        "--make-llama", type=Path, help="make the Llama of 15 million in this folder, and end"
    )
    parser.add_argument("--like", type=Path, help="the model whose tokenizer it gets")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value settings of our side")
    o = parser.parse_args(arguments)
    if o.make_llama:
        make_llama(o.make_llama, o.like)
        return
    found = [compare(name, model, o) for name, _, model in (named.partition("=") for named in o.model)]
    print("\n".join(lines(found)))
    if o.json:
        print(json.dumps(with_origin({"models": found, "length": LENGTH})))


if __name__ == "__main__":
    main()
