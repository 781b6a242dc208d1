"""The round loop: train, plan, exchange, evaluate, record, save. It moves references and reports, no payloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dfl_ray.devices.faulty import drawn_faults
from dfl_ray.devices.records import EvaluationReport
from dfl_ray.errors import Interrupted, RunError, resume_line
from dfl_ray.methods.due import rests
from dfl_ray.methods.spec import method_spec
from dfl_ray.network.movement import Movement
from dfl_ray.network.notes import deadline_note, emptied_note, parts_note, unusable_note
from dfl_ray.records import RunFolder
from dfl_ray.simulation.backend import Backend, BackendState, SavedState
from dfl_ray.simulation.checkpoint import Checkpoint, save_checkpoint
from dfl_ray.simulation.experiment import Experiment
from dfl_ray.simulation.goals import Goals
from dfl_ray.simulation.places import record_places, smallest_gap
from dfl_ray.simulation.radio_tables import attempt_sinr_db, attempt_table, radio_metrics, transfer_table
from dfl_ray.simulation.replay_room import ReplayRoom
from dfl_ray.simulation.round_facts import evaluation_due, needs_references, rules_asked, training_metrics
from dfl_ray.simulation.round_loop import PlayedRound, RoundLoop, WallTimes
from dfl_ray.simulation.round_tables import (
    AccuracyHistory,
    accuracy_metrics,
    device_table,
    evaluation_table,
    expert_table,
    local_round_table,
    routing_table,
    state_metrics,
)
from dfl_ray.simulation.schedules import Barrier, no_barrier
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
        on_round_end: Called with the folder after every round; True ends the run there, as after its last round.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
        stop_wanted: Callable[[], bool] = lambda: False,
        on_round_end: Callable[[Path], bool] = lambda _folder: False,
    ) -> None:
        self.experiment = experiment
        self.config = experiment.config
        self.backend = backend
        self.folder = folder
        self.tracker = tracker
        self.progress = progress
        self.stop_wanted = stop_wanted
        self.on_round_end = on_round_end
        backend.follow(progress.advance)
        self.spec = method_spec(self.config.method)
        self.layout = experiment.layout
        self.history = AccuracyHistory({})
        self.goals = Goals(self.config.stop)
        self._answered: tuple[int, tuple[str, ...]] = (0, ())
        self._trained = 0
        self.replay_room = ReplayRoom(experiment, progress.say)
        self.spectral_gap = smallest_gap(self.config, experiment.topology)
        self._actor_of = {d: backend.actor_of(d) for d in range(self.config.devices.count)}
        self._references: dict[int, np.ndarray] | None = None
        graph = experiment.setup.graph
        self.movement = Movement.of(
            self.config, experiment.channel, experiment.topology, graph, experiment.sketches
        )
        waits = self.config.schedule == "sync"
        self.schedule = Barrier(self.config.method.local_steps) if waits else no_barrier(experiment)
        self.loop = RoundLoop(
            backend, experiment.channel.classes, graph.relays, experiment.flops_per_token, movement=self.movement,
            schedule=self.schedule, faults=drawn_faults(self.config), presence=experiment.channel.presence,
            rests=partial(rests, self.config.method),
        )  # fmt: skip

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint.

        Args:
            checkpoint: A checkpoint of this run, of the same configuration.
        """
        self.backend.restore(checkpoint.state)
        self.history.best = dict(checkpoint.driver["best_accuracy"])
        self.loop.absent = tuple(checkpoint.driver["absent"])
        self.loop.clock_s = float(checkpoint.state.channel["clock_s"])
        self.schedule.restore(checkpoint.state.channel)
        if self.movement is not None:
            self.movement.restore(checkpoint.state.channel)
            self.spectral_gap = smallest_gap(self.config, self.movement.topology)

    def run(self, done: int = 0) -> None:
        """Run the rounds after `done` to the end; with `done` 0 the base model is evaluated first.

        Args:
            done: Rounds already finished, 0 for a new run.

        Raises:
            Interrupted: The user stopped the run; it has been saved.
            RunError: Training diverged on every device.
        """
        if done == 0:
            self._evaluate_base()
        sent_bytes, spent_j = self._spent(done)
        self.goals = Goals(self.config.stop, spent_j)
        self.progress.rounds(self.config.rounds, done, sent_bytes)
        for round_index in range(done + 1, self.config.rounds + 1):
            row, why = self._round(round_index)
            self.progress.update(row)
            self._stop_if_diverged(row)
            self._say_end(round_index, why)
            last = round_index == self.config.rounds
            early = (self._asked_to_end(round_index) or why is not None) and not last
            stopping = self.stop_wanted() and not last and not early
            if early:
                self._end_early(row)
            self._checkpoint(round_index, forced=stopping, final=last or early)
            if early:
                return
            if stopping:
                raise Interrupted(
                    f"Stopped after round {round_index} of {self.config.rounds} and saved. "
                    f"Go on with: {resume_line(self.folder.path)}"
                )

    def _asked_to_end(self, round_index: int) -> bool:
        """What `on_round_end` says; if it fails, the round is saved first."""
        try:
            return self.on_round_end(self.folder.path)
        except BaseException:
            self._checkpoint(round_index, forced=True, final=False)
            raise

    def _spent(self, done: int) -> tuple[int, float]:
        """Bytes on air and joules of the rounds before a resume, as recorded."""
        from dfl_ray.records import load_run

        if not done:
            return 0, 0.0
        rounds = load_run(self.folder.path).rounds
        return int(rounds["payload_bytes"].sum()), float(rounds["energy_j"].sum())

    def _say_end(self, round_index: int, why: str | None) -> None:
        """Tell and record that a round ends the run, for what it has reached or since nothing can go on."""
        if why is not None:
            self.progress.say(f"Ended after round {round_index}: {why}")
            self.folder.update_info(stopped_by=why)

    def _end_early(self, row: dict[str, Any]) -> None:
        """Evaluate a run that ends before its last round as that round would be, and record it in the place of this."""
        round_index, extras, before = int(row["round"]), dict[str, Any](), dict(row)
        self.folder.update_info(ended_early_after=round_index)
        if self._answered == (round_index, rules_asked(self.config, self.config.rounds)):
            return
        with self.progress.stage("evaluate"):
            tables = self._evaluate(round_index, row, extras, self.config.rounds)
        self.folder.rewrite(tables | {"rounds": {name: [value] for name, value in row.items()}}, round_index)
        # What trackers have had of the round is not told twice: some of them add it up.
        new = {name: value for name, value in row.items() if before.get(name) != value}
        self.tracker.log_round({"round": round_index, **new}, extras)

    def _stop_if_diverged(self, row: dict[str, Any]) -> None:
        """Stop after a recorded round in which devices trained and none had a finite loss.

        Raises:
            RunError: It names the round and the learning rate.
        """
        if self._trained and row["train_loss"] is None:
            raise self._diverged(
                f"no device had a finite loss and finite adapters in round {row['round']} "
                f"({self._trained} devices trained)"
            )

    def _check_final(self, state: SavedState) -> None:
        """Tell which devices end with adapters that can't be used; a run in which all do has failed.

        Raises:
            RunError: All devices do. It names the learning rate.
        """
        from dfl_ray.devices.diverged import diverged_devices, is_trained

        bad = diverged_devices(state.devices.only(is_trained))
        if len(bad) == self.config.devices.count:
            raise self._diverged("the adapters of all devices hold NaN, infinite or values beyond float16")
        if bad:
            said = unusable_note(bad, self.config.devices.count)
            self._warn(said)
            self.progress.say(said)

    def _diverged(self, why: str) -> RunError:
        """The error of a run whose training diverged, recorded as a warning."""
        said = (
            f"Training diverged: {why}. Lower `method.learning_rate` "
            f"(now {self.config.method.learning_rate:g}), or raise `method.warmup_rounds`."
        )
        self._warn(said)
        return RunError(said)

    def _warn(self, said: str) -> None:
        self.folder.update_info(warnings=[*self.folder.info.get("warnings", ()), said])

    def _evaluate_base(self) -> None:
        with self.progress.step("base evaluation"):
            table = evaluation_table(self.backend.evaluate(0, ("base",), None), self.experiment)
        self.folder.append({"evaluation": table}, round=0)

    def _round(self, round_index: int) -> tuple[dict[str, Any], str | None]:
        """Play and record a round; its row, and why the run ends with it, if it does."""
        began = time.perf_counter()
        wall_times = WallTimes(self.progress.stage)
        done = self.loop.play(round_index, wall_times)
        self._record_movement(round_index, done)
        if done.emptied:
            self.progress.say(emptied_note(round_index, done.emptied))
        self._say_late(round_index, done)
        self._trained = sum(int(np.count_nonzero(report.tokens)) for report in done.trained)
        row: dict[str, Any] = {"round": round_index, **radio_metrics(done.plan, done.arrived)}
        row |= training_metrics(done.trained, done.plan.late) | {
            "refused": sum(sum(r.values()) for t in done.taken for r in t.refused)
        }
        row |= {"object_store_bytes": self.backend.object_store_bytes(), "spectral_gap": self.spectral_gap}
        arrived_bytes = int(done.requests.payload_bytes[done.arrived].sum())
        row |= {"message_bytes": arrived_bytes, "node_crossing_bytes": self.backend.node_crossing_bytes()}
        tables = self._tables(done)
        extras: dict[str, Any] = {"sinr_db": attempt_sinr_db(done.plan)}
        why = self.goals.spent(row["simulated_s"], row["energy_j"])
        if round_index < self.config.rounds:
            why = why or done.nobody_left
        if why is not None or evaluation_due(self.config, round_index):
            with wall_times.measure("evaluate"):
                as_in = round_index if why is None else self.config.rounds
                tables |= self._evaluate(round_index, row, extras, as_in)
        self._record(row, tables, extras, wall_times, began)
        return row, why or self.goals.learnt(row.get("accuracy_mean"))

    def _tables(self, done: PlayedRound) -> dict[str, Any]:
        """What is recorded of a round besides its row and its evaluation."""
        seconds, movement = done.cost.seconds, self.movement
        positions_m = self.experiment.channel.positions_m if movement is None else movement.positions_m
        names = [t.name for t in self.experiment.setup.tasks]
        tables = {
            "devices": device_table(
                self.experiment, done.trained, done.taken, done.plan, seconds, self._actor_of, positions_m
            ),
            "transfers": transfer_table(done.plan, done.hops, done.requests, names),
            "attempts": attempt_table(done.plan),
        }
        if done.ended is not None:
            tables["local_rounds"] = local_round_table(done.ended, done.taken, seconds)
        return tables

    def _record_movement(self, round_index: int, done: PlayedRound) -> None:
        """Record where the devices were if it is news, and tell of a graph that fell into parts or is whole again."""
        if done.moved is None:
            return
        if done.moved.rebuilt:
            self.spectral_gap = smallest_gap(self.config, done.moved.topology)
        if done.moved.changed:
            record_places(self.folder, done.moved, [t.name for t in self.experiment.setup.tasks], round_index)
        said = parts_note(round_index, done.moved.parts_before, done.moved.parts)
        if said:
            self.progress.say(said)

    def _say_late(self, round_index: int, done: PlayedRound) -> None:
        """Tell once in a run that devices missed a deadline by their training or control, and record it."""
        deadline_s = self.experiment.channel.settings.deadline_s
        late = deadline_note(round_index, done.plan, done.cost.seconds, deadline_s)
        told = self.folder.info.get("warnings", ())
        if late and not any("radio.deadline_s" in warning for warning in told):
            self.progress.say(late)
            self.folder.update_info(warnings=[*told, late])

    def _evaluate(
        self, round_index: int, row: dict[str, Any], extras: dict[str, Any], as_in_round: int
    ) -> dict[str, pd.DataFrame]:
        rules = rules_asked(self.config, as_in_round)
        self._answered = (round_index, rules)
        if needs_references(self.config, rules) and self._references is None:
            with self.progress.stage("sketch all layers"):
                self._references = self.backend.full_sketches()
        references = self._references if needs_references(self.config, rules) else None
        reports: list[EvaluationReport] = self.backend.evaluate(round_index, rules, references)
        table = evaluation_table(reports, self.experiment)
        found = accuracy_metrics(table, self.spec.rule, self.history)
        extras["accuracy_by_task"] = found.pop("accuracy_by_task")
        if not found:
            self.progress.say(
                f"Round {round_index}: no honest device is there to be asked, so it has no accuracy"
            )
        mine = table[table["rule"] == self.spec.rule]
        extras["device_accuracy"] = mine.groupby("device")["accuracy"].mean().to_numpy(float)
        row |= found | state_metrics(reports, self.layout)
        extras |= self._record_attack(round_index, reports)
        return {
            "evaluation": table,
            "experts": expert_table(reports, self.experiment, round_index),
            "routing": routing_table(reports, self.experiment),
        }

    def _record_attack(self, round_index: int, reports: Sequence[EvaluationReport]) -> dict[str, float]:
        """Record how far a backdoor has come, in `run.json: faults`; nothing without one."""
        right, asked = (sum(r.attacked[k] for r in reports) for k in (0, 1))
        if not asked:
            return {}
        faults = self.folder.info["faults"]
        told = {**faults.get("attack_success", {}), str(round_index): right / asked}
        self.folder.update_info(faults={**faults, "attack_success": told})
        return {"attack/success": right / asked}

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

    def _checkpoint(self, round_index: int, *, forced: bool, final: bool) -> None:
        every = self.config.checkpoint.every
        due = every > 0 and round_index % every == 0
        if not (forced or final or due or self.replay_room.outgrown(self.backend.replay_bytes())):
            return
        driver = {"best_accuracy": self.history.best, "absent": list(self.loop.absent)}
        with self.progress.stage("checkpoint"):
            checkpoint = save_checkpoint(
                self.folder.checkpoints,
                round_index,
                self._state(),
                driver,
                keep=self.config.checkpoint.keep,
            )
            self.backend.recover_from(checkpoint.state)
        if final:
            with self.progress.stage("adapters"):
                self._check_final(checkpoint.state)
                self.save_adapters(checkpoint)
        self._copy_out()

    def _copy_out(self) -> None:
        """Copy the run folder to its URL, if it has one; a copy that fails is told and tried again at the next one."""
        if self.folder.mirror is None:
            return
        try:
            with self.progress.stage("copy"):
                self.folder.mirror.push()
        except RunError as error:
            self.progress.say(str(error))

    def _state(self) -> BackendState:
        """The backend's state, with the movement's and the schedule's beside the channel's."""
        state = self.backend.snapshot()
        moved = {} if self.movement is None else self.movement.snapshot()
        return replace(state, channel={**state.channel, **moved, **self.schedule.snapshot()})

    def save_adapters(self, checkpoint: Checkpoint) -> None:
        """Write the adapters that the run ends with, those of its last checkpoint."""
        from dfl_ray.simulation.export import adapter_owners, save_final_adapters

        owners = {name: device for name, (device, _) in adapter_owners(self.experiment).items()}
        self.folder.update_info(adapters_of_device=owners)
        with self.folder.renewing("adapters") as place:
            saved = save_final_adapters(self.experiment, checkpoint.state, place)
        self.folder.update_info(adapters_after=checkpoint.round_index)
        if saved is not None and self.config.track.wandb.save_adapters:
            self.tracker.save_adapters(self.folder.path / "adapters")
