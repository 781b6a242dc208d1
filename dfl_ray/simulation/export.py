"""The adapters a run ends with, one PEFT folder each: an expert per task, or a device's own where tasks share one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dfl_ray.config.methods import FfaPerTaskConfig, SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, RunError
from dfl_ray.lora.layout import Factor, Layout
from dfl_ray.lora.projection import common_factors, drawn_projections
from dfl_ray.methods.spec import method_spec
from dfl_ray.models.paths import SMOLLM2, SMOLLM2_HUB
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.simulation.backend import BackendState
from dfl_ray.simulation.experiment import Experiment
from dfl_ray.simulation.saved_parts import SavedParts
from dfl_ray.wire.message import SHARED_TASK

MOST_BYTES = 2**29
"""Largest folder that is written."""


def save_final_adapters(experiment: Experiment, state: BackendState, folder: Path) -> Path | None:
    """Write the final adapters under `folder`.

    Of a task's holders the author's expert is written (they differ by no more than the consensus distance); a
    method with one adapter per device writes that of the first device. What a method has merged into the device's
    base (`flora`) is written as an adapter of as high a rank as it has.

    Args:
        experiment: The run.
        state: The devices' final state.
        folder: Folder to make, `adapters/` of the run.

    Returns:
        The folder, or None when float32 copies would be too large to be sensible (> 512 MB).

    Raises:
        RunError: `model.verify_export` is set and PEFT computes something else from a folder.
    """
    setup, config = experiment.setup, experiment.config
    layout = experiment.layout
    owners = adapter_owners(experiment)
    wanted = {
        f"{device}/{part}" for device, _ in owners.values() for part in ("state/theta", "memory/merged")
    }
    parts = state.devices
    read = parts.only(wanted.__contains__) if isinstance(parts, SavedParts) else parts
    arrays = {name: a for s in read for name, a in s.arrays.items() if name in wanted}
    merged = {device: arrays.get(f"{device}/memory/merged") for device, _ in owners.values()}
    dense = sum(m.size for m in merged.values() if m is not None)
    if 4 * (layout.size * len(owners) + dense) > MOST_BYTES:
        return None
    scale = config.method.alpha / config.method.rank
    for name, (device, task) in owners.items():
        adapter_index = 0 if task == SHARED_TASK else setup.held[device].index(task)
        flat = np.asarray(arrays[f"{device}/state/theta"][adapter_index])
        a = _factor(layout, flat, "a") if "a" in layout.trains else _static_a(experiment, device, task)
        b, s = _factor(layout, flat, "b"), scale
        update = merged[device]
        if update is not None:
            a, b, s = *_with_merged(layout, a, b, scale, update), 1.0
        write_peft_folder(
            folder / name, setup.layers, a, b, scale=s, base_model=base_reference(config),
            head=setup.weights.head,
        )  # fmt: skip
    if config.model.verify_export:
        _verify(experiment, [folder / name for name in owners])
    return folder


def base_reference(config: Config) -> str:
    """What an adapter's configuration says of its base, meant to be understood on another machine.

    The hub id that the base's own config.json names, else `model.name` as it was given: a path of this machine is no
    use elsewhere, so that of a folder or GGUF file inside the working directory is made relative, of another only its
    name is kept, and of the embedded model only the word `embedded`. `smollm2-135m` is named by its hub id.
    """
    name = config.model.name
    if name == SMOLLM2:
        return SMOLLM2_HUB
    folder = Path(name).expanduser()
    if not folder.exists():
        return name
    try:
        origin = json.loads((folder / "config.json").read_bytes()).get("_name_or_path", "")
    except (OSError, ValueError):
        origin = ""
    if (
        isinstance(origin, str)
        and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", origin)
        and not Path(origin).exists()
    ):
        return origin
    here = Path.cwd()
    return (
        str(folder.resolve().relative_to(here))
        if folder.resolve().is_relative_to(here)
        else folder.resolve().name
    )


def _verify(experiment: Experiment, folders: Sequence[Path]) -> None:
    """Load each folder with PEFT and compare logits with the simulator's own."""
    from dfl_ray.engines.peft_check import verify_folder
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.lora.inject import inject
    from dfl_ray.models.build import build_model

    setup = experiment.setup
    model = build_model(setup.weights)
    scored = ScoredModel(model, inject(model, setup.layers))
    for folder in folders:
        try:
            verify_folder(setup.weights, scored, setup.layers, folder)
        except InputError as error:
            raise RunError(f"The exported adapter {folder} is not what was trained. {error}") from error


def _with_merged(
    layout: Layout, a: Sequence[np.ndarray], b: Sequence[np.ndarray], scale: float, merged: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Factors of merged + s B A of every layer by SVD, all of the highest rank that a layer needs, scale 1."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for layer, down, up in zip(layout.layers, a, b, strict=True):
        m, d = layer.out_features, layer.in_features
        dense = merged[start : start + m * d].reshape(m, d).astype(np.float64) + scale * up @ down
        start += m * d
        parts.append(np.linalg.svd(dense, full_matrices=False))
    rank = max(1, *(int((v > v[0] * np.finfo(np.float32).eps).sum()) for _, v, _ in parts))
    return [_rows(right, rank) for _, _, right in parts], [
        _rows((left * values).T, rank).T for left, values, _ in parts
    ]


def _rows(x: np.ndarray, count: int) -> np.ndarray:
    """The first rows, zeros behind the last."""
    return np.pad(x[:count], ((0, max(0, count - len(x))), (0, 0)))


def adapter_owners(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """Folder name -> (device, adapter task) of each adapter to write."""
    if not method_spec(experiment.config.method).per_task:
        return {"shared": (0, SHARED_TASK)}
    authors = {task: device for (task, _), device in reversed(list(experiment.setup.graph.authority.items()))}
    return {experiment.setup.tasks[task].name: (device, task) for task, device in sorted(authors.items())}


def _static_a(experiment: Experiment, device: int, task: int) -> list[np.ndarray]:
    """A of every layer where it is drawn and never trained."""
    config, layers = experiment.config, experiment.setup.layers
    method = config.method
    if isinstance(method, FfaPerTaskConfig):  # the run's projections are only its router's
        drawn, warm = common_factors(config.seed, layers, method.rank), experiment.setup.warm
        return drawn if warm is None else warm.common_a(drawn)
    if not (isinstance(method, SparseOrthogonalConfig) and method.projection == "per_device"):
        return [a[0 if task == SHARED_TASK else task] for a in experiment.setup.projections]
    drawn = drawn_projections(
        config.seed, layers, tasks=len(experiment.setup.tasks), rank=method.rank, kind="per_device",
        device=device,
    )  # fmt: skip
    return [a[task] for a in drawn]


def _factor(layout: Layout, flat: np.ndarray, factor: Factor) -> list[np.ndarray]:
    if factor == "b" and "c" in layout.trains:
        cores = _factor(layout, flat, "c")
        return [up.T @ core for up, core in zip(layout.ups, cores, strict=True)]
    return [flat[s.start : s.stop].reshape(s.shape) for s in layout.of(factor)]
