"""Configuration of the methods that sparse-and-orthogonal LoRA is compared with, one class per `method.type`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dfl_ray.config.training import AveragedConfig, TrainingConfig

Rank = Annotated[int, Field(ge=1, le=1024)]


class DloraConfig(AveragedConfig):
    """Traditional decentralised LoRA: A and B trained, both gossiped over all neighbours.

    Source: the update of Dec-LoRA (arXiv 2501.15361).
    """

    type: Literal["dlora"] = Field(default="dlora", description="the method's name")


class FfaConfig(AveragedConfig):
    """FFA-LoRA: one common frozen A, B trained and gossiped, which is exact.

    Source: Sun et al., "Improving LoRA in privacy-preserving federated learning", ICLR 2024, arXiv 2403.12313.
    """

    type: Literal["ffa"] = Field(default="ffa", description="the method's name")


class RoloraConfig(AveragedConfig):
    """RoLoRA: A and B in turn; only the active factor is trained, sent and mixed.

    Source: arXiv 2409.02346.
    """

    type: Literal["rolora"] = Field(default="rolora", description="the method's name")


class FedsaConfig(AveragedConfig):
    """FedSA-LoRA: A and B trained, only A shared, B stays personal.

    Source: Guo et al., "Selective aggregation for low-rank adaptation in federated learning", arXiv 2410.01463.
    """

    type: Literal["fedsa"] = Field(default="fedsa", description="the method's name")


class ChocoConfig(TrainingConfig):
    """CHOCO-SGD on LoRA: A and B trained, top-k compressed differences sent.

    Source: Koloskova, Stich and Jaggi, "Decentralized stochastic optimization and gossip algorithms with
        compressed communication", ICML 2019, arXiv 1902.00340.
    """

    type: Literal["choco"] = Field(default="choco", description="the method's name")
    keep_share: float = Field(
        default=0.1, gt=0, le=1, description="share of the entries a message carries; 1 = identity compressor"
    )
    consensus_step: float = Field(default=0.4, gt=0, le=1, description="gossip step gamma")


class FloraConfig(TrainingConfig):
    """One-hop FLoRA: neighbours' modules are stacked and merged into the own base without noise.

    Source: Wang et al., "FLoRA: federated fine-tuning large language models with heterogeneous low-rank
        adaptations", arXiv 2409.05976.
    """

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
    """FlexLoRA: the mean product, cut back to each device's rank by SVD; all ranks equal by default.

    Source: Bai et al., "Federated fine-tuning of large language models under heterogeneous tasks and client
        resources", arXiv 2402.11505.
    """

    type: Literal["flexlora"] = Field(default="flexlora", description="the method's name")


class HetloraConfig(RankedConfig):
    """HetLoRA without self-pruning: padding, sparsity-weighted mean, truncation; equal ranks unless `ranks` says else.

    Source: Cho et al., "Heterogeneous LoRA for federated fine-tuning of on-device foundation models",
        arXiv 2401.06432.
    """

    type: Literal["hetlora"] = Field(default="hetlora", description="the method's name")


class LocalConfig(TrainingConfig):
    """Every device for itself: A and B trained, nothing sent."""

    type: Literal["local"] = Field(default="local", description="the method's name")


class CentralizedConfig(TrainingConfig):
    """One learner with everybody's rows: the upper reference; nothing is sent, so its cost on air is none."""

    type: Literal["centralized"] = Field(default="centralized", description="the method's name")
