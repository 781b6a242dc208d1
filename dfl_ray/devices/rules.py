"""The inference rules: how a device answers a held-out prompt with the experts it holds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.devices.merging import MergeTask
from dfl_ray.devices.routing import OPEN, Router
from dfl_ray.errors import InputError, RunError, paragraph
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.experts.gates import arrow_gate, prototype, soft_gate
from dfl_ray.experts.merging import ties_merge
from dfl_ray.experts.routing import filtered_factors
from dfl_ray.experts.table import RULES
from dfl_ray.methods.base import Device
from dfl_ray.methods.shared import merged_factors
from dfl_ray.methods.spec import filters_received

Routes = Sequence[np.ndarray]
"""For each task the task whose expert answers each of its held-out rows, or `routing.OPEN` where none does alone."""


@dataclass(frozen=True)
class InferenceRule:
    """One way to answer; at least one of `route` and `merge` is given.

    Attributes:
        route: Which expert alone answers each row; its answer None means that of the row's own task. None: none does.
        merge: The one adapter that answers the rows that no expert answers alone. None: every row has its expert.
        key: What else than the experts tells devices apart that answer alike by `merge`; None = nothing.
        chooses: Whether `route` is a choice that can be wrong, so that its accuracy is recorded.
    """

    route: Callable[[Router, Device], Routes | None] | None = None
    merge: Callable[[MergeTask], Adapter] | None = None
    key: Callable[[Router, Device], Hashable] | None = None
    chooses: bool = False


def inference_rule(name: str) -> InferenceRule:
    """The rule of this name; `single` is that of methods with one adapter a device.

    Args:
        name: Name of a rule, or `single`.

    Returns:
        The rule.

    Raises:
        ValueError: There is none, or the package that has it cannot be imported or gives something else.
        InputError: The rule of an installed package can answer nothing.
    """
    rule: InferenceRule = SINGLE if name == "single" else RULES[name]
    if rule.route is None and rule.merge is None:
        raise InputError(
            f"The inference rule `{name}` can answer nothing",
            got="`InferenceRule` with neither `route` nor `merge`",
            expected="at least one of them",
        )
    return rule


def checked_routes(name: str, found: object, rows: Sequence[int], tasks: int, *, merges: bool) -> Routes:
    """Refuse routes that lead nowhere; those of a rule of an installed package may.

    Args:
        name: The rule.
        found: What its `route` gave.
        rows: Number of held-out rows asked of each task.
        tasks: Number of tasks T.
        merges: Whether the rule answers rows that are left `OPEN`.

    Returns:
        The same.

    Raises:
        RunError: It is not, for each task, a whole number in [0, T) or `OPEN` for each row.
    """
    what = f"The inference rule `{name}` does not say which expert answers which row"
    least = OPEN if merges else 0
    expected = f"{tasks} arrays, for each task one of {least} to {tasks - 1} a row ({', '.join(map(str, rows))} rows)"
    if not isinstance(found, list | tuple) or len(found) != tasks:
        got = f"{len(found)} arrays" if isinstance(found, list | tuple) else f"a {type(found).__name__}"
        raise RunError(paragraph(what, got=got, expected=expected))
    for task, (chosen, count) in enumerate(zip(found, rows, strict=True)):
        if not isinstance(chosen, np.ndarray) or chosen.shape != (count,) or chosen.dtype.kind not in "iu":
            is_array = isinstance(chosen, np.ndarray)
            got = f"{chosen.shape} {chosen.dtype}" if is_array else f"a {type(chosen).__name__}"
            raise RunError(paragraph(what, got=f"{got} for task {task}", expected=expected))
        wrong = chosen[(chosen < least) | (chosen >= tasks)]
        if wrong.size:
            raise RunError(paragraph(what, got=f"{wrong[0]} for a row of task {task}", expected=expected))
    return found


def _own_task(router: Router, device: Device) -> Routes | None:
    del router, device
    return None


def _sum(task: MergeTask) -> Adapter:
    return Adapter(task.a, task.joined)


def _average(task: MergeTask) -> Adapter:
    return Adapter(task.a, [b / max(1, task.held) for b in task.joined])  # one that it has not is no 0


def _filter(task: MergeTask) -> Adapter:
    matrices = task.merger.filter_matrices(task.device, task.references)
    return Adapter(task.a, filtered_factors(task.factors, matrices, task.merger.rank))


def _filter_key(router: Router, device: Device) -> Hashable:
    """The sketches that a device filters with; None where the reference's are used, the same for all."""
    known = router.method.sketches(device) if filters_received(router.section) else None
    return None if known is None else known[0]


def _filter_full(task: MergeTask) -> Adapter:
    return Adapter(task.merger.filtered_projections(), task.joined)


def _soft(task: MergeTask) -> Adapter:
    shares = task.merger.router.shares(task.device)[1]
    return Adapter(task.a, task.joined, soft_gate(shares, task.merger.rank))


def _arrow(task: MergeTask) -> Adapter:
    merger, settings = task.merger, task.merger.settings
    prototypes = [
        torch.stack([prototype(a, f[i]) for a, f in zip(stack, task.factors, strict=True)])
        for i, stack in enumerate(task.stacks)
    ]
    gate = arrow_gate(
        prototypes, merger.rank, top_k=settings.arrow_top_k, temperature=settings.arrow_temperature
    )
    return Adapter(task.a, task.joined, gate)


def _ties(task: MergeTask) -> Adapter:
    merger = task.merger
    layout = merger.method.layout
    scale = merger.section.alpha / merger.rank
    updates = np.stack(
        [
            np.concatenate(
                [(scale * b @ stack[t]).numpy().ravel() for b, stack in zip(mine, task.stacks, strict=True)]
            )
            for t, mine in enumerate(task.factors)
        ]
    )
    settings = merger.settings
    merged = ties_merge(updates, density=settings.ties_density, scale=settings.ties_scale)
    pairs = merged_factors(layout, merged, scale)
    return Adapter([p[0] for p in pairs], [p[1] for p in pairs])


SINGLE = InferenceRule(route=_own_task)
ORACLE = InferenceRule(route=_own_task)
LIKELIHOOD = InferenceRule(route=lambda router, device: router.choices(device), chooses=True)
LIKELIHOOD_SOFT = InferenceRule(
    route=lambda router, device: router.sole_experts(device),
    merge=_soft,
    key=lambda router, device: router.shares(device)[0],
)
SUM = InferenceRule(merge=_sum)
AVERAGE = InferenceRule(merge=_average)
FILTER = InferenceRule(merge=_filter, key=_filter_key)
FILTER_FULL = InferenceRule(merge=_filter_full)
ARROW = InferenceRule(merge=_arrow)
TIES = InferenceRule(merge=_ties)
