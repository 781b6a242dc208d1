"""Does the embedded suite do its job? Base at chance, experts learn, a shared adapter suffers, routing.

`python -m benchmarks.embedded_suite --seeds 1 --json` trains, in one process and without a radio, ten devices
with two tasks each: isolated experts (frozen orthogonal A, B averaged among a task's holders) and one shared
LoRA (A and B by gossip over all neighbours), on the same rows and steps, with `benchmarks.plain_lora`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.plain_lora import (
    Base,
    Budget,
    Encoded,
    Factors,
    accuracy,
    adapted,
    correct,
    encode,
    forward,
    frozen_a,
    holders,
    load_base,
    ring,
    train,
    zeros_b,
)
from benchmarks.result import with_origin
from dfl_ray.models import embedded_path
from dfl_ray.tasks.data import Task
from dfl_ray.tasks.synthetic import ALL_TASKS, DEFAULT_TASKS, RELATED_PAIR, make_tasks


@dataclass(frozen=True)
class Setting:
    """Base, tasks, encoded test rows, and every device's two shards."""

    base: Base
    tasks: list[Task]
    tests: list[Encoded]
    held: list[tuple[int, int]]
    shards: list[Encoded]

    @property
    def holdings(self) -> list[tuple[int, int]]:
        """(device, task) of each shard."""
        return [(device, task) for device, pair in enumerate(self.held) for task in pair]


def set_up(base: Base, names: Sequence[str], budget: Budget, seed: int, cue: str) -> Setting:
    """Generate the tasks and share every task's rows out among its holders."""
    tasks = make_tasks(names, seed=seed, cue=cue)  # type: ignore[arg-type]
    held = holders(budget.devices, len(tasks), seed)
    encoded = [encode(base, task.train) for task in tasks]
    owners = {t: [d for d, pair in enumerate(held) if t in pair] for t in range(len(tasks))}
    shards = [
        encoded[t].take(torch.arange(owners[t].index(d), len(encoded[t].last), len(owners[t])))
        for d, pair in enumerate(held)
        for t in pair
    ]
    return Setting(base, tasks, [encode(base, task.test) for task in tasks], held, shards)


def isolated(setting: Setting, budget: Budget, seed: int) -> tuple[list[float], Factors, Factors, float]:
    """One expert a task, averaged among its holders: accuracy per task, A and B by task, seconds a step."""
    base, holding = setting.base, [t for _, t in setting.holdings]
    by_task = frozen_a(base, len(setting.tasks), budget.rank, seed)
    index = torch.tensor(holding)
    same = (index[:, None] == index[None]).float()
    a, b, seconds = train(base, setting.shards, range(len(holding)), same / same.sum(1, keepdim=True),
                          {n: f[index] for n, f in by_task.items()}, zeros_b(base, len(holding), budget.rank),
                          budget, seed, train_a=False)  # fmt: skip
    first = [holding.index(t) for t in range(len(setting.tasks))]
    a, b = ({n: f[first] for n, f in factors.items()} for factors in (a, b))
    scale = budget.alpha / budget.rank
    return (
        [accuracy(base, test, pick(a, t), pick(b, t), scale) for t, test in enumerate(setting.tests)],
        a,
        b,
        seconds,
    )


def pick(factors: Factors, k: int) -> Factors:
    """One adapter of a stack, kept as a stack of one."""
    return {name: f[k : k + 1] for name, f in factors.items()}


def shared(setting: Setting, budget: Budget, seed: int, train_a: bool = True, reach: int = 2) -> np.ndarray:
    """One LoRA for all tasks by gossip over a ring: accuracy (devices, tasks); common frozen A on request."""
    base, n = setting.base, len(setting.held)
    generator = torch.Generator().manual_seed(seed)
    a = {}
    for name in adapted(base):
        d = base.weights[name].shape[1]
        one = (torch.rand(budget.rank, d, generator=generator) * 2 - 1) / d**0.5
        a[name] = one.repeat(n, 1, 1)
    a, b, _ = train(base, setting.shards, [d for d, _ in setting.holdings], ring(n, reach), a,
                    zeros_b(base, n, budget.rank), budget, seed, train_a)  # fmt: skip
    scale = budget.alpha / budget.rank
    return np.array(
        [[accuracy(base, test, pick(a, d), pick(b, d), scale) for test in setting.tests] for d in range(n)]
    )


