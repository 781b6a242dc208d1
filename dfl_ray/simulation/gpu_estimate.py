"""What a run would need on 1, 4 and 8 GPUs, for configurations that ask for them (`runtime.gpus_per_actor`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfl_ray.simulation.dry_run import Outline

GPU_COUNTS = (1, 4, 8)
GPU_FLOPS_PER_S: Mapping[str, float] = {"bfloat16": 156e12, "float32": 9.75e12}
"""Training rate of one GPU by precision: half of what NVIDIA's data sheet of the A100 says for dense products (312,
19.5 TFLOP/s), the share that `benchmarks/gpu_training.py` holds the engine to. Assumed, not measured."""


def gpu_figures(run: Outline, state_mb: float, fixed_s: float, tokens: float) -> list[dict[str, Any]]:
    """Start-up, memory and time by number of GPUs, the devices dealt evenly to them.

    With K devices on G GPUs the fullest has n = ceil(K / G). A round's training takes n / K · tokens · FLOPs per token
    / rate; one evaluation by one rule takes 2 P · n · tokens that one adapter is asked (`asked_rows`) / rate at most,
    since adapters that several devices share are asked once. Of actors with g GPUs each G hold floor(G / g), one at the
    least, so that this needs `runtime.devices_per_actor` = ceil(K / floor(G / g)).

    Args:
        run: The run without its weights.
        state_mb: Memory of one device's training state, in 2^20 bytes.
        fixed_s: Seconds of start-up that do not depend on GPUs.
        tokens: Tokens that all devices train on in a round, on average.

    Returns:
        One record a number of GPUs: `gpus`, `devices_per_gpu`, `devices_per_actor` (what it needs; None where the
        configuration as it is makes as many actors), `memory_mb` (weights and states on one GPU, in 2^20
        bytes; activations take what is free), `start_up_s`, `round_s` (training), `evaluation_s`, `run_s` (all
        rounds and evaluations); nothing where the configuration asks for no GPU. Where the number of asked rows isn't
        known `evaluation_s` is None, and `start_up_s` and `run_s` are without evaluations.
    """
    config, count = run.config, run.config.devices.count
    if config.runtime.gpus_per_actor == 0:
        return []
    rate = GPU_FLOPS_PER_S[config.model.dtype]
    training_s = tokens * run.flops_per_token / rate
    forward_s = 2.0 * run.targets.parameters / rate
    base, asked = run.base_tokens, run.evaluation_tokens
    start_up_s = fixed_s + forward_s * (base or 0.0)
    evaluations = math.ceil(config.rounds / config.evaluate.every)
    found: list[dict[str, Any]] = []
    for gpus in GPU_COUNTS:
        held = math.ceil(count / gpus)
        round_s = training_s * held / count
        evaluation_s = None if asked is None else forward_s * asked * held
        found.append(
            {
                "gpus": gpus, "devices_per_gpu": held, "devices_per_actor": _needed(run, gpus),
                "memory_mb": run.base_mb + held * state_mb,
                "start_up_s": start_up_s, "round_s": round_s, "evaluation_s": evaluation_s,
                "run_s": start_up_s + config.rounds * round_s + evaluations * (evaluation_s or 0.0),
            }
        )  # fmt: skip
    return found


def _needed(run: Outline, gpus: int) -> int | None:
    """Devices of an actor with which so many GPUs are all used; None where the runtime makes as many actors."""
    runtime, count = run.config.runtime, run.config.devices.count
    needed = math.ceil(count / max(1, math.floor(gpus / runtime.gpus_per_actor)))
    asked = runtime.devices_per_actor
    return None if asked == "auto" or math.ceil(count / asked) == math.ceil(count / needed) else needed


def about(seconds: float) -> str:
    """Write an estimated span: two figures below a minute, then minutes or hours.

    Args:
        seconds: The span in s, >= 0.

    Returns:
        The text, such as `7.6 s`, `3 min 17 s`.
    """
    from dfl_ray.tracking.stages import duration

    return f"{seconds:.2g} s" if seconds < 59.5 else duration(seconds)


def _evaluation(seconds: float | None) -> str:
    return "evaluations not counted" if seconds is None else f"{about(seconds)} an evaluation"


def gpu_lines(figures: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The figures in words, one line a number of GPUs.

    Args:
        figures: What `gpu_figures` returned.
    """
    return [
        (
            f"on {f['gpus']} GPU{'s' if f['gpus'] > 1 else ''}",
            f"about {about(f['run_s'])}: start-up {about(f['start_up_s'])}, {about(f['round_s'])} of training "
            f"a round, {_evaluation(f['evaluation_s'])}, {f['memory_mb']:,.0f} MB of weights and states each "
            "(at half of an A100's rate, not measured)"
            + (f"; needs runtime.devices_per_actor={n}" if (n := f["devices_per_actor"]) else ""),
        )
        for f in figures
    ]
