"""What the driver asks of a round: whether it is evaluated, by which rules, and how training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.devices.records import TrainReport
from dfl_ray.methods.spec import filters_received, method_spec


def evaluation_due(config: Config, round_index: int) -> bool:
    """Whether a round ends with an evaluation: every `evaluate.every` rounds, and the last.

    Args:
        config: The experiment.
        round_index: The round, from 1.

    Returns:
        True if it does.
    """
    return round_index % config.evaluate.every == 0 or round_index == config.rounds


def rules_asked(config: Config, round_index: int) -> tuple[str, ...]:
    """Inference rules a round's evaluation asks, the method's own first; the last round asks all that are wanted.

    Args:
        config: The experiment; `evaluate.rules`, or the method's own choice, says what the last round asks.
        round_index: The round, from 1.

    Returns:
        Names of rules, each once. Before the last round: the method's own, and `oracle` if the method has it.
    """
    spec = method_spec(config.method)
    if round_index == config.rounds:
        asked = config.evaluate.rules or spec.compared
        return tuple(dict.fromkeys((spec.rule, *(spec.rules if "all" in asked else asked))))
    return tuple(dict.fromkeys((spec.rule, "oracle"))) if "oracle" in spec.rules else (spec.rule,)


def needs_references(config: Config, rules: Sequence[str]) -> bool:
    """Whether an evaluation needs exact sketches of all layers, which nobody sends: for `filter` as a reference.

    Args:
        config: The experiment.
        rules: The inference rules it asks.

    Returns:
        True if it does.
    """
    return "filter" in rules and not filters_received(config.method)


def training_metrics(trained: Sequence[TrainReport], late: np.ndarray) -> dict[str, Any]:
    """Mean loss of the devices that trained, how many were left out (non-finite, or late), and waiting for the slowest.

    Args:
        trained: Reports of the local steps, together of all devices.
        late: (devices,) devices that were not done by the deadline and sent nothing.

    Returns:
        `train_loss`, the unweighted mean over devices of finite loss in nats a token, None if there is none;
        `skipped_devices`; `late_devices`, the late ones among them; and `straggler_wall_s`, the real time by which
        the slowest actor trained longer than the mean one, None where there is but one.
    """
    busy = [r.busy_s for r in trained]
    loss = np.concatenate([np.where(r.finite, r.loss, np.nan) for r in trained])
    finite = np.concatenate([r.finite for r in trained])
    return {
        "train_loss": float(np.nanmean(loss)) if np.isfinite(loss).any() else None,
        "skipped_devices": int((~finite | late[np.concatenate([r.devices for r in trained])]).sum()),
        "late_devices": int(late.sum()),
        "straggler_wall_s": max(busy) - sum(busy) / len(busy) if len(busy) > 1 else None,
    }
