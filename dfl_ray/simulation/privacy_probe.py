"""`dfl-ray evaluate RUN --privacy`: what the adapters of devices, and their gradients, tell of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dfl_ray.devices.own_base import base_and_frozen
from dfl_ray.devices.step_size import step_size
from dfl_ray.engines.private import Pair, row_gradients
from dfl_ray.engines.training import LocalWork, ScoredModel, train_adapters
from dfl_ray.evaluation.leakage import span_distance, token_auc, token_inputs
from dfl_ray.evaluation.membership import matched_rows, membership_auc, row_losses
from dfl_ray.lora.layout import Factor, Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Factors
from dfl_ray.seeds import Stream, generator
from dfl_ray.simulation.export_device import SavedRun

COLUMNS = ("device", "task", "membership_auc", "row_b", "row_a", "round_b", "round_a")


@dataclass(frozen=True)
class Probed:
    """One device's adapter for one of its tasks, as the method trains it.

    Attributes:
        run: The run.
        device: The device.
        task: The task.
        model: The base that it is trained on: the shared one, or the device's own.
        theta: (1, size) its values, by the method's layout.
        static_a: One (1, r, d) a layer where A is not trained.
        frozen: One (1, R, d), (1, m, R) pair a layer that is added and not trained, as an update merged into the base.
    """

    run: SavedRun
    device: int
    task: int
    model: ScoredModel
    theta: torch.Tensor
    static_a: Sequence[torch.Tensor] | None
    frozen: Sequence[Factors] | None

    @property
    def layout(self) -> Layout:
        """Where the trained factors lie."""
        return self.run.group.method.layout

    @property
    def scale(self) -> float:
        """s = alpha / r."""
        method = self.run.config.method
        return method.alpha / method.rank

    @property
    def first_a(self) -> torch.Tensor:
        """(r, d) A of the first layer."""
        if self.static_a is not None:
            return self.static_a[0][0]
        return self.layout.views(self.theta, "a")[0][0]

    def turns(self) -> dict[Factor, torch.Tensor | None]:
        """What may change, (1, size) or None for all, in the next round in which a factor is trained at all."""
        group, found = self.run.group, dict[Factor, torch.Tensor | None]()
        device, tasks = group.devices[self.device], group.devices[self.device].adapter_tasks
        place = tasks.index(self.task) if self.task in tasks else 0
        for ahead in range(1, self.run.config.rounds + 1):
            keep = group.method.keep(device, self.run.round_index + ahead)
            mine = None if keep is None else keep[place : place + 1]
            for factor in self.layout.trains:
                if mine is None or any(bool(v.any()) for v in self.layout.views(mine, factor)):
                    found.setdefault(factor, mine)
            if len(found) == len(self.layout.trains):
                break
        return found


def probe_privacy(run: SavedRun, rows: int = 32) -> pd.DataFrame:
    """Attack the newest adapters of every device that trains.

    `membership_auc`: the threshold attack on the loss, training rows of the task against held-out ones, both drawn
    at random by the run's seed, with as many of each label (`evaluation.membership.matched_rows`).
    `row_b`, `row_a`: which tokens one training row had, from its plain gradient of B, of A (`evaluation.leakage`); an
    upper bound, since no device sends a plain gradient. `round_b`, `round_a`: the same from what one round's local
    steps by `method.optimizer`, with moments of 0, change in B, in A: the next round in which the factor is trained. A
    round draws `method.local_steps` times `method.batch_rows` of the rows in turn; only the tokens of those that it has
    drawn count as had. NaN where a change is 0, and for an A that is not trained. Of a core C, the only factor that is
    trained, C stands for B: both see A x. Which factor a neighbour sees is the method's (`dfl-ray methods`).

    Args:
        run: The run's saved state.
        rows: Most training rows, and held-out rows, of a device's task.

    Returns:
        `COLUMNS`, one row a device and task that it trains on and for which it has an adapter.
    """
    setup = run.experiment.setup
    inputs = token_inputs(run.group.model)
    found: list[tuple[float, ...]] = []
    for device in setup.held:
        for task, trained in _trained_rows(run, device).items():
            one = _probed(run, device, task)
            if one is None:
                continue
            table = setup.tasks[task]
            rng = generator(run.config.seed, Stream.SKETCH_ROWS, task, device)
            own: list[Pair] = [(table.train, int(i)) for i in rng.permutation(trained)[:rows]]
            others: list[Pair] = [(table.test, int(i)) for i in rng.permutation(len(table.test))]
            found.append((device, task, _membership(one, own, others, rows), *_leaked(one, inputs, own)))
    out = pd.DataFrame(found, columns=list(COLUMNS))
    out["task"] = [setup.tasks[int(t)].name for t in out["task"]]
    return out


def _trained_rows(run: SavedRun, device: int) -> dict[int, np.ndarray]:
    """Task -> the training rows that a device trains on: its own, of several devices, or none."""
    setup, found = run.experiment.setup, dict[int, list[np.ndarray]]()
    for source in run.group.method.law.sources(device):
        for task, rows in zip(setup.held[source], setup.rows[source], strict=True):
            found.setdefault(task, []).append(rows)
    return {task: np.concatenate(rows) for task, rows in found.items()}


def _membership(one: Probed, own: Sequence[Pair], others: Sequence[Pair], most: int) -> float:
    """AUC of the threshold attack, on at most `most` rows of each kind."""
    labels = [[tuple(table.answer(i).tolist()) for table, i in rows] for rows in (own, others)]
    places = matched_rows(*labels)
    known, new = (
        row_losses(
            one.model,
            one.layout,
            one.theta[0],
            [rows[i] for i in at[:most]],
            scale=one.scale,
            static_a=one.static_a,
            frozen=one.frozen,
        )
        for rows, at in zip((own, others), places, strict=True)
    )
    return membership_auc(known, new)


def _probed(run: SavedRun, device: int, task: int) -> Probed | None:
    """What a device trains for a task; None where it has no adapter."""
    group = run.group
    method, own = group.method, group.devices[device]
    expert = method.expert(own, task)
    if expert is None:
        return None
    model, frozen = base_and_frozen(method, group.model, [own])
    static, on = method.static_a([expert.owner]), group.model.device
    return Probed(
        run, device, task, model, expert.values.detach().clone().unsqueeze(0).to(on),
        None if static is None else [a.to(on) for a in static],
        None if frozen is None else [(a.to(on), b.to(on)) for a, b in frozen],
    )  # fmt: skip


def _leaked(one: Probed, inputs: torch.Tensor, rows: Sequence[Pair]) -> list[float]:
    """Token AUC from one row's gradient and from one round, of B and of A each."""
    config = one.run.config.method
    owner = torch.zeros(1, dtype=torch.int64, device=one.theta.device)
    gradient, _ = row_gradients(
        one.model, one.layout, one.theta, owner, rows[:1], scale=one.scale, static_a=one.static_a,
        frozen=one.frozen,
    )  # fmt: skip
    drawn = config.local_steps * config.batch_rows
    changes = _round_changes(one, [rows[i % len(rows)] for i in range(drawn)])
    up: Factor = "c" if "c" in one.layout.trains else "b"
    return [
        float("nan") if factor not in of else _told(one, of[factor], factor, inputs, seen)
        for of, seen in ((dict.fromkeys(one.layout.trains, gradient), rows[:1]), (changes, rows[:drawn]))
        for factor in (up, "a")
    ]


