"""Running totals behind the display of a run's progress."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfl_ray.records.words import share, size
from dfl_ray.tracking.stages import Clock, duration


@dataclass
class Tally:
    """Running totals behind the display; wall time is measured here, so that resumed rounds do not count.

    Attributes:
        clock: Gives real time in seconds.
        total: Rounds of the whole run.
        done: Rounds done, with those before a resume.
        payload_bytes: Bytes put on air since the run began, as the virtual clock counts; a broadcast counts once.
        simulated_s: Virtual clock, seconds.
        accuracy: Last measured mean accuracy, a share in [0, 1].
        loss: Training loss of the last round, nats a token.
        delivered: Delivered share of the last round, in [0, 1].
    """

    clock: Clock = time.monotonic
    total: int = 0
    done: int = 0
    payload_bytes: int = 0
    simulated_s: float = 0.0
    accuracy: float | None = None
    loss: float | None = None
    delivered: float | None = None
    _begun_s: float = 0.0
    _begun_at: int = 0

    def begin(self, total: int, start: int, sent_bytes: int = 0) -> None:
        """Start counting.

        Args:
            total: Rounds of the whole run.
            start: Rounds already done.
            sent_bytes: Bytes that those rounds have put on air.
        """
        self.total, self.done, self.payload_bytes = total, start, sent_bytes
        self._begun_s, self._begun_at = self.clock(), start

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a finished round.

        Args:
            row: Its row of `rounds`; figures that are missing or null stay as they were or are left out.
        """
        self.done = int(row["round"])
        self.payload_bytes += int(row.get("payload_bytes") or 0)
        self.simulated_s = number_or_none(row.get("simulated_s")) or self.simulated_s
        self.loss = number_or_none(row.get("train_loss"))
        self.delivered = number_or_none(row.get("delivered_fraction"))
        accuracy = number_or_none(row.get("accuracy_mean"))
        self.accuracy = self.accuracy if accuracy is None else accuracy

    @property
    def wall_s(self) -> float:
        """Real time since the rounds began."""
        return self.clock() - self._begun_s

    @property
    def left_s(self) -> float | None:
        """Real time left at the mean pace so far; None before the first round is done."""
        done = self.done - self._begun_at
        return self.wall_s / done * (self.total - self.done) if done > 0 else None

    def line(self) -> str:
        """All of it as one short line."""
        learning, cost = self.figures()
        return ", ".join([f"round {self.done}/{self.total}", *learning, *cost])

    def figures(self) -> tuple[list[str], list[str]]:
        """What is known of learning, and of cost and time."""
        learning: list[str] = []
        if self.loss is not None:
            learning.append(f"loss {self.loss:.3f}")
        if self.accuracy is not None:
            learning.append(f"accuracy {share(self.accuracy)}")
        if self.delivered is not None:
            learning.append(f"delivered {share(self.delivered)}")
        cost = [f"{size(self.payload_bytes)} sent"]
        cost.append(f"{duration(self.simulated_s)} simulated in {duration(self.wall_s)}")
        if self.left_s is not None:
            cost.append(f"{duration(self.left_s)} left")
        return learning, cost


def number_or_none(value: Any) -> float | None:
    """Give a recorded number as a float; None where it is null or NaN."""
    return None if value is None or math.isnan(value) else float(value)
