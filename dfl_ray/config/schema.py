"""The configuration as frozen pydantic models: every key, its default, its range and its meaning.

Nothing here imports torch, transformers or ray, so that checking a config takes milliseconds. A section with
variants (`method`, `topology`) is told apart by its `type`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dfl_ray.config.choices import Choice, Variants
from dfl_ray.config.devices import DevicesConfig
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.privacy import PrivacyConfig
from dfl_ray.config.radio import RadioConfig
from dfl_ray.config.section import Section
from dfl_ray.config.tasks import Score, TasksConfig
from dfl_ray.config.training import TrainingConfig
from dfl_ray.config.variants import TopologyConfig, topology_section
from dfl_ray.methods.entries import method_section
from dfl_ray.methods.table import METHODS
from dfl_ray.tracking.table import TRACKERS
from topology.tables import GRAPHS


class ModelConfig(Section):
    """The frozen base model all devices share."""

    name: str = Field(
        default="embedded", description="`embedded`, `smollm2-135m`, a local folder, a GGUF file, or a hub id"
    )
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="linear layers to adapt, by name suffix as in PEFT, or `all-linear`"
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="precision of the frozen weights; `auto`: what is faster here"
    )
    load_in_4bit: bool = Field(
        default=False,
        description="hold the base's linear layers in 4 bits (NF4, as QLoRA; bitsandbytes, extra `gpu`)",
    )
    trust_remote_code: bool = Field(default=False, description="run code shipped with a hub model")
    max_tokens: int = Field(
        default=256, ge=8, le=32768, description="longest row in tokens; longer prompts lose their head"
    )
    warm_start: str | None = Field(
        default=None,
        description="folder of a PEFT LoRA adapter that every device starts from; its rank may be at most the devices'",
    )
    verify_export: bool = Field(
        default=False, description="load the exported adapters with PEFT and compare logits"
    )


class WandbConfig(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="`auto`: online with a key, else offline"
    )
    project: str = Field(default="dfl-ray", description="project name")
    entity: str | None = Field(default=None, description="team or user; none = the key's default")
    group: str | None = Field(default=None, description="group of a sweep")
    tags: tuple[str, ...] = Field(default=(), description="tags of the run")
    save_adapters: bool = Field(default=True, description="store the final adapters as an artifact")


class TrackConfig(Section):
    """Where metrics go besides the run folder."""

    trackers: tuple[Annotated[str, Choice(TRACKERS)], ...] = Field(
        default=("wandb",),
        description="who follows the run; `track=[wandb, tensorboard]` for short",
    )
    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases")
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="options of trackers of installed packages, by tracker and name"
    )


class RuntimeConfig(Section):
    """How the run is laid onto processes and machines."""

    backend: Literal["ray", "local"] = Field(
        default="ray", description="Ray actors, or one process without Ray"
    )
    address: str | None = Field(
        default=None, description="Ray cluster to join (`auto`, host:port); none = start one here"
    )
    devices_per_actor: int | Literal["auto"] = Field(
        default="auto", description="devices hosted by one actor, or `auto`"
    )
    micro_devices: int | Literal["auto"] = Field(
        default="auto", description="devices in one batched forward and backward"
    )
    compile: Literal["auto", "off"] = Field(
        default="auto", description="whether a GPU's passes over memory are compiled; never on a CPU"
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="threads of torch in each actor; of numpy too without Ray",
    )
    cpus_per_actor: float | None = Field(
        default=None,
        gt=0,
        description="CPU share an actor asks for; none = spread the cluster's CPUs over the actors",
    )
    gpus_per_actor: float = Field(default=0.0, ge=0, description="GPU share of one actor")
    memory_per_actor_mb: float | None = Field(
        default=None, gt=0, description="memory an actor reserves; none = estimated"
    )
    state_memory_mb: float | None = Field(
        default=None,
        gt=0,
        description="memory for the state of all devices together; a larger one lies in memory-mapped files on each "
        "node, read ahead and written behind; none = all in memory",
    )
    state_dir: str | None = Field(
        default=None,
        description="folder of those files, on a disk, made if it is not there; none = the system's folder for "
        "temporary files",
    )
    runs_dir: str = Field(
        default="runs", description="folder of all run folders, or a URL that fsspec reads (s3://bucket/runs)"
    )
    report: bool = Field(
        default=True, description="write report.html at the end; `dfl-ray report` makes it at any time"
    )
    fork_actors: bool = Field(
        default=True,
        description="Ray started here: actors are forks of one process that has imported what they need",
    )
    object_store_mb: float | None = Field(
        default=None,
        ge=100,
        description="memory for the object store of a Ray started here, in 2^20 bytes; what does not fit lies on disk; "
        "none = by base model and devices",
    )
    ray_dashboard: bool = Field(default=False, description="start Ray's dashboard for a local run")
    actor_timeout_s: float = Field(default=600.0, gt=0, description="longest wait for one answer of an actor")
    max_restarts: int = Field(default=3, ge=0, description="times a dead actor is brought back in one run")
    wait_for_capacity_s: float = Field(
        default=60.0,
        gt=0,
        description="on a joined cluster without room for the actors, at the start or after a lost node: longest wait "
        "for room in which none of them starts",
    )
    grace_s: float = Field(
        default=20.0, gt=0, le=86_400, description="after SIGTERM or SIGHUP, time to save and to end"
    )

    @field_validator("runs_dir", "state_dir")
    @classmethod
    def _at_home(cls, place: str | None) -> str | None:
        """The folder with its `~` expanded, once for all that read it; a URL has none."""
        if place is None or not place.startswith("~"):
            return place
        try:
            return str(Path(place).expanduser())
        except RuntimeError:
            raise ValueError(
                f"{place} lies in nobody's home folder: give another name behind `~`, or ./{place} for a folder here"
            ) from None

    @model_validator(mode="after")
    def _positive(self) -> RuntimeConfig:
        if self.state_memory_mb is not None and self.gpus_per_actor > 0:
            raise ValueError(
                "state_memory_mb is for devices on CPUs; on a GPU their state lies in its memory: leave it out, or set "
                "gpus_per_actor to 0"
            )
        for name in ("devices_per_actor", "micro_devices"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} must be `auto` or at least 1, got {value}")
        return self


class EvaluateConfig(Section):
    """When and how accuracy is measured, always on held-out rows."""

    every: int = Field(
        default=5, ge=1, description="rounds between evaluations; the last round is always evaluated"
    )
    rows_per_task: int | None = Field(
        default=64, ge=1, description="held-out rows asked of every device; none = all"
    )
    score: Score = Field(
        default="auto",
        description="`choice` = label likelihood, `exact_match` of greedy decoding, or a free answer by "
        "`generated_match`, `f1` or `rouge_l`; `auto` = `choice` for closed label "
        "sets, `exact_match` for open answers and generated tasks",
    )
    max_new_tokens: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="most tokens of a free answer, for the scores `generated_match`, `f1` and `rouge_l`",
    )
    rules: tuple[str, ...] | None = Field(
        default=None, description="inference rules to compare at the end; none = the method's own list"
    )


class StopConfig(Section):
    """What ends a run after a round, before `rounds` are done; what is reached first counts."""

    simulated_s: float | None = Field(default=None, gt=0, description="virtual time, seconds")
    joules: float | None = Field(default=None, gt=0, description="energy of all devices together")
    accuracy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="mean accuracy over devices and tasks, of the method's own rule, in an evaluated round",
    )


class AsyncConfig(Section):
    """Gossip without a barrier, under `schedule: async`; see docs/time.md."""

    staleness: Literal["constant", "polynomial", "hinge"] = Field(
        default="polynomial",
        description="factor s(age) on the weight of an old message, whose age is counted in local rounds of its "
        "receiver: `constant` 1; `polynomial` (1 + age)^-exponent; `hinge` 1 up to `grace_rounds`, then "
        "1 / (exponent (age - grace_rounds) + 1)",
    )
    exponent: float = Field(
        default=0.5, ge=0, le=100, description="how fast an old message loses its weight, a in the formulas"
    )
    grace_rounds: int = Field(
        default=4, ge=0, le=1_000_000, description="`hinge`: age up to which a message has its whole weight"
    )


class CheckpointConfig(Section):
    """When state is saved."""

    every: int = Field(
        default=1,
        ge=0,
        description="rounds between checkpoints; 0 = only when stopped, at the end, and with Ray when the messages "
        "kept for replays (`runtime.max_restarts`) outgrow the devices' state",
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept")


class Config(Section):
    """One experiment, whole."""

    name: str | None = Field(default=None, description="run name; none = from method, seed and time")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of every random stream")
    rounds: int = Field(
        default=20,
        ge=1,
        le=1_000_000,
        description="communication rounds; under `schedule: async` windows, about a local round of the fastest devices",
    )
    schedule: Literal["sync", "async"] = Field(
        default="sync",
        description="`sync`: all devices wait for the round's last message; `async`: no device waits for another",
    )
    method: Annotated[
        TrainingConfig, Variants(METHODS, "sparse_orthogonal", TrainingConfig, method_section)
    ] = Field(default_factory=SparseOrthogonalConfig, description="the learning method")
    model: ModelConfig = Field(default_factory=ModelConfig, description="the base model")
    tasks: TasksConfig = Field(default_factory=TasksConfig, description="the tasks")
    devices: DevicesConfig = Field(default_factory=DevicesConfig, description="the devices")
    topology: Annotated[TopologyConfig, Variants(GRAPHS, "clustered", TopologyConfig, topology_section)] = (
        Field(default_factory=lambda: topology_section("clustered")(), description="the graph")
    )
    radio: RadioConfig = Field(default_factory=RadioConfig, description="the radio")
    # The key of the issue and of docs/time.md is a word that Python keeps for itself.
    __annotations__["async"] = "AsyncConfig"
    vars()["async"] = Field(default_factory=AsyncConfig, description="gossip without a barrier")
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="processes and machines")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="accuracy")
    privacy: PrivacyConfig = Field(
        default_factory=PrivacyConfig, description="differential privacy of what devices send"
    )
    stop: StopConfig = Field(default_factory=StopConfig, description="ends a run before its last round")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="saved state")
    track: TrackConfig = Field(default_factory=TrackConfig, description="tracking")

    @property
    def asynchrony(self) -> AsyncConfig | None:
        """The section `async`; None under `schedule: sync`, where nothing reads it."""
        section: AsyncConfig = getattr(self, "async")
        return section if self.schedule == "async" else None
