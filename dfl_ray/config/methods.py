"""Configuration of the learning methods: each has one of these classes, see `dfl_ray.methods.entries`.

The training settings all methods share are in `config.training`, the methods compared with in `config.baselines`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from dfl_ray.config.baselines import (
    CentralizedConfig,
    ChocoConfig,
    DloraConfig,
    FedsaConfig,
    FfaConfig,
    FlexloraConfig,
    FloraConfig,
    HetloraConfig,
    LocalConfig,
    RankedConfig,
    RoloraConfig,
)
from dfl_ray.config.choices import Choice
from dfl_ray.config.training import GossipConfig, Precision, TrainingConfig
from dfl_ray.errors import InputError
from dfl_ray.experts.table import RULES

__all__ = [
    "CentralizedConfig",
    "ChocoConfig",
    "DloraConfig",
    "DloraPerTaskConfig",
    "ExpertsConfig",
    "FedsaConfig",
    "FfaConfig",
    "FfaPerTaskConfig",
    "FlexloraConfig",
    "FloraConfig",
    "GossipConfig",
    "HetloraConfig",
    "LocalConfig",
    "LocalPerTaskConfig",
    "PerTaskConfig",
    "Precision",
    "RankedConfig",
    "ReplicasConfig",
    "RoloraConfig",
    "SparseOrthogonalConfig",
    "TrainingConfig",
    "experts_settings",
]


class ExpertsConfig(BaseModel):
    """What the inference rules over a device's experts can be set to, for methods with an expert a task."""

    sketch_prompts: int = Field(
        default=128, ge=8, description="training rows behind a task's input correlation"
    )
    sketch_layers: int = Field(
        default=3, ge=1, description="adapted layer inputs used by the likelihood router"
    )
    sketch_precision: Precision = Field(default="int8", description="number format of sketches on air")
    sketch_shrinkage: float = Field(
        default=0.05, ge=0, le=1, description="shrinkage of the correlation to its diagonal mean"
    )
    filter_lambda: float = Field(
        default=0.01, ge=0, description="`filter`: ridge, relative to the mean eigenvalue"
    )
    soft_temperature: float = Field(
        default=20.0, gt=0, description="`likelihood_soft`: divides the log-likelihoods before the softmax"
    )
    arrow_top_k: int = Field(default=2, ge=1, description="`arrow`: experts a token uses")
    arrow_temperature: float = Field(default=1.0, gt=0, description="`arrow`: divides a token's scores")
    ties_density: float = Field(
        default=0.2, gt=0, le=1, description="`ties`: share of each task's update that is kept"
    )
    ties_scale: float = Field(default=1.0, gt=0, description="`ties`: factor on the merged update")


class ReplicasConfig(BaseModel):
    """When and how experts come to the devices that do not hold their task."""

    replicas_every: int = Field(
        default=10, ge=1, description="rounds between refreshes of foreign experts (E)"
    )
    publish: Literal["hop", "through"] = Field(
        default="hop",
        description="a published expert goes one hop a round along its tree, or through the whole tree in the round in "
        "which it is published, forwarded on the way",
    )
    publish_mixed: bool = Field(
        default=False,
        description="same-task adapters are exchanged in the round before an expert is published too, so that it holds "
        "what its holders have learnt together",
    )

    @property
    def through(self) -> bool:
        """Whether `publish` is `through`."""
        return self.publish == "through"


class _SparseConfig(ReplicasConfig, GossipConfig):
    """What is trained, pruned and sent."""

    type: Literal["sparse_orthogonal"] = Field(default="sparse_orthogonal", description="the method's name")
    precision: Precision = Field(default="int8", description="number format of the values on air")
    exchange_every: int = Field(
        default=10,
        ge=1,
        description="rounds between exchanges of same-task adapters; with A fixed their mean is exact however "
        "far they have drifted, so seldom is enough",
    )
    projection: Literal["exact", "gaussian", "per_device"] = Field(
        default="exact",
        description="A_t: rows of one orthogonal matrix; N(0, 1/d); or drawn anew by each device (ablation)",
    )
    a_exchange: Literal["seed", "send"] = Field(
        default="seed", description="share A by its seed, or send it once"
    )
    density: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="share k of B that is kept in the end, at least one entry or row of every layer",
    )
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
        default=0.3, ge=0, le=1, description="share of the rounds after which masks are fixed"
    )
    prune_steps: int = Field(default=2, ge=1, description="mask updates of the cubic schedule")


