"""`dfl-ray replan`: what a run's recorded requests would have cost over another radio, without training.

The run's records say who wanted to send what to whom, when each device had trained, and where it stood. A channel of
the new radio, with the run's seed and device classes, carries the same requests round by round. Under the run's own
radio that gives its own records, bit for bit. Under another one other messages arrive: from the first round in which
they do, the devices would have learned otherwise, and so may have sent otherwise. That round is told; what is planned
after it is the cost of the run's traffic, not of a new run's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dfl_ray.config.load import load_config
from dfl_ray.config.radio import radio_settings
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, RunError
from dfl_ray.network.deployment import channel_setup, mobility_model
from dfl_ray.records import Run, load_run
from dfl_ray.records.schema import CONTROL_COLUMNS, STATE_ENERGY_COLUMNS
from dfl_ray.simulation.fingerprint import refuse_changed_config
from dfl_ray.simulation.radio_tables import radio_metrics
from dfl_ray.simulation.recorded_requests import COLUMNS, Link, RecordedRequests, recorded_requests
from dfl_ray.simulation.resuming import own_config

if TYPE_CHECKING:
    from channels.transfers import RoundPlan

SUMS = (
    "payload_bytes", "airtime_s", "radio_energy_j", "idle_energy_j", "compute_energy_j", "energy_j", "transfers",
    "delivered",
)  # fmt: skip
"""Columns of `rounds` that add up over a run."""


@dataclass(frozen=True)
class ReplannedRound:
    """One round over the new radio.

    Attributes:
        round_index: The round, from 1.
        requests: What was wanted, and what arrived in the run.
        plan: What the new radio does with it.
        arrived: (requests,) whether each request arrives.
    """

    round_index: int
    requests: RecordedRequests
    plan: RoundPlan
    arrived: np.ndarray

    def row(self) -> dict[str, Any]:
        """The radio's columns of `rounds`, and how many requests arrive that had been lost, and the other way round."""
        was = self.requests.arrived
        return {
            "round": self.round_index,
            **radio_metrics(self.plan, self.arrived),
            "newly_delivered": int((self.arrived & ~was).sum()),
            "newly_lost": int((was & ~self.arrived).sum()),
        }


@dataclass(frozen=True)
class Replanned:
    """A run's traffic over another radio.

    Attributes:
        config: The run's configuration with the new radio.
        recorded: (rounds,) the radio's columns of the run's own `rounds`.
        rounds: (rounds,) the same under the new radio, with `newly_delivered` and `newly_lost`.
        notes: What the user should know, in sentences.
    """

    config: Config
    recorded: pd.DataFrame
    rounds: pd.DataFrame
    notes: tuple[str, ...]

    def totals(self) -> dict[str, dict[str, float | None]]:
        """Sums over the run: name -> `run` and `replanned`; `simulated_s` is the clock at the end.

        Energy by state and what control cost are among them where one of the radios has them, and None for one that
        has not.
        """
        both = {"run": self.recorded, "replanned": self.rounds}
        states = [
            n
            for n in (*STATE_ENERGY_COLUMNS, *CONTROL_COLUMNS)
            if any(n in t and t[n].notna().any() for t in both.values())
        ]
        found: dict[str, dict[str, float | None]] = {
            name: {who: float(table[name].sum()) for who, table in both.items()} for name in SUMS
        }
        for name in states:
            known = {who: name in t and bool(t[name].notna().all()) for who, t in both.items()}
            found[name] = {who: float(t[name].sum()) if known[who] else None for who, t in both.items()}
        clock: dict[str, float | None] = {
            who: float(table["simulated_s"].iloc[-1]) for who, table in both.items()
        }
        return {**found, "simulated_s": clock}


def replan(folder: Path, overrides: Sequence[str]) -> Replanned:
    """Carry a run's requests over another radio.

    Args:
        folder: The run folder; nothing in it is changed.
        overrides: Texts `radio.key=value`; none = the run's own radio.

    Returns:
        Both radios' figures.

    Raises:
        InputError: The folder is no run, its records do not say what is needed, or an override is not the radio's.
    """
    run, config = load_run(folder), replan_config(folder, overrides)
    rows: list[dict[str, Any]] = []
    unknown = 0
    for one in replanned_rounds(run, config):
        rows.append(one.row())
        unknown += one.requests.unknown
    rounds = pd.DataFrame(rows)
    recorded = run.table("rounds", columns=[c for c in rounds.columns if not c.startswith("newly_")])
    if unknown:
        # What no row tells is not counted on either side.
        recorded = recorded.assign(
            transfers=rounds["transfers"], delivered=rounds["delivered"] - _gained(rounds)
        )
    return Replanned(config, recorded, rounds, tuple(_notes(run, rounds, unknown)))


