"""The round loop: train, plan, exchange, evaluate, record, save. It moves references and reports, no payloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dfl_ray.config.schema import Config
from dfl_ray.devices.records import EvaluationReport, TrainReport
from dfl_ray.errors import Interrupted, RunError
from dfl_ray.methods.spec import method_spec
from dfl_ray.records import RunFolder
from dfl_ray.simulation.backend import Backend
from dfl_ray.simulation.checkpoint import Checkpoint, save_checkpoint
from dfl_ray.simulation.experiment import Experiment
from dfl_ray.simulation.radio_tables import attempt_sinr_db, attempt_table, radio_metrics, transfer_table
from dfl_ray.simulation.round_loop import RoundLoop, WallTimes
from dfl_ray.simulation.round_tables import (
    AccuracyHistory,
    accuracy_metrics,
    device_table,
    evaluation_table,
    state_metrics,
)
from dfl_ray.tracking.progress import Progress
from dfl_ray.tracking.tracker import Tracker


class Driver:
    """Coordinates the rounds of one run.

    Args:
        experiment: The run.
        backend: Hosts devices and channel.
        folder: Where records and checkpoints go.
        tracker: Follows the metrics.
        progress: Shows them.
        stop_wanted: Asked at every round boundary; True saves and stops.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
        stop_wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.experiment = experiment
        self.config = experiment.config
        self.backend = backend
        self.folder = folder
        self.tracker = tracker
        self.progress = progress
        self.stop_wanted = stop_wanted
        self.spec = method_spec(self.config.method)
        self.layout = experiment.layout
        self.history = AccuracyHistory({})
        self.spectral_gap = smallest_gap(experiment)
        self._actor_of = {d: backend.actor_of(d) for d in range(self.config.devices.count)}
        self._references: dict[int, np.ndarray] | None = None
        self.loop = RoundLoop(
            backend, experiment.channel.classes, experiment.setup.graph.relays, experiment.flops_per_token
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint.

        Args:
            checkpoint: A checkpoint of this run, of the same configuration.
        """
        self.backend.restore(checkpoint.state)
        self.history.best = dict(checkpoint.driver["best_accuracy"])
        self.loop.absent = tuple(checkpoint.driver["absent"])

    def run(self, done: int = 0) -> None:
        """Run the rounds after `done` to the end; with `done` 0 the base model is evaluated first.

        Args:
            done: Rounds already finished, 0 for a new run.

        Raises:
            Interrupted: The user stopped the run; it has been saved.
            RunError: Training diverged on every device, or no device is left.
        """
        if done == 0:
            self._evaluate_base()
        self.progress.rounds(self.config.rounds, done)
        for round_index in range(done + 1, self.config.rounds + 1):
            row = self._round(round_index)
            self.progress.update(row)
            self._stop_if_diverged(row)
            stopping = self.stop_wanted() and round_index < self.config.rounds
            self._checkpoint(round_index, forced=stopping or round_index == self.config.rounds)
            if stopping:
                raise Interrupted(
                    f"Stopped after round {round_index} of {self.config.rounds} and saved. "
                    f"Go on with: dfl-ray resume {self.folder.path}"
                )

    def _stop_if_diverged(self, row: dict[str, Any]) -> None:
        """Stop after a recorded round in which no device that trained had a finite loss.

        Raises:
            RunError: It names the round and the learning rate.
        """
        if row["skipped_devices"] and row["train_loss"] is None:
            said = (
                f"Training diverged: no device had a finite loss in round {row['round']} "
                f"({row['skipped_devices']} devices trained). Lower `method.learning_rate` "
                f"(now {self.config.method.learning_rate:g}), or raise `method.warmup_rounds`."
            )
            self.folder.update_info(warnings=[*self.folder.info.get("warnings", ()), said])
            raise RunError(said)

    def _evaluate_base(self) -> None:
        table = evaluation_table(self.backend.evaluate(0, ("base",), None), self.experiment)
        self.folder.append({"evaluation": table}, round=0)

    def _round(self, round_index: int) -> dict[str, Any]:
        began = time.perf_counter()
        wall_times = WallTimes()
        done = self.loop.play(round_index, wall_times)
        self._say_emptied(round_index, done.emptied)
        names = [t.name for t in self.experiment.setup.tasks]
        row: dict[str, Any] = {"round": round_index, **radio_metrics(done.plan, done.arrived)}
        row |= training_metrics(done.trained) | {
            "refused": sum(sum(r.values()) for t in done.taken for r in t.refused)
        }
        row |= {"object_store_bytes": self.backend.object_store_bytes(), "spectral_gap": self.spectral_gap}
        row |= {"message_bytes": int(done.requests.payload_bytes[done.arrived].sum())}
        row |= {"node_crossing_bytes": self.backend.node_crossing_bytes()}
        tables = {
            "devices": device_table(
                self.experiment, done.trained, done.taken, done.plan, done.cost.seconds, self._actor_of
            ),
            "transfers": transfer_table(done.plan, done.hops, done.requests, names),
            "attempts": attempt_table(done.plan),
        }
        extras: dict[str, Any] = {"sinr_db": attempt_sinr_db(done.plan)}
        if evaluation_due(self.config, round_index):
            with wall_times.measure("evaluate"):
                tables["evaluation"] = self._evaluate(round_index, row, extras)
        self._record(row, tables, extras, wall_times, began)
        return row

    def _say_emptied(self, round_index: int, emptied: Sequence[int]) -> None:
        """Tell which devices leave the run."""
        if emptied:
            who = ", ".join(map(str, emptied[:10])) + (" ..." if len(emptied) > 10 else "")
            self.progress.say(f"Round {round_index}: battery empty, out of the run: device {who}")

    def _evaluate(self, round_index: int, row: dict[str, Any], extras: dict[str, Any]) -> pd.DataFrame:
        rules = rules_asked(self.config, round_index)
        if "filter" in rules and self._references is None:
            self._references = self.backend.full_sketches()
        references = self._references if "filter" in rules else None
        reports: list[EvaluationReport] = self.backend.evaluate(round_index, rules, references)
        table = evaluation_table(reports, self.experiment)
        found = accuracy_metrics(table, self.spec.rule, self.history)
        extras["accuracy_by_task"] = found.pop("accuracy_by_task")
        mine = table[table["rule"] == self.spec.rule]
        extras["device_accuracy"] = mine.groupby("device")["accuracy"].mean().to_numpy(float)
        row |= found | state_metrics(reports, self.layout)
        return table

    def _record(
        self,
        row: dict[str, Any],
        tables: dict[str, Any],
        extras: dict[str, Any],
        wall_times: WallTimes,
        began: float,
    ) -> None:
        recording = time.perf_counter()
        round_index = int(row["round"])
        self.folder.append(tables, round=round_index)
        now = time.perf_counter()
        wall = now - began
        useful = wall_times.parts.get("train", 0.0) + wall_times.parts.get("evaluate", 0.0)
        row |= {f"{name}_wall_s": value for name, value in wall_times.parts.items()}
        row |= {"record_wall_s": now - recording, "wall_s": wall, "overhead_fraction": 1.0 - useful / wall}
        self.folder.append({"rounds": {name: [value] for name, value in row.items()}}, round=round_index)
        self.tracker.log_round(row, extras | {"actors": self.backend.actors})

    def _checkpoint(self, round_index: int, *, forced: bool) -> None:
        every = self.config.checkpoint.every
        if not forced and (every == 0 or round_index % every):
            return
        driver = {"best_accuracy": self.history.best, "absent": list(self.loop.absent)}
        checkpoint = Checkpoint(round_index, self.backend.snapshot(), driver)
        save_checkpoint(self.folder.checkpoints, checkpoint, keep=self.config.checkpoint.keep)
        if round_index == self.config.rounds:
            self._save_adapters(checkpoint)

    def _save_adapters(self, checkpoint: Checkpoint) -> None:
        from dfl_ray.simulation.export import save_final_adapters

        saved = save_final_adapters(self.experiment, checkpoint.state, self.folder.path / "adapters")
        if saved is not None and self.config.track.wandb.save_adapters:
            self.tracker.save_adapters(saved)


def evaluation_due(config: Config, round_index: int) -> bool:
    """Whether a round ends with an evaluation: every `evaluate.every` rounds, and the last.

    Args:
        config: The experiment.
        round_index: The round, from 1.

    Returns:
        True if it does.
    """
    return round_index % config.evaluate.every == 0 or round_index == config.rounds


def rules_asked(config: Config, round_index: int) -> tuple[str, ...]:
    """Inference rules a round's evaluation asks, the method's own first; the last round asks all that are wanted.

    Args:
        config: The experiment; `evaluate.rules`, or the method's own choice, says what the last round asks.
        round_index: The round, from 1.

    Returns:
        Names of rules, each once. Before the last round: the method's own, and `oracle` if the method has it.
    """
    spec = method_spec(config.method)
    if round_index == config.rounds:
        asked = config.evaluate.rules or spec.compared
        return tuple(dict.fromkeys((spec.rule, *(spec.rules if "all" in asked else asked))))
    return tuple(dict.fromkeys((spec.rule, "oracle"))) if "oracle" in spec.rules else (spec.rule,)


def training_metrics(trained: Sequence[TrainReport]) -> dict[str, Any]:
    """Mean loss over the devices that trained, and how many were left out for a non-finite one.

    Args:
        trained: Reports of the local steps, together of all devices.

    Returns:
        `train_loss`, the unweighted mean over devices of finite loss in nats a token, None if there is none; and
        `skipped_devices`.
    """
    loss = np.concatenate([np.where(r.finite, r.loss, np.nan) for r in trained])
    finite = np.concatenate([r.finite for r in trained])
    return {
        "train_loss": float(np.nanmean(loss)) if np.isfinite(loss).any() else None,
        "skipped_devices": int((~finite).sum()),
    }


def smallest_gap(experiment: Experiment) -> float | None:
    """Least spectral gap of the gossip matrices in use: of the tasks' graphs, or of the whole one.

    Args:
        experiment: The run; `topology.mixing` names the weights.

    Returns:
        A number in [0, 1], 0 for a partitioned graph; None if no task has two holders. See
        `topology.mixing.spectral_gap`.
    """
    from topology import mixing
    from topology.tables import MIXINGS

    topology = experiment.topology
    weights = MIXINGS[experiment.config.topology.mixing]
    if not method_spec(experiment.config.method).per_task:
        return float(mixing.spectral_gap(weights(topology.gossip_edges, topology.nodes)))
    gaps: list[float] = []
    for task in range(topology.tasks):
        holders = topology.holders(task)
        if len(holders) > 1:
            place = np.full(topology.nodes, -1)
            place[holders] = np.arange(len(holders))
            gaps.append(float(mixing.spectral_gap(weights(place[topology.task_edges(task)], len(holders)))))
    return min(gaps) if gaps else None
