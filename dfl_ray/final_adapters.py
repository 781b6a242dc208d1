"""The adapters a run ends with, one PEFT folder each: an expert per task, or a device's own where tasks share one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dfl_ray.backend import BackendState
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.message import SHARED_TASK
from dfl_ray.methods.base import Context
from dfl_ray.methods.shared import MERGED
from dfl_ray.methods.table import make_method
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.scene import Scene, model_path

MOST_BYTES = 2**29
"""Largest folder that is written."""


def save_final_adapters(scene: Scene, state: BackendState, folder: Path) -> Path | None:
    """Write the final adapters under `folder`.

    Of a task's holders the author's expert is written (they differ by no more than the consensus distance); a
    method with one adapter per device writes that of the first device. What a method has merged into the device's
    base (`flora`) is written as an adapter of as high a rank as it has.

    Args:
        scene: The run.
        state: The devices' final state.
        folder: Folder to make, `adapters/` of the run.

    Returns:
        The folder, or None when float32 copies would be too large to be sensible (> 512 MB).
    """
    setup, config = scene.setup, scene.config
    method = make_method(
        Context(
            config=config.method, seed=config.seed, run=setup.run, rounds=config.rounds, layers=setup.layers,
            tasks=len(setup.tasks), held=setup.held, graph=setup.graph, sketch=_no_sketch,
            router_layers=setup.router_layers,
        )
    )  # fmt: skip
    owners = _owners(scene, method.slots(0))
    arrays = {name: a for s in state.devices for name, a in s.arrays.items()}
    merged = {device: arrays.get(f"{device}/memory/{MERGED}") for device, _ in owners.values()}
    dense = sum(m.size for m in merged.values() if m is not None)
    if 4 * (method.layout.size * len(owners) + dense) > MOST_BYTES:
        return None
    scale = config.method.alpha / config.method.rank
    for name, (device, task) in owners.items():
        slot = method.slots(device).index(task)
        flat = torch.from_numpy(np.array(arrays[f"{device}/state/theta"][slot])).unsqueeze(0)
        static = method.static_a([(device, task)])
        a = _factor(method.layout, flat, "a") if static is None else [x[0].numpy() for x in static]
        b, s = _factor(method.layout, flat, "b"), scale
        update = merged[device]
        if update is not None:
            a, b, s = *_with_merged(method.layout, a, b, scale, update), 1.0
        write_peft_folder(folder / name, setup.layers, a, b, scale=s, base_model=model_path(config))
    return folder


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


def _owners(scene: Scene, slots: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Folder name -> (device, slot task) of each adapter to write."""
    if slots == (SHARED_TASK,):
        return {"shared": (0, SHARED_TASK)}
    authors = {task: device for (task, _), device in reversed(list(scene.setup.graph.authority.items()))}
    return {scene.setup.tasks[task].name: (device, task) for task, device in sorted(authors.items())}


def _factor(layout: Layout, flat: torch.Tensor, factor: str) -> list[np.ndarray]:
    return [v[0].numpy() for v in layout.views(flat, factor)]  # type: ignore[arg-type]


def _no_sketch(device: int, task: int, layers: object) -> np.ndarray:
    raise ValueError("sketches are not made here")
