"""Configuration of further methods of the literature, one class per `method.type`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dfl_ray.config.training import AveragedConfig, TrainingConfig


class DecLoraConfig(AveragedConfig):
    """Dec-LoRA: another name for `dlora`, local steps on A and B and gossip of both.

    Source: Ghiasvand, Alizadeh and Pedarsani, "Decentralized low-rank fine-tuning of large language models",
        arXiv 2501.15361.
    """

    type: Literal["dec_lora"] = Field(default="dec_lora", description="the method's name")


class AdfLoraConfig(AveragedConfig):
    """ADF-LoRA: one factor trained a round, the same on all devices; both mixed.

    Source: Wang et al., "ADF-LoRA: alternating low-rank aggregation for decentralized federated fine-tuning",
        arXiv 2511.18291.
    """

    type: Literal["adf_lora"] = Field(default="adf_lora", description="the method's name")


class TadLoraConfig(AveragedConfig):
    """TAD-LoRA: one factor trained for several rounds before the other's turn; both mixed.

    Source: Wang et al., "Stabilizing decentralized federated fine-tuning via topology-aware alternating LoRA",
        arXiv 2602.00451.
    """

    type: Literal["tad_lora"] = Field(default="tad_lora", description="the method's name")
    switch_every: int = Field(
        default=5,
        ge=1,
        description="rounds of training of one factor before the other's turn; more on sparser graphs",
    )


class FedexConfig(TrainingConfig):
    """FedEx-LoRA: averaged factors, and the rest of the mean product merged into the own base.

    Source: Singhal, Ponkshe and Vepakomma, "FedEx-LoRA: exact aggregation for federated and efficient fine-tuning of
        large language models", ACL 2025, arXiv 2410.09432.
    """

    type: Literal["fedex"] = Field(default="fedex", description="the method's name")


class FloraNaConfig(TrainingConfig):
    """FLoRA-NA: the weighted sums of the neighbours' factors whose product is nearest to the mean product.

    Source: Nguyen et al., "FLoRA-NA: nearly accurate aggregation for federated low-rank adaptation", arXiv 2509.26399.
    """

    type: Literal["flora_na"] = Field(default="flora_na", description="the method's name")


class LoraFairConfig(TrainingConfig):
    """LoRA-FAIR: averaged factors, and a correction of B towards the mean product.

    Source: Bian, Wang, Zhang and Xu, "LoRA-FAIR: federated LoRA fine-tuning with aggregation and initialization
        refinement", ICCV 2025, arXiv 2411.14961.
    """

    type: Literal["lora_fair"] = Field(default="lora_fair", description="the method's name")
    residual_ridge: float = Field(
        default=0.01, ge=0, description="penalty on the correction, relative to the mean eigenvalue of A A^T"
    )


class FedSbConfig(AveragedConfig):
    """Fed-SB: only the r x r core between two frozen bases is trained and sent.

    Source: Singhal, Ponkshe, Vartak, Varshney and Vepakomma, "Fed-SB: a silver bullet for extreme communication
        efficiency and performance in (private) federated LoRA fine-tuning", arXiv 2502.15436.
    """

    type: Literal["fed_sb"] = Field(default="fed_sb", description="the method's name")
    bases: Literal["random", "gradient"] = Field(
        default="random",
        description="the frozen bases: drawn from the seed; or LoRA-SB's, from the SVD of the first step of full "
        "fine-tuning, which is computed before the run",
    )
    bases_rows: int = Field(
        default=64,
        ge=1,
        description="`gradient`: training rows of all devices that the gradient is taken from",
    )


class DecafConfig(TrainingConfig):
    """DeCAF: the mean product, and balanced factors again by a truncated SVD.

    Source: Saadati et al., "DeCAF: decentralized consensus-and-factorization for low-rank adaptation of foundation
        models", arXiv 2505.21382.
    """

    type: Literal["decaf"] = Field(default="decaf", description="the method's name")


class GradientTrackingConfig(TrainingConfig):
    """Gradient tracking: A and B and an estimate of everybody's mean update, both averaged.

    Source: Nedic, Olshevsky and Shi, "Achieving geometric convergence for distributed optimization over time-varying
        graphs", 2017, arXiv 1607.03218.
    """

    type: Literal["gradient_tracking"] = Field(default="gradient_tracking", description="the method's name")


class ExactDiffusionConfig(TrainingConfig):
    """Exact diffusion: gossip with a correction that takes away the bias of data that differ, at gossip's bytes.

    Source: Yuan, Ying, Zhao and Sayed, "Exact diffusion for distributed optimization and learning", IEEE Transactions
    on
        Signal Processing, 2019.
    """

    type: Literal["exact_diffusion"] = Field(default="exact_diffusion", description="the method's name")


class RandomWalkConfig(TrainingConfig):
    """Random walk: one adapter goes from device to device, and only the one that has it trains.

    Source: Liu, Dwyer and El Rouayheb, "Decentralized learning via random walk with jumps", arXiv 2604.12260, its walk
        without jumps.
    """

    type: Literal["random_walk"] = Field(default="random_walk", description="the method's name")


class _StarConfig(TrainingConfig):
    """What the methods with a server share."""

    exchange_every: int = Field(
        default=1,
        ge=1,
        description="rounds of training before the server's turn, which takes a round of its own",
    )
    server: int = Field(default=0, ge=0, description="the device that is the server")

    @property
    def hub(self) -> int | None:
        """The server."""
        return self.server


class FedavgStarConfig(_StarConfig):
    """FedAvg with a server at one device, by its multi-hop tree: what a server would cost on the same radio.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
        arXiv 1602.05629; with LoRA: FedIT, arXiv 2305.05644.
    """

    type: Literal["fedavg_star"] = Field(default="fedavg_star", description="the method's name")


class SparseStarConfig(_StarConfig):
    """What the methods with a server share to and from which some entries travel."""

    upload_share: float = Field(gt=0, le=1, description="share of the entries that a device sends up")
    download_share: float = Field(gt=0, le=1, description="share of the entries that the server sends down")


class FlascConfig(SparseStarConfig):
    """FLASC: a server at one device, sparse downloads and uploads, dense local training.

    Source: Kuo, Raje, Rajesh and Smith, "Federated LoRA with sparse communication", arXiv 2406.05233.
    """

    type: Literal["flasc"] = Field(default="flasc", description="the method's name")
    upload_share: float = Field(
        default=0.25, gt=0, le=1, description="share of the entries of a device's change that it sends up"
    )
    download_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="share of the entries of the server's adapter that it sends down",
    )


class FedsrdConfig(SparseStarConfig):
    """FedSRD: important changes up, the mean product cut to rank r, and a random share of one factor's answer down.

    Source: Yan et al., "FedSRD: sparsify-reconstruct-decompose for communication-efficient federated large language
        models fine-tuning", arXiv 2510.04601.
    """

    type: Literal["fedsrd"] = Field(default="fedsrd", description="the method's name")
    upload_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="share of each factor's change that a device sends up, by importance",
    )
    download_share: float = Field(
        default=0.2, gt=0, le=1, description="share of the active factor's entries that the server sends down"
    )
