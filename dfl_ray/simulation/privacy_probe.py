"""`dfl-ray evaluate RUN --privacy`: what the adapters of devices, and their gradients, tell of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dfl_ray.devices.step_size import step_size
from dfl_ray.engines.private import Pair, row_gradients
from dfl_ray.engines.training import LocalWork, train_adapters
from dfl_ray.evaluation.leakage import span_distance, token_auc, token_inputs
from dfl_ray.evaluation.membership import matched_rows, membership_auc, row_losses
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.lora.layout import Factor, Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.seeds import Stream, generator
from dfl_ray.simulation.export_device import SavedRun

COLUMNS = ("device", "task", "membership_auc", "row_b", "row_a", "round_b", "round_a")


@dataclass(frozen=True)
class Probed:
    """One device's adapter for one of its tasks.

    Attributes:
        run: The run.
        layout: A and B of it, rank R.
        theta: (1, size) its values.
    """

    run: SavedRun
    layout: Layout
    theta: torch.Tensor

    @property
    def scale(self) -> float:
        """s = alpha / r."""
        method = self.run.config.method
        return method.alpha / method.rank


def probe_privacy(run: SavedRun, rows: int = 32) -> pd.DataFrame:
    """Attack every device's newest adapters.

    `membership_auc`: the threshold attack on the loss, own training rows of the task against held-out ones, both drawn
    at random by the run's seed, with as many of each label (`evaluation.membership.matched_rows`).
    `row_b`, `row_a`: which tokens one training row had, from its plain gradient of B, of A (`evaluation.leakage`); an
    upper bound, since no device sends a plain gradient. `round_b`, `round_a`: the same from what one round's local
    steps by AdamW, with moments of 0, change in B, in A. A round draws `method.local_steps` times `method.batch_rows`
    of the rows in turn; only the tokens of those that it has drawn count as had. NaN where a change is 0. Which factor
    a neighbour sees is the method's (`dfl-ray methods`).

    Args:
        run: The run's saved state.
        rows: Most training rows, and held-out rows, of a device's task.

    Returns:
        `COLUMNS`, one row a device and held task for which it has an adapter.
    """
    setup = run.experiment.setup
    inputs = token_inputs(run.group.model)
    found: list[tuple[float, ...]] = []
    for device, held in setup.held.items():
        _, parts = run.group.answers(device)
        for place, task in enumerate(held):
            adapter = parts.get(task)
            if adapter is None:
                continue
            one = _probed(run, adapter)
            table = setup.tasks[task]
            rng = generator(run.config.seed, Stream.SKETCH_ROWS, task, device)
            mine = rng.permutation(setup.rows[device][place])[:rows]
            own: list[Pair] = [(table.train, int(i)) for i in mine]
            others: list[Pair] = [(table.test, int(i)) for i in rng.permutation(len(table.test))]
            found.append((device, task, _membership(one, own, others, rows), *_leaked(one, inputs, own)))
    out = pd.DataFrame(found, columns=list(COLUMNS))
    out["task"] = [setup.tasks[int(t)].name for t in out["task"]]
    return out


def _membership(one: Probed, own: Sequence[Pair], others: Sequence[Pair], most: int) -> float:
    """AUC of the threshold attack, on at most `most` rows of each kind."""
    labels = [[tuple(table.answer(i).tolist()) for table, i in rows] for rows in (own, others)]
    places = matched_rows(*labels)
    known, new = (
        row_losses(
            one.run.group.model, one.layout, one.theta[0], [rows[i] for i in at[:most]], scale=one.scale
        )
        for rows, at in zip((own, others), places, strict=True)
    )
    return membership_auc(known, new)


def _probed(run: SavedRun, adapter: Adapter) -> Probed:
    layout = Layout(run.experiment.setup.layers, int(adapter.a[0].shape[0]), ("a", "b"))
    theta = torch.zeros(1, layout.size)
    both: tuple[tuple[Factor, Sequence[torch.Tensor]], ...] = (("a", adapter.a), ("b", adapter.b))
    for factor, values in both:
        for view, value in zip(layout.views(theta, factor), values, strict=True):
            view[0] = value
    return Probed(run, layout, theta)


def _leaked(one: Probed, inputs: torch.Tensor, rows: Sequence[Pair]) -> list[float]:
    """Token AUC from one row's gradient and from one round, of B and of A each."""
    model = one.run.group.model
    config = one.run.config.method
    owner = torch.zeros(1, dtype=torch.int64)
    gradient, _ = row_gradients(model, one.layout, one.theta, owner, rows[:1], scale=one.scale)
    state = AdapterState.from_theta(one.theta.clone())
    drawn = config.local_steps * config.batch_rows
    taken = [rows[i % len(rows)] for i in range(drawn)]
    steps = [taken[k :: config.local_steps] for k in range(config.local_steps)]
    size = step_size(config, max(config.warmup_rounds, 1))
    train_adapters(model, one.layout, state, [LocalWork(steps)], size=size, scale=one.scale)
    return [
        _told(one, change, factor, inputs, seen)
        for change, seen in ((gradient, rows[:1]), (state.theta - one.theta, rows[:drawn]))
        for factor in ("b", "a")
    ]


def _told(
    one: Probed, change: torch.Tensor, factor: Factor, inputs: torch.Tensor, rows: Sequence[Pair]
) -> float:
    first = one.layout.views(change, factor)[0][0]
    present = np.zeros(len(inputs), bool)
    for table, i in rows:
        present[table.row(i)[:-1]] = True
    if not bool(first.any()) or present.all():
        return float("nan")
    a = one.layout.views(one.theta, "a")[0][0] if factor == "b" else None
    return token_auc(span_distance(first, inputs, a), present)
