"""What an actor needs in memory, by one law for the run and for its plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dfl_ray.config.schema import Config
from dfl_ray.engines.foreign_memory import ForeignSizes, foreign_mb
from dfl_ray.engines.memory import (
    CPU_LOGITS,
    EVALUATION_TOKENS,
    PASS_MERGED_BYTES,
    PASS_TOKENS,
    merged_mb,
    value_bytes,
    working_mb,
)
from dfl_ray.engines.private_memory import private_mb
from dfl_ray.lora.layout import dense_values
from dfl_ray.methods.spec import heard_arrays, kept_arrays, method_spec
from dfl_ray.models.decoder import DecoderShape
from dfl_ray.packing.actors import device_state_mb
from dfl_ray.packing.workers import TRANSFORMERS_MB, why_no_forks

OWN_BASE_COPIES = 3
"""Float32 copies of what a device has merged into its base that an evaluation makes of it."""


@dataclass(frozen=True)
class Asks:
    """What a run's evaluations and sketches ask of a model.

    Attributes:
        apart: Whether each row is answered by one expert alone, so that all adapters together are asked each once.
        router_blocks: Whether the router's sketches compute whole blocks; else the first attention alone.
        closing: Whether all layers are sketched at the end.
        dense_mb: Dense updates or correlations that a rule forms, in 2^20 bytes.
    """

    apart: bool = False
    router_blocks: bool = False
    closing: bool = False
    dense_mb: float = 0.0


@dataclass(frozen=True)
class ActorNeeds:
    """Memory of the actors of a run, in units of 2^20 bytes; on a GPU only states are in the machine's memory.

    Attributes:
        config: The run.
        shape: The base model's shape; None of one that is none of the project's own decoders.
        values: Values of one adapter.
        adapters: Most adapters that one device trains.
        tasks: Number of tasks.
        row: Mean tokens of a training row, of the task with the longest.
        asked_row: Mean tokens of a held-out row.
        longest: Most tokens of a training row.
        adapted_values: Values of all adapted layers of the base.
        neighbours: Neighbours of a device, their mean.
        most_neighbours: Neighbours of the device that has most.
        foreign: Sizes of a model that `transformers` computes; None of the project's own decoders.
        scored: Mean tokens of a training row that are predicted.
        predicted: Tokens that are predicted where one adapter is asked all rows, and the largest share of a row's;
            None where nobody knows.
        asks: What evaluations and sketches ask.
    """

    config: Config
    shape: DecoderShape | None
    values: int
    adapters: int
    tasks: int
    row: float
    asked_row: float
    longest: int
    adapted_values: int
    neighbours: float
    most_neighbours: int = 0
    foreign: ForeignSizes | None = None
    scored: float = 0.0
    predicted: tuple[float, float] | None = None
    asks: Asks = Asks()

    @property
    def _width_bytes(self) -> int:
        """Bytes of one value that is computed with."""
        return value_bytes(self.config.model.dtype)

    @property
    def _asked_tokens(self) -> float:
        """Tokens of the rows of one task that an adapter is asked; infinity where all rows are."""
        return (self.config.evaluate.rows_per_task or math.inf) * self.asked_row

    @property
    def state_mb(self) -> float:
        """Of one device's state (`packing.actors.device_state_mb`)."""
        arrays = kept_arrays(self.config.method, self.neighbours)
        return device_state_mb(self.values, self.adapters, arrays, self._dense)

    @property
    def _dense(self) -> int:
        """Values of what a device has merged into its own base."""
        return self.adapted_values if method_spec(self.config.method).own_base else 0

    @property
    def working_mb(self) -> float:
        """Of an actor while it trains or evaluates (`engines.memory.working_mb`).

        A device with a base of its own is asked with its update as factors, made, joined with its adapter, and cast.
        What a rule forms before its adapter is asked takes the place of what training has left.
        """
        config = self.config
        if config.runtime.gpus_per_actor:
            return 0.0
        own = OWN_BASE_COPIES * 4 * self._dense / 2**20
        return own + max(self._foreign_mb(1) + self._large_mb, self.asks.dense_mb)

    @property
    def _large_mb(self) -> float:
        """Of the large path (`engines.memory.working_mb`)."""
        config = self.config
        return working_mb(
            self.shape, rank=config.method.rank, width_bytes=self._width_bytes,
            device_tokens=config.method.batch_rows * self.row, devices=config.devices.count,
            evaluated_tokens=self.tasks * self._asked_tokens,
            longest=self.longest if method_spec(config.method).per_task else 0,
            device_values=self.values * self.adapters,
            scored_share=min(1.0, self.scored / self.row) if self.scored else 1.0,
            router_blocks=self.asks.router_blocks, closing=self.asks.closing,
            evaluated_scored=self._scored_in_pass(EVALUATION_TOKENS, 1),
        )  # fmt: skip

    @property
    def _merged_together(self) -> int:
        """Most adapters that are merged for one pass of an evaluation."""
        weights = 4 * dense_values(() if self.shape is None else self.shape.linear_layers())
        return max(1, PASS_MERGED_BYTES // max(1, weights))

    def _scored_in_pass(self, most: int, adapters: int) -> float:
        """Tokens that are predicted in one pass of an evaluation of so many tokens; some where nobody knows."""
        if self.predicted is None:
            return CPU_LOGITS / self.shape.vocab_size if self.shape is not None else 0.0
        total, share = self.predicted
        return min(most * share, total * (1 if self.asks.apart else adapters))

    def merged_mb(self, devices: int) -> float:
        """Of an actor of some devices beyond `working_mb`: of its work, or of mixing, if that takes more.

        Where adapters are merged (`engines.memory.merged_mb`), in its evaluations beyond its training or in both; or
        where `transformers` computes several devices together, and is imported by an ordinary worker.
        """
        config = self.config
        mixing = max(0.0, self._heard_mb(devices) - self.working_mb)
        if config.runtime.gpus_per_actor:
            return mixing
        more = self._foreign_mb(devices) - self._foreign_mb(1)
        more += private_mb(config, self.shape, self.values, self.row, self.adapters, devices)
        merged = merged_mb(
            self.shape, rank=config.method.rank, width_bytes=self._width_bytes,
            device_tokens=config.method.batch_rows * self.row, adapters=self.adapters, devices=devices,
            asked_tokens=self._asked_tokens,
            evaluated_scored=self._scored_in_pass(PASS_TOKENS, min(devices * self.adapters, self._merged_together)),
        )  # fmt: skip
        return self._imported_mb + max(mixing, more + max(0.0, merged - self._large_mb))

    def _heard_mb(self, devices: int) -> float:
        """Of what an actor's devices, one after the other, have heard and hold while they mix.

        A server is on one actor alone; each is counted its part of that, so that all together need what the run does.
        """
        heard = heard_arrays(self.config.method, self.most_neighbours, devices)
        return 4 * heard * self.values / 2**20

    @property
    def _imported_mb(self) -> float:
        """Of `transformers` in an ordinary worker; forks share what the server has imported."""
        config = self.config
        if self.foreign is None or config.runtime.backend != "ray" or why_no_forks(config.runtime) is None:
            return 0.0
        return TRANSFORMERS_MB

    def _foreign_mb(self, devices: int) -> float:
        """Of a process that trains some devices by `transformers` (`engines.foreign_memory.foreign_mb`)."""
        config = self.config
        most = config.runtime.micro_devices
        return foreign_mb(
            self.foreign, rank=config.method.rank, width_bytes=self._width_bytes,
            rows=config.method.batch_rows, row=self.row, longest=self.longest, scored=self.scored,
            devices=devices if most == "auto" else min(devices, most),
            evaluated_tokens=self.tasks * self._asked_tokens,
        )  # fmt: skip