class SparseOrthogonalConfig(ExpertsConfig, _SparseConfig):
    """Static orthogonal A, masked B, one expert per task, exact averaging inside the task.

    Source: arXiv 2602.20492.
    """

    rule: Annotated[str, Choice(RULES)] = Field(
        default="likelihood", description="inference rule whose accuracy is reported as the method's"
    )

    @property
    def reported_rule(self) -> str | None:
        """The rule named by the section."""
        return self.rule


ROUTED_RULES = ("likelihood", "oracle", "likelihood_soft", "sum", "average", "arrow", "ties")
"""Rules for experts whose A is not what the router sees inputs through: all but the linear filters over z = A x."""


class _PerTaskConfig(ExpertsConfig, GossipConfig):
    """What the controls share that have the task separation and the router of sparse-and-orthogonal LoRA."""

    precision: Precision = Field(default="int8", description="number format of the values on air")
    projection: Literal["exact", "gaussian"] = Field(
        default="exact",
        description="rows through which the router sees inputs, as those of sparse_orthogonal: orthogonal between "
        "tasks, or N(0, 1/d); no adapter is trained on them",
    )
    rule: Annotated[str, Choice(ROUTED_RULES)] = Field(
        default="likelihood", description="inference rule whose accuracy is reported as the method's"
    )

    @property
    def reported_rule(self) -> str | None:
        """The rule named by the section."""
        return self.rule


class _AveragedPerTaskConfig(ReplicasConfig, _PerTaskConfig):
    """The controls whose experts are averaged among the holders and refreshed elsewhere, as seldom as ours."""

    exchange_every: int = Field(
        default=10, ge=1, description="rounds between exchanges of same-task adapters"
    )


class DloraPerTaskConfig(_AveragedPerTaskConfig):
    """Traditional LoRA with task separation: A and B of one expert per task, both gossiped among its holders.

    A control for sparse-and-orthogonal LoRA: the same replicas and the same router, no orthogonal A, no masks.
    """

    type: Literal["dlora_per_task"] = Field(default="dlora_per_task", description="the method's name")


class FfaPerTaskConfig(_AveragedPerTaskConfig):
    """FFA-LoRA with task separation: one common frozen A for all tasks, B of one expert per task, gossiped.

    A control for sparse-and-orthogonal LoRA: the same replicas and the same router, but all tasks share A's rows.
    """

    type: Literal["ffa_per_task"] = Field(default="ffa_per_task", description="the method's name")


class LocalPerTaskConfig(_PerTaskConfig):
    """Local experts spread once: A and B of one expert per task, never averaged, with the same router.

    Each task's author publishes its expert once, so late that the farthest device has it when the run ends.
    """

    type: Literal["local_per_task"] = Field(default="local_per_task", description="the method's name")

    @property
    def mixes(self) -> bool:
        """Nothing is averaged."""
        return False


PerTaskConfig = (SparseOrthogonalConfig, DloraPerTaskConfig, FfaPerTaskConfig, LocalPerTaskConfig)
"""Sections of the methods with an expert a task that share `dfl_ray.methods.sparse_orthogonal.TaskExperts`."""


def experts_settings(section: TrainingConfig) -> ExpertsConfig:
    """The part of a `method` section that sets the inference rules over experts.

    Args:
        section: A `method` section.

    Returns:
        The same section, known to have those keys.

    Raises:
        InputError: The method's section has no such keys.
    """
    if not isinstance(section, ExpertsConfig):
        raise InputError(
            f"The config section `{type(section).__name__}` has no keys for inference rules over experts",
            expected="a section derived from dfl_ray.config.methods.ExpertsConfig",
        )
    return section