@torch.no_grad()
def routing(
    setting: Setting, budget: Budget, seed: int, layers: Sequence[str] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Likelihood router on z = [A_1; ...; A_T] x of the bare base: confusion (T, T) and per-task choices.

    Per layer and task C_t is the second moment of z over prompt tokens of 150 training prompts; a prompt goes
    to the task of the largest sum over layers and tokens of -z'C_t^-1 z - ln|C_t| (method.md, section 4).
    """
    base, tasks = setting.base, setting.tasks
    names = list(
        layers or [f"{layer}.{p}" for layer in range(base.layers) for p in ("q", "o", "gate", "down")]
    )
    a = {n: f.flatten(0, 1) for n, f in frozen_a(base, len(tasks), budget.rank, seed).items()}

    def sketches(data: Encoded) -> dict[str, torch.Tensor]:
        tap: Factors = {}
        forward(base, data.tokens[None], {}, {}, 1.0, tap=tap)
        return {n: (tap[n][0] @ a[n].T).view(*data.tokens.shape, -1).double() for n in names}

    fits = []
    for task in tasks:
        data = encode(base, task.train[:150])
        inside = torch.arange(data.tokens.shape[1])[None] <= data.last[:, None]
        fits.append({n: _precision(z[inside]) for n, z in sketches(data).items()})
    confusion, chosen = np.zeros((len(tasks), len(tasks))), []
    for t, test in enumerate(setting.tests):
        inside = torch.arange(test.tokens.shape[1])[None] <= test.last[:, None]
        score = torch.zeros(len(test.last), len(tasks), dtype=torch.float64)
        for n, z in sketches(test).items():
            for s, fit in enumerate(fits):
                precision, log_det = fit[n]
                score[:, s] -= ((((z @ precision) * z).sum(-1) + log_det) * inside).sum(1)
        choice = score.argmax(1).numpy()
        chosen.append(choice)
        confusion[t] = np.bincount(choice, minlength=len(tasks)) / len(choice)
    return confusion, chosen


def _precision(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    c = z.T @ z / len(z)
    c = c + 1e-3 * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype)
    return torch.linalg.inv(c), torch.linalg.slogdet(c)[1]


def routed(
    setting: Setting, a: Factors, b: Factors, chosen: Sequence[np.ndarray], budget: Budget
) -> list[float]:
    """Accuracy per task when every prompt gets the expert that the router chose."""
    scale, out = budget.alpha / budget.rank, []
    for t, test in enumerate(setting.tests):
        right = torch.stack(
            [correct(setting.base, test, pick(a, s), pick(b, s), scale) for s in range(len(a["0.q"]))]
        )
        out.append(float(right[torch.from_numpy(chosen[t]), torch.arange(len(test.last))].float().mean()))
    return out


def related_pair(base: Base, budget: Budget, seed: int) -> dict[str, float]:
    """Mean accuracy on the scarce related pair: two isolated experts against one expert for both tasks."""
    budget = replace(budget, devices=2)
    tasks = make_tasks(RELATED_PAIR, seed=seed)
    shards = [encode(base, task.train) for task in tasks]
    tests = [encode(base, task.test) for task in tasks]
    scale, out = budget.alpha / budget.rank, {}
    by_task = frozen_a(base, 2, budget.rank, seed)
    for name, owner in (("isolated", [0, 1]), ("one expert", [0, 0])):
        k = len(set(owner))
        a, b, _ = train(base, shards, owner, torch.eye(k), {n: f[:k].clone() for n, f in by_task.items()},
                        zeros_b(base, k, budget.rank), budget, seed, train_a=False)  # fmt: skip
        out[name] = float(np.mean([accuracy(base, x, pick(a, o), pick(b, o), scale)
                                   for x, o in zip(tests, owner, strict=True)]))  # fmt: skip
    return out


def chance_and_base(setting: Setting) -> dict[str, dict[str, float]]:
    """Per task: chance, the bare model's exact match, and its share of right first tokens."""
    out = {}
    for task, test in zip(setting.tasks, setting.tests, strict=True):
        logits = forward(setting.base, test.tokens[None], {}, {}, 1.0, test.last[None, :, None])[0, :, 0]
        right = logits.argmax(-1) == test.tokens[torch.arange(len(test.last)), test.last + 1]
        exact = accuracy(setting.base, test, {}, {}, 1.0)
        out[task.name] = {
            "chance": round(task.chance, 3),
            "base": exact,
            "base_token": float(right.float().mean()),
        }
    return out


def one_seed(base: Base, budget: Budget, shared_rate: float, seed: int) -> dict[str, object]:
    """All measurements of one seed."""
    setting = set_up(base, DEFAULT_TASKS, budget, seed, "strong")
    start = time.perf_counter()
    oracle, a, b, seconds = isolated(setting, budget, seed)
    expert_s = time.perf_counter() - start
    _, chosen = routing(setting, budget, seed)
    one = shared(setting, replace(budget, learning_rate=shared_rate), seed)
    settings = {cue: set_up(base, DEFAULT_TASKS, budget, seed, cue) for cue in ("strong", "weak", "none")}
    route = {cue: float(routing(s, budget, seed)[0].diagonal().mean()) for cue, s in settings.items()}
    return {
        "seed": seed,
        "tasks": dict(zip(DEFAULT_TASKS, oracle, strict=True)),
        "experts_oracle": float(np.mean(oracle)),
        "experts_likelihood": float(np.mean(routed(setting, a, b, chosen, budget))),
        "shared_lora": float(one.mean()),
        "shared_tasks": dict(zip(DEFAULT_TASKS, one.mean(0).tolist(), strict=True)),
        "routing": route,
        "related_pair": related_pair(base, budget, seed),
        "step_ms_per_device": 1e3 * seconds / budget.devices,
        "experts_train_and_test_s": expert_s,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=None, help="Llama folder; default the shipped one")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0")
    parser.add_argument("--rounds", type=int, default=Budget.rounds, help="rounds of training")
    parser.add_argument("--local-steps", type=int, default=Budget.local_steps, help="steps a round")
    parser.add_argument(
        "--batch", type=int, default=Budget.batch, help="rows a step and device, for two tasks"
    )
    parser.add_argument("--lr", type=float, default=Budget.learning_rate, help="step size of the experts")
    parser.add_argument("--shared-lr", type=float, default=1e-2, help="step size of the shared LoRA")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(chosen.model or embedded_path())
    budget = Budget(
        rounds=chosen.rounds, local_steps=chosen.local_steps, learning_rate=chosen.lr, batch=chosen.batch
    )
    bare = chance_and_base(set_up(base, ALL_TASKS, budget, 0, "strong"))
    print("bare model:", json.dumps(bare))
    seeds = []
    for seed in range(chosen.seeds):
        seeds.append(one_seed(base, budget, chosen.shared_lr, seed))
        print(json.dumps(seeds[-1], default=lambda x: round(x, 3)), flush=True)
    if chosen.json:
        print(
            json.dumps(
                with_origin(
                    {
                        "budget": asdict(budget),
                        "shared_lr": chosen.shared_lr,
                        "bare": bare,
                        "by_seed": seeds,
                    },
                    seeds=chosen.seeds,
                )
            )
        )


if __name__ == "__main__":
    main()