def _round_changes(one: Probed, taken: Sequence[Pair]) -> dict[Factor, torch.Tensor]:
    """Factor -> (1, size), what the local steps of the round change in which the factor is trained."""
    config = one.run.config.method
    work = [LocalWork([taken[k :: config.local_steps] for k in range(config.local_steps)])]
    size = step_size(config, max(config.warmup_rounds, 1))
    done: dict[int, torch.Tensor] = {}
    turns = one.turns()
    for keep in turns.values():
        if id(keep) not in done:
            state = AdapterState.from_theta(one.theta.clone())
            train_adapters(
                one.model, one.layout, state, work, size=size, scale=one.scale, static_a=one.static_a,
                frozen=one.frozen, keep=None if keep is None else keep.to(one.theta.device),
            )  # fmt: skip
            done[id(keep)] = state.theta - one.theta
    return {factor: done[id(keep)] for factor, keep in turns.items()}


def _told(
    one: Probed, change: torch.Tensor, factor: Factor, inputs: torch.Tensor, rows: Sequence[Pair]
) -> float:
    first = one.layout.views(change, factor)[0][0]
    present = np.zeros(len(inputs), bool)
    for table, i in rows:
        present[table.row(i)[:-1]] = True
    if not bool(first.any()) or present.all():
        return float("nan")
    return token_auc(span_distance(first, inputs, None if factor == "a" else one.first_a), present)
