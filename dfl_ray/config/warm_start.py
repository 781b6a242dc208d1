"""What `model.warm_start` cannot be, as far as the configuration and the folder's name tell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dfl_ray.config.methods import FfaPerTaskConfig
from dfl_ray.config.problems import Problem
from dfl_ray.config.schema import ModelConfig
from dfl_ray.config.training import TrainingConfig
from dfl_ray.methods.spec import method_spec

MERGE = (
    "Merge the adapter into the base with PEFT (merge_and_unload, save_pretrained) and give that folder as "
    "`model.name`"
)
"""What to do with an adapter that cannot be started from."""


def warm_start_problems(model: ModelConfig, method: TrainingConfig) -> Iterable[Problem]:
    """Refuse an adapter where A, or A and B, are the run's own draw, so that no other A has room.

    Args:
        model: The section `model`.
        method: The section `method`.

    Returns:
        At most one problem.
    """
    spec = method_spec(method)
    if model.warm_start is None or "a" in spec.trains:
        return
    if spec.per_task and not isinstance(method, FfaPerTaskConfig):
        yield Problem(
            f"`model.warm_start` is not there for the method {method.name}",
            got="each task's A is a fixed projection of the run, under which another adapter's B A cannot be written",
            expected="a method that trains A, or whose adapters have one common A (ffa, ffa_per_task)",
            change=f"{MERGE}: every device starts from it all the same.",
        )
    if "c" in spec.trains:
        yield Problem(
            f"`model.warm_start` is not there for the method {method.name}",
            got="a core between two bases that the run draws, in which another adapter's B A cannot be written",
            expected="a method that trains A or B",
            change=f"{MERGE}: every device starts from it all the same.",
        )


def missing_warm_start(model: ModelConfig) -> Iterable[Problem]:
    """Refuse a folder that is not there or holds no adapter.

    Args:
        model: The section `model`.

    Returns:
        At most one problem.
    """
    if model.warm_start is None:
        return
    if not (Path(model.warm_start).expanduser() / "adapter_config.json").is_file():
        yield Problem(
            "`model.warm_start` is no adapter folder",
            got=model.warm_start,
            expected="a local folder that PEFT wrote, with adapter_config.json and adapter_model.safetensors",
        )
