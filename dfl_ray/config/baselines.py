"""Configuration of the methods that sparse-and-orthogonal LoRA is compared with, one class per `method.type`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dfl_ray.config.training import GossipConfig, TrainingConfig

Rank = Annotated[int, Field(ge=1, le=1024)]


class DloraConfig(GossipConfig):
    """Traditional decentralised LoRA: A and B trained, both gossiped over all neighbours."""

    type: Literal["dlora"] = Field(default="dlora", description="the method's name")


class FfaConfig(GossipConfig):
    """FFA-LoRA: one common frozen A, B trained and gossiped, which is exact (2403.12313)."""

    type: Literal["ffa"] = Field(default="ffa", description="the method's name")


class RoloraConfig(GossipConfig):
    """RoLoRA: A and B in turn; only the active factor is trained, sent and mixed (2409.02346)."""

    type: Literal["rolora"] = Field(default="rolora", description="the method's name")


class FedsaConfig(GossipConfig):
    """FedSA-LoRA: A and B trained, only A shared, B stays personal (2410.01463)."""

    type: Literal["fedsa"] = Field(default="fedsa", description="the method's name")


class ChocoConfig(TrainingConfig):
    """CHOCO-SGD on LoRA: A and B trained, top-k compressed differences sent (1902.00340)."""

    type: Literal["choco"] = Field(default="choco", description="the method's name")
    keep_share: float = Field(
        default=0.1, gt=0, le=1, description="share of the entries a message carries; 1 = identity compressor"
    )
    consensus_step: float = Field(default=0.4, gt=0, le=1, description="gossip step gamma")


class FloraConfig(TrainingConfig):
    """FLoRA: neighbours' modules are stacked and merged into the own base without noise (2409.05976)."""

    type: Literal["flora"] = Field(default="flora", description="the method's name")


class RankedConfig(TrainingConfig):
    """What the methods share whose devices may have different ranks."""

    ranks: tuple[Rank, ...] | None = Field(
        default=None,
        min_length=1,
        description="ranks handed to the devices in turn, each at most `rank`; none = the method's own",
    )

    @property
    def device_ranks(self) -> tuple[int, ...]:
        """Ranks handed to the devices in turn."""
        return self.ranks or (self.rank,)


class FlexloraConfig(RankedConfig):
    """FlexLoRA: the mean product, cut back to each device's rank by SVD (2402.11505); all ranks equal by default."""

    type: Literal["flexlora"] = Field(default="flexlora", description="the method's name")


class HetloraConfig(RankedConfig):
    """HetLoRA: ranks differ, zero padding, sparsity-weighted mean, truncation (2401.06432); r and r/2 by default."""

    type: Literal["hetlora"] = Field(default="hetlora", description="the method's name")

    @property
    def device_ranks(self) -> tuple[int, ...]:
        """Ranks handed to the devices in turn: r and r/2 unless the configuration names others."""
        return self.ranks or (self.rank, max(1, self.rank // 2))


class LocalConfig(TrainingConfig):
    """Every device for itself: A and B trained, nothing sent."""

    type: Literal["local"] = Field(default="local", description="the method's name")


class CentralizedConfig(TrainingConfig):
    """One learner with everybody's rows: the upper reference; nothing is sent, so its cost on air is none."""

    type: Literal["centralized"] = Field(default="centralized", description="the method's name")
