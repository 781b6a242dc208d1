"""Controls for sparse-and-orthogonal LoRA: its task separation, replicas and router with other experts inside.

All of it but the experts is `sparse_orthogonal.TaskExperts`: one expert a task, averaged among the task's holders,
replicas for everybody else, and the `likelihood` router over the same sketches, taken through the same orthogonal
projections, which here only the router uses. So the difference to sparse-and-orthogonal LoRA is what sparse B and
orthogonal A_t add beyond task separation.

- `dlora_per_task`: A and B of every expert are trained, sent and averaged, B_t,i <- sum_j W_ij B_t,j and A_t,i
  likewise; the mean of the factors is not the mean of the products, as in traditional LoRA.
- `local_per_task`: the same experts, never averaged; the traffic law (`methods.expert_law`) publishes each once.
- `ffa_per_task`: B of every expert under one common A that nobody trains, so averaging is exact, as in FFA-LoRA, and
  the experts of all tasks read the same r directions of an input.

Source: experiments of this project; the experts are those of Hu et al. 2021 (arXiv 2106.09685) and of Sun et al. 2024
(arXiv 2403.12313).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from dfl_ray.lora.projection import common_factors
from dfl_ray.methods.sparse_orthogonal import TaskExperts


@final
class DloraPerTask(TaskExperts):
    """A and B of one expert a task are trained; see the module's text.

    Args:
        context: The run.
    """

    def start(self, device: int) -> torch.Tensor:
        """Draw each task's first A ~ U(-1/sqrt(d), 1/sqrt(d)), equal on all its holders; B = 0.

        Args:
            device: The device.

        Returns:
            (adapters, size) float32; see `lora.projection.common_factors`.
        """
        tasks = self.adapter_tasks(device)
        flat = torch.zeros(len(tasks), self.layout.size)
        views = self.layout.views(flat, "a")
        for row, task in enumerate(tasks):
            drawn = common_factors(self.context.seed, self.context.layers, self.layout.rank, task)
            for view, a in zip(views, drawn, strict=True):
                view[row].copy_(torch.from_numpy(a))
        return flat

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """None: A is trained."""
        return None


@final
class FfaPerTask(TaskExperts):
    """B of one expert a task is trained under one common A; see the module's text.

    Args:
        context: The run.
    """

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """Give the common A, which a warm start brings along.

        Args:
            owners: (device, task) of each adapter.

        Returns:
            One (owners, r, d) float32 stack a layer, without copies.
        """
        drawn = common_factors(self.context.seed, self.context.layers, self.layout.rank)
        if self.context.warm is not None:
            drawn = self.context.warm.common_a(drawn)
        return [torch.from_numpy(a).float().expand(len(owners), -1, -1) for a in drawn]