def replan_config(folder: Path, overrides: Sequence[str]) -> Config:
    """The run's configuration with another radio.

    Args:
        folder: The run folder.
        overrides: Texts `radio.key=value`.

    Returns:
        The configuration.

    Raises:
        InputError: An override is not the radio's, the run's configuration was changed, or devices of the run came and
            went or did not wait for each other, so that when they could send depends on the radio itself.
    """
    for word in overrides:
        if not word.startswith("radio."):
            raise InputError(
                "A run's requests are carried by another radio, and nothing else of the run is changed",
                got=word,
                expected="radio.key=value",
                change="`dfl-ray plan` takes the run's config.yaml with any change.",
            )
    own = own_config(folder)
    refuse_changed_config(folder, load_run(folder).info, own)
    reason = (
        "schedule: async" if own.schedule != "sync"
        else "devices.availability.path" if own.devices.availability.path is not None
        else None
    )  # fmt: skip
    if reason is not None:
        raise InputError(
            f"The run {folder} has `{reason}`: when its devices can send follows from the radio itself",
            expected="a run whose devices are always on and wait for each other",
            change=f"dfl-ray plan {folder / 'config.yaml'} {' '.join(overrides)}".rstrip(),
        )
    return load_config(str(folder / "config.yaml"), overrides)


def replanned_rounds(run: Run, config: Config) -> Iterator[ReplannedRound]:
    """Carry the requests of a run's rounds over the radio of a configuration, one round after the other.

    Args:
        run: The run.
        config: What `replan_config` gave.

    Yields:
        The rounds, in order; the channel's clock, batteries and memory of served links go on from one to the next.

    Raises:
        InputError: The records do not say what is needed (such as the changes that `radio.priority=information` goes
            by), or the radio cannot be used with so many devices.
        RunError: The radio cannot carry a round.
    """
    try:
        setup = channel_setup(config, _positions(run, 1))
        channel = setup.make()
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from error
    wanted = run.rounds.set_index("round")["transfers"]
    by_change, moves = radio_settings(config.radio).by_change(), not config.devices.keep_graph
    velocities = (
        _velocities(run) if moves and radio_settings(config.radio).doppler == "velocity" else _unknown
    )
    linked = frozenset if moves else cache(lambda: _linked(own_config(run.path)))
    for round_index, rows, devices in _recorded(run):
        if moves and round_index > 1:
            channel.move(_positions(run, round_index), velocities(round_index))
        found = recorded_requests(rows, int(wanted[round_index]), linked)
        if by_change and np.isnan(found.hops.transfers.change).any():
            raise _changes_unknown(run, round_index)
        try:
            plan = channel.plan_round(
                round_index,
                found.hops.transfers,
                ready_s=devices["compute_s"].to_numpy(float),
                compute_energy_j=_needed_j(devices, setup.classes.compute_power_w),
            )
        except ValueError as error:
            raise RunError(f"The radio cannot carry round {round_index}: {error}") from error
        yield ReplannedRound(round_index, found, plan, found.hops.arrived(plan.delivered, len(found.wanted)))


def _needed_j(devices: pd.DataFrame, power_w: np.ndarray) -> np.ndarray:
    """(devices,) what a round's training takes in J: booked is no more than a battery had that it emptied."""
    booked_j, alive = devices["compute_energy_j"].to_numpy(float), devices["alive"].to_numpy(bool)
    whole_j = devices["compute_s"].to_numpy(float) * power_w
    return np.where(~alive & (whole_j > booked_j * (1 + 1e-9)), whole_j, booked_j)


def _changes_unknown(run: Run, round_index: int) -> InputError:
    return InputError(
        "`radio.priority=information` orders messages by the size of the change that they carry",
        got=f"no `change` in the transfers of round {round_index} of {run.path}",
        expected="records of a run that had `radio.priority=information` itself (schema version 8 or later)",
        change="Take another `radio.priority`, or run it again with this one.",
    )


