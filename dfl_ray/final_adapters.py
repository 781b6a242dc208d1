"""The adapters a run ends with, one PEFT folder each: an expert per task, or a device's own where tasks share one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dfl_ray.backend import BackendState
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.message import SHARED_TASK
from dfl_ray.methods.base import Context
from dfl_ray.methods.table import make_method
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.scene import Scene, model_path


def save_final_adapters(scene: Scene, state: BackendState, folder: Path) -> Path | None:
    """Write the final adapters under `folder`.

    Of a task's holders the author's expert is written (they differ by no more than the consensus distance); a
    method with one adapter per device writes that of the first device.

    Args:
        scene: The run.
        state: The devices' final state.
        folder: Folder to make, `adapters/` of the run.

    Returns:
        The folder, or None when the model is too large for float32 copies to be sensible (> 512 MB), or when
        the method merges adapters into the base (`flora`), which no low-rank folder can hold.
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
    if config.method.type == "flora" or 4 * method.layout.size * len(owners) > 2**29:
        return None
    arrays = {name: a for s in state.devices for name, a in s.arrays.items() if name.endswith("/state/theta")}
    for name, (device, task) in owners.items():
        slot = method.slots(device).index(task)
        flat = torch.from_numpy(np.array(arrays[f"{device}/state/theta"][slot])).unsqueeze(0)
        static = method.static_a([(device, task)])
        a = _factor(method.layout, flat, "a") if static is None else [x[0].numpy() for x in static]
        write_peft_folder(
            folder / name, setup.layers, a, _factor(method.layout, flat, "b"),
            scale=config.method.alpha / config.method.rank, base_model=model_path(config),
        )  # fmt: skip
    return folder


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
