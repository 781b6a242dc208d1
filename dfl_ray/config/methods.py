"""Configuration of the learning methods, one class per `method.type`; all share the training settings.

Equal training settings are what makes two methods comparable, so they live in the base class.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["float32", "float16", "bfloat16", "int8"]


class TrainingConfig(BaseModel):
    """What every method shares: the adapter's size and the local optimisation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    rank: int = Field(default=8, ge=1, le=1024, description="rank r of one adapter")
    alpha: float = Field(default=16.0, gt=0, description="adapter scale: s = alpha / rank")
    local_steps: int = Field(default=10, ge=1, description="optimiser steps of a device in one round (H)")
    batch_rows: int = Field(default=16, ge=1, description="rows of one step, over all tasks the device holds")
    learning_rate: float = Field(default=5e-3, gt=0, description="AdamW step size")
    warmup_rounds: int = Field(default=0, ge=0, description="rounds over which the step size rises linearly")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW decoupled weight decay")
    clip_norm: float = Field(default=1.0, gt=0, description="largest gradient norm of one adapter")
    precision: Precision = Field(default="float16", description="number format of the values on air")
    error_feedback: bool = Field(
        default=True, description="carry the rounding error of int8 into the next message"
    )
    exchange_every: int = Field(default=1, ge=1, description="rounds between exchanges of adapters")


class SparseOrthogonalConfig(TrainingConfig):
    """Static orthogonal A, masked B, one expert per task, exact averaging inside the task (2602.20492)."""

    type: Literal["sparse_orthogonal"] = Field(default="sparse_orthogonal", description="the method's name")
    precision: Precision = Field(default="int8", description="number format of the values on air")
    projection: Literal["exact", "gaussian", "per_device"] = Field(
        default="exact",
        description="A_t: rows of one orthogonal matrix; N(0, 1/d); or drawn anew by each device (ablation)",
    )
    a_exchange: Literal["seed", "send"] = Field(
        default="seed", description="share A by its seed, or send it once"
    )
    density: float = Field(default=0.5, gt=0, le=1, description="share k of B that is kept in the end")
    mask: Literal["element", "row"] = Field(
        default="element", description="keep single entries or whole rows of B"
    )
    budget: Literal["uniform", "global", "effective_rank"] = Field(
        default="uniform", description="how k is spread over the layers"
    )
    budget_exponent: float = Field(
        default=0.5, ge=0, description="`effective_rank`: exponent tau of the layer's score"
    )
    budget_min: float = Field(default=0.05, gt=0, le=1, description="least density of a layer")
    disjoint: bool = Field(default=False, description="no row of B belongs to two tasks")
    prune_start: float = Field(
        default=0.1, ge=0, le=1, description="share of the rounds before pruning starts"
    )
    prune_end: float = Field(
        default=0.6, ge=0, le=1, description="share of the rounds after which masks are fixed"
    )
    prune_steps: int = Field(default=5, ge=1, description="mask updates of the cubic schedule")
    replicas_every: int = Field(
        default=5, ge=1, description="rounds between refreshes of foreign experts (E)"
    )
    sketch_prompts: int = Field(
        default=128, ge=8, description="training rows behind a task's input correlation"
    )
    sketch_layers: int = Field(
        default=3, ge=1, description="adapted layer inputs used by the likelihood router"
    )
    sketch_shrinkage: float = Field(
        default=0.05, ge=0, le=1, description="shrinkage of the correlation to its diagonal mean"
    )
    filter_lambda: float = Field(
        default=0.01, ge=0, description="`filter`: ridge, relative to the mean eigenvalue"
    )
    rule: Literal["likelihood", "filter", "oracle", "sum", "average"] = Field(
        default="likelihood", description="inference rule whose accuracy is reported as the method's"
    )


class DloraConfig(TrainingConfig):
    """Traditional decentralised LoRA: A and B trained, both gossiped over all neighbours."""

    type: Literal["dlora"] = Field(default="dlora", description="the method's name")


MethodConfig = SparseOrthogonalConfig | DloraConfig
MethodField = Annotated[MethodConfig, Field(discriminator="type")]
