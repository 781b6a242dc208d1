"""Training settings every learning method shares: equal settings are what makes two methods comparable."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dfl_ray.config.choices import Choice
from dfl_ray.methods.aggregation_table import AGGREGATIONS

Precision = Literal["float32", "float16", "bfloat16", "int8"]


class TrainingConfig(BaseModel):
    """What every method shares: the adapter's size and the local optimisation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    rank: int = Field(default=8, ge=1, le=1024, description="rank r of one adapter")
    alpha: float = Field(default=16.0, gt=0, description="adapter scale: s = alpha / rank")
    local_steps: int = Field(default=10, ge=1, description="optimiser steps of a device in one round (H)")
    batch_rows: int = Field(default=16, ge=1, description="rows of one step, over all tasks the device holds")
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw",
        description="rule of the local steps: `adamw`; or `sgd`, x <- x - lr (g + weight_decay x) without momentum, as "
        "most federated papers write them, with other learning rates",
    )
    learning_rate: float = Field(default=5e-3, gt=0, description="step size of the optimiser")
    warmup_rounds: int = Field(default=0, ge=0, description="rounds over which the step size rises linearly")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    clip_norm: float = Field(default=1.0, gt=0, description="largest gradient norm of one adapter")
    precision: Precision = Field(default="float16", description="number format of the values on air")
    error_feedback: bool = Field(
        default=True, description="carry the rounding error of int8 into the next message"
    )
    exchange_every: int = Field(default=1, ge=1, description="rounds between exchanges of adapters")
    fresh_optimizer: bool = Field(
        default=False,
        description="set both moments of AdamW to 0 after every exchange, as the clients of federated papers do; "
        "otherwise they stay on the device; `sgd` has none",
    )
    proximal: float = Field(
        default=0.0,
        ge=0,
        description="FedProx (1812.06127): mu of the term mu/2 |x - x0|^2 in the local loss, x0 what the device began "
        "the round with",
    )

    @property
    def name(self) -> str:
        """The method's name: what `type` says."""
        return str(type(self).model_fields["type"].default)

    @property
    def reported_rule(self) -> str | None:
        """The inference rule that the section chooses to report accuracy by; None = the method's own."""
        return None

    @property
    def hub(self) -> int | None:
        """The device that is the server; None for methods without one."""
        return None

    @property
    def through(self) -> bool:
        """Whether published experts go through the whole tree in the round in which they are published."""
        return False

    @property
    def device_ranks(self) -> tuple[int, ...]:
        """Ranks handed to the devices in turn: the one rank of all, unless the method says otherwise."""
        return (self.rank,)


class GossipConfig(TrainingConfig):
    """What the methods share that average values with neighbours."""

    aggregation: Annotated[str, Choice(AGGREGATIONS)] = Field(
        default="gossip",
        description="`gossip`, the weighted mean, keeps a lost message's weight at home; `push_sum` also keeps the "
        "exact average under losses and on directed graphs; `clip`, `trimmed_mean`, `median`, `krum` and `balance` "
        "bear wrong neighbours",
    )
    faulty_share: float = Field(
        default=0.25,
        ge=0,
        lt=0.5,
        description="`trimmed_mean`, `krum`: share of those who are mixed that is taken to be wrong",
    )

    @property
    def mixes(self) -> bool:
        """Whether the method averages anything at all."""
        return True


class AveragedConfig(GossipConfig):
    """What the methods share that average parts of the one adapter of a device."""

    control_variates: bool = Field(
        default=False,
        description="SCAFFOLD (1910.06378) without a server: local gradients are corrected by how a device's mean "
        "gradient differs from everybody's, an estimate of which is sent beside the adapter, in messages of twice the "
        "length",
    )