def _linked(config: Config) -> frozenset[Link]:
    """Who exchanges what with whom on the run's own graph, which is built again."""
    from dfl_ray.config.check import task_names
    from dfl_ray.network.deployment import build_deployment, graph_for, needs_sketches

    names = task_names(config)
    if names is None or needs_sketches(config.topology):
        return frozenset()
    graph = graph_for(config, build_deployment(config, len(names), names=names).topology)
    gossip = {"": graph.weights, **{names[task]: one for task, one in graph.task_weights.items()}}
    links = {(True, task, a, b) for task, one in gossip.items() for a, row in one.items() for b in row}
    for trees in (graph.everyone, graph.holders):
        for (task, _), tree in trees.items():
            links |= {(False, names[task], a, b) for a, row in tree.children.items() for b in row}
            if config.method.through:
                links |= {(False, names[task], tree.root, b) for row in tree.children.values() for b in row}
    return frozenset(links)


def _recorded(run: Run) -> Iterator[tuple[int, pd.DataFrame, pd.DataFrame]]:
    """Round, its transfers and its devices; so many rounds are read at a time as fit into a few hundred megabytes."""
    for block in run.blocks(["transfers", "devices"]):
        hops = run.table("transfers", columns=list(COLUMNS), rounds=block)
        names = ["round", "device", "compute_s", "compute_energy_j", "alive"]
        figures = run.table("devices", columns=names, rounds=block)
        sent, trained = dict(tuple(hops.groupby("round"))), dict(tuple(figures.groupby("round")))
        for r in sorted(set(figures["round"].tolist())):
            ordered = sent.get(r, hops.iloc[:0]).sort_values("transfer", kind="stable", ignore_index=True)
            yield r, ordered, trained[r].sort_values("device", kind="stable")


def _positions(run: Run, round_index: int) -> np.ndarray:
    """(devices, 2) where the devices were in a round, metres."""
    return run.nodes_at(round_index).sort_values("device")[["x_m", "y_m"]].to_numpy(float)


def _unknown(_round_index: int) -> None:
    return None


def _velocities(run: Run) -> Callable[[int], np.ndarray | None]:
    """Round -> (devices, 2) velocities as the run's mobility model had them, m/s; None where it knows none.

    Rounds are asked for in order.
    """
    model = mobility_model(own_config(run.path))
    ended = dict(zip(run.rounds["round"].tolist(), run.rounds["simulated_s"].tolist(), strict=True))
    now_s = 0.0

    def at(round_index: int) -> np.ndarray | None:
        nonlocal now_s
        began_s = max(ended.get(round_index - 1, now_s), now_s)
        model.step(began_s - now_s)
        now_s = began_s
        return getattr(model, "velocity_mps", None)

    return at


def _gained(rounds: pd.DataFrame) -> pd.Series:
    return rounds["newly_delivered"] - rounds["newly_lost"]


def _notes(run: Run, rounds: pd.DataFrame, unknown: int) -> Iterator[str]:
    other = rounds[(rounds["newly_delivered"] > 0) | (rounds["newly_lost"] > 0)]
    if not len(other):
        yield "Every request fares as in the run: the devices would have learned the same."
    else:
        first = int(other["round"].iloc[0])
        more, less = (int(other[name].sum()) for name in ("newly_delivered", "newly_lost"))
        yield (
            f"From round {first} of {len(rounds)} on deliveries differ from the run's: {more:,} of "
            f"{int(rounds['transfers'].sum()):,} requests arrive that had been lost, and {less:,} are lost that had "
            f"arrived, in {len(other)} rounds. From round {first} on the devices would have learned otherwise, and may "
            "have sent otherwise: the figures are the cost of the run's traffic."
        )
    alive = rounds["alive_devices"].to_numpy() - run.rounds["alive_devices"].to_numpy()
    if alive.any():
        yield (
            f"Batteries last otherwise: {int(rounds['alive_devices'].iloc[-1])} devices have charge left at the end, "
            f"{int(run.rounds['alive_devices'].iloc[-1])} had in the run. What a device did not ask for in the run, "
            "because it had run empty, is not planned."
        )
    if unknown:
        yield (
            f"{unknown:,} requests lie wholly on the ways of others over relays, so that the records do not tell them "
            "apart from relayed hops: their hops are planned, and `transfers` and `delivered` leave them out."
        )
