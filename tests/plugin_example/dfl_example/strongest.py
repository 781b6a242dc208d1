"""`strongest`: the expert with the largest update answers everything."""

import torch

from dfl_ray.devices.merging import MergeTask
from dfl_ray.devices.rules import InferenceRule
from dfl_ray.evaluation.scorer import Adapter


def merge(task: MergeTask) -> Adapter:
    """[B_1, ..., B_T] with all blocks but that of the largest norm set to zero."""
    sizes = [sum(float((b * b).sum()) for b in layers) for layers in task.factors]
    best = max(range(len(sizes)), key=sizes.__getitem__)
    kept = [
        [b if t == best else torch.zeros_like(b) for b in layers] for t, layers in enumerate(task.factors)
    ]
    return Adapter(task.a, [torch.cat([f[i] for f in kept], dim=1) for i in range(len(task.a))])


STRONGEST = InferenceRule(merge=merge)
