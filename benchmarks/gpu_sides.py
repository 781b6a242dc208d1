"""What `gpu_training` times of ours, and how it times: the path a run takes, all devices in one batched step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_work import Work, draw_ids
from dfl_ray.engines.training import LocalWork, ScoredModel, train_adapters
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.models.llama import CausalDecoder, empty_decoder
from dfl_ray.tasks.tokens import TokenRows

SIZE = StepSize(learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0)
SCALE = 2.0


def wait(device: str) -> None:
    """Return when the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: str, *, warm: int, repeats: int) -> list[float]:
    """Wall-clock seconds of each of `repeats` calls, after `warm` calls that do not count."""
    out: list[float] = []
    for number in range(warm + repeats):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        if number >= warm:
            out.append(time.perf_counter() - began)
    return out


def random_base(work: Work, seed: int = 0) -> CausalDecoder:
    """A base with random weights, drawn where it is to live."""
    model = empty_decoder(work.shape).to(work.dtype).to_empty(device=work.device)
    generator = torch.Generator(work.device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    frequencies = work.shape.inverse_frequencies().to(work.device)
    model.register_buffer("frequencies", frequencies, persistent=False)
    return model.eval().requires_grad_(False)


class Batched:
    """Ours: the path a run takes, `train_adapters` on a `ScoredModel`."""

    def __init__(self, work: Work, model: CausalDecoder, *, trains_a: bool, compile: str) -> None:
        self.layers = tuple(find_targets(model, "all-linear"))
        chosen = "on" if work.device == "cpu" else "auto"
        self.model = ScoredModel(model, inject(model, self.layers), large=chosen, compile=compile)  # type: ignore[arg-type]
        if self.model.large is None:
            raise ValueError("the large path was not taken; it needs the project's own decoder")
        self.layout = Layout(self.layers, work.rank, ("a", "b") if trains_a else ("b",))
        generator = torch.Generator(work.device).manual_seed(1)
        theta = torch.empty(work.devices, self.layout.size, device=work.device)
        self.state = AdapterState.from_theta(theta.normal_(0.0, 0.01, generator=generator))
        self.static_a = None if trains_a else _static(self.layers, work, generator)
        self.work = _local_work(work)

    def step(self) -> np.ndarray:
        """One step of all devices; their losses."""
        result = train_adapters(
            self.model, self.layout, self.state, self.work, size=SIZE, scale=SCALE, static_a=self.static_a
        )
        return result.loss

    def factors(self, device: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Copies of one device's A and B of every layer, on the CPU."""
        b = self.layout.views(self.state.theta, "b")
        a = self.static_a or self.layout.views(self.state.theta, "a")
        return {
            s.name: (x[device].cpu().clone(), y[device].cpu().clone())
            for s, x, y in zip(self.layers, a, b, strict=True)
        }


def _static(layers: tuple[Any, ...], work: Work, generator: torch.Generator) -> list[torch.Tensor]:
    return [
        torch.empty(work.devices, work.rank, s.in_features, device=work.device).normal_(
            0.0, s.in_features**-0.5, generator=generator
        )
        for s in layers
    ]


def _local_work(work: Work) -> list[LocalWork]:
    ids = draw_ids(work, work.devices * work.batch)
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
    starts = np.full(len(ids), work.length - work.scored + 1, np.int32)
    table = TokenRows(ids.ravel(), offsets, starts)
    return [
        LocalWork([[(table, k * work.batch + i) for i in range(work.batch)]]) for k in range(work.devices)
    ]
