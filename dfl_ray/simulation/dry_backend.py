"""Devices without a model on the real channel: what a plan plays its rounds with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.devices.records import ExchangeReport, TrainReport
from dfl_ray.methods.due import due_round
from dfl_ray.methods.faults import Faults
from dfl_ray.methods.laws import TrafficLaw
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.network.traffic import LawfulNetwork, TimedOutcomes, TransferOutcomes
from dfl_ray.simulation.dealing import DealtRows
from dfl_ray.tasks.local_rows import draw_steps

if TYPE_CHECKING:
    from channels.channel import Channel
    from channels.transfers import RoundPlan, Transfers
    from dfl_ray.network.local_rounds import LocalRounds


@dataclass(frozen=True)
class TokenCount:
    """Tokens that local training sees.

    Attributes:
        config: The experiment.
        law: Says whose rows a device trains on.
        lengths: For each task the (rows,) tokens of its training rows; empty where no rows could be read.
        dealt: Which rows each device trains on; None where only means are used.
        mean: (devices,) mean tokens of a row of each device.
    """

    config: Config
    law: TrafficLaw
    lengths: Sequence[np.ndarray]
    dealt: DealtRows | None
    mean: np.ndarray

    def of(self, device: int, round_index: int) -> float:
        """Tokens of all local steps of one device in a round.

        Args:
            device: Device number.
            round_index: The round, from 1.

        Returns:
            The sum over the devices whose rows it trains on: of the rows drawn, or local steps · rows of a batch ·
            mean tokens of a row.
        """
        return sum(self._own(d, round_index) for d in self.law.sources(device))

    def _own(self, device: int, round_index: int) -> float:
        method = self.config.method
        if self.dealt is None:
            return method.local_steps * method.batch_rows * float(self.mean[device])
        held, mine = self.dealt.held[device], self.dealt.rows[device]
        steps = draw_steps(
            self.config.seed, round_index, device, self.dealt.shares[device], [len(r) for r in mine],
            steps=method.local_steps, batch_rows=method.batch_rows,
            poisson=self.config.privacy.mechanism == "examples",
        )  # fmt: skip
        tables = [self.lengths[t][rows] for t, rows in zip(held, mine, strict=True)]
        return float(sum(tables[k][i] for step in steps for k, i in step))


class DryBackend:
    """Devices without a model, and the real channel; see `round_loop.RoundBackend`.

    Args:
        network: All devices' traffic.
        channel: The channel.
        tokens: Counts the tokens of local training.
        law_on: Gives the method's law on another communication graph.
        rehearse: Plan the first round's radio twice, from the same state: the first time loads the compiled loops.

    Attributes:
        radio_s: Real seconds that planning the radio took in each round, loading of loops left out with `rehearse`.
    """

    def __init__(
        self,
        network: LawfulNetwork,
        channel: Channel,
        tokens: TokenCount,
        law_on: Callable[[CommGraph], TrafficLaw],
        *,
        rehearse: bool = False,
    ) -> None:
        self.network = network
        self.law_on = law_on
        self.channel = channel
        self.tokens = tokens
        self.radio_s: list[float] = []
        self._rehearse = rehearse

    def train(
        self, round_index: int, absent: Sequence[int] = (), ended: LocalRounds | None = None
    ) -> list[TrainReport]:
        """The devices' tokens and requests; no loss."""
        devices = np.array(self.network.devices)
        out = frozenset(absent)
        if ended is None:
            at_work = (d not in out and self.network.trains(d, round_index) for d in self.network.devices)
            tokens = np.array(
                [
                    self.tokens.of(d, round_index) if works else 0.0
                    for d, works in zip(self.network.devices, at_work, strict=True)
                ]
            )
            requests = self.network.requests(round_index, out)
        else:
            done = {device: self.tokens.of(device, own.number) for device, own in ended}
            tokens = np.array([done.get(d, 0.0) for d in self.network.devices])
            config = self.tokens.config
            requests = self.network.ended(
                ended, lambda turn: due_round(self.network.law, config.method, config.rounds, turn)
            )
        unknown = np.full(len(devices), np.nan)
        return [TrainReport(devices, unknown, unknown, tokens, np.ones(len(devices), bool), requests, 0.0)]

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """Let the channel schedule the round's transfers."""
        plan = partial(
            self.channel.plan_round,
            round_index,
            transfers,
            ready_s=ready_s,
            compute_energy_j=compute_energy_j,
        )
        if self._rehearse:
            self._rehearse, before = False, self.channel.snapshot()
            plan()
            self.channel.restore(before)
        began = time.perf_counter()
        found = plan()
        self.radio_s.append(time.perf_counter() - began)
        return found

    def move(self, positions_m: np.ndarray, velocity_mps: np.ndarray | None, graph: CommGraph | None) -> None:
        """Move the channel's devices, and go on under the law of another graph."""
        self.channel.move(positions_m, velocity_mps)
        if graph is not None:
            self.network.rewire(self.law_on(graph))

    def exchange(self, round_index: int, outcomes: TransferOutcomes) -> list[ExchangeReport]:
        """Tell the traffic law what arrived; there are no reports."""
        if isinstance(outcomes, TimedOutcomes):
            self.network.deliver_timed(outcomes)
        else:
            self.network.deliver(outcomes)
        return []

    def skip(self, round_index: int, faults: Faults) -> tuple[int, np.ndarray]:
        """Go through a round in which everything arrives, without the radio.

        Args:
            round_index: The round, from 1.
            faults: Who does nothing in it, and who sends nothing.

        Returns:
            Bytes asked for, each receiver counted, and the (devices,) tokens of local training.
        """
        (report,) = self.train(round_index, faults.stopped(round_index))
        sent = report.requests.select(~np.isin(report.requests.source, faults.silent(round_index)))
        self.network.deliver_all(sent)
        return int(sent.payload_bytes.sum()), report.tokens
