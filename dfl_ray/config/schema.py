"""The configuration as frozen pydantic models: every key, its default, its range and its meaning.

Nothing here imports torch, transformers or ray, so that checking a config takes milliseconds. A section with
variants (`method`, `topology`) is told apart by its `type`.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dfl_ray.config.methods import MethodConfig, SparseOrthogonalConfig
from dfl_ray.config.radio import RadioConfig


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ModelConfig(Section):
    """The frozen base model all devices share."""

    name: str = Field(default="embedded", description="`embedded`, a local folder, or a hub id")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="linear layers to adapt, by name suffix as in PEFT, or `all-linear`"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision of the frozen weights"
    )
    trust_remote_code: bool = Field(default=False, description="run code shipped with a hub model")
    max_tokens: int = Field(
        default=256, ge=8, le=32768, description="longest row in tokens; longer prompts lose their head"
    )
    verify_export: bool = Field(
        default=False, description="load the exported adapters with PEFT and compare logits"
    )


class PromptTemplate(Section):
    """How the rows of one `hub` task become prompt and answer."""

    dataset: str = Field(description="datasets id or local folder")
    subset: str | None = Field(default=None, description="configuration name of the dataset")
    prompt: str = Field(description="format string over the row's fields")
    answer: str = Field(description="format string over the row's fields")
    labels: tuple[str, ...] | None = Field(default=None, description="names for integer labels, in order")
    train_split: str = Field(default="train", description="split to train on")
    test_split: str = Field(default="test", description="split held out")


class TasksConfig(Section):
    """What the devices learn and are asked."""

    source: Literal["synthetic", "files", "hub"] = Field(
        default="synthetic", description="where rows come from"
    )
    path: str | None = Field(
        default=None, description="`files`: folder with <task>/train.* and <task>/test.*"
    )
    names: tuple[str, ...] | None = Field(
        default=None, description="tasks to use, in order; none = all found"
    )
    cue: Literal["strong", "weak", "none"] = Field(
        default="strong", description="`synthetic`: how far a prompt betrays its task"
    )
    train_rows: int | None = Field(default=None, ge=1, description="at most so many training rows a task")
    test_rows: int | None = Field(default=None, ge=1, description="at most so many test rows a task")
    prompt_field: str = Field(
        default="prompt", description="`files`: name of the field with the model's input"
    )
    answer_field: str = Field(default="answer", description="`files`: name of the field with the answer")
    max_choices: int = Field(
        default=32, ge=1, description="a task with at most so many distinct answers is a closed label set"
    )
    on_bad_rows: Literal["refuse", "skip"] = Field(
        default="refuse", description="refuse the file, or count and skip"
    )
    templates: dict[str, PromptTemplate] = Field(
        default_factory=dict, description="`hub`: prompt template of each task that has no ready one"
    )


class DevicesConfig(Section):
    """The devices, where they stand and which tasks they hold."""

    count: int = Field(default=10, ge=1, le=1_000_000, description="number of devices")
    area_m: tuple[float, float] = Field(
        default=(300.0, 300.0), description="width and height of the area in metres"
    )
    placement: Literal["uniform", "poisson", "hotspots", "file"] = Field(
        default="uniform", description="where they stand"
    )
    placement_path: str | None = Field(
        default=None, description="`file`: CSV or Parquet with device, x_m, y_m"
    )
    partition: Literal["balanced", "one_each", "dirichlet", "file"] = Field(
        default="balanced", description="which tasks a device holds, and in which mixture"
    )
    partition_path: str | None = Field(
        default=None, description="`file`: CSV or Parquet with device, task, weight"
    )
    tasks_per_device: int = Field(default=2, ge=1, description="`balanced`: tasks on each device")
    min_holders: int = Field(default=3, ge=1, description="`balanced`: least number of holders of a task")
    dirichlet_alpha: float = Field(
        default=0.3, gt=0, description="`dirichlet`: concentration, small = one-sided"
    )
    sizes: Literal["equal", "lognormal"] = Field(
        default="equal", description="how a task's rows are split over holders"
    )
    battery_j: float | None = Field(
        default=None, gt=0, description="energy of each device at the start; none = mains power"
    )
    classes: Literal["uniform", "mixed"] = Field(
        default="uniform", description="mix of device classes: all phones, or phones, tablets and sensors"
    )


class TopologyConfig(Section):
    """Who may talk to whom."""

    type: str = Field(
        default="clustered", description="`clustered` or a comparison graph, e.g. `ring`, `complete`"
    )
    max_degree: int = Field(default=6, ge=1, description="most neighbours of a device")
    min_gap: float = Field(
        default=0.2, ge=0, le=1, description="`clustered`: spectral gap wanted inside each task's graph"
    )
    gateways_per_pair: int = Field(
        default=1, ge=1, description="`clustered`: links between two neighbouring clusters"
    )
    mixing: Literal["metropolis_hastings", "uniform", "laplacian"] = Field(
        default="metropolis_hastings", description="gossip weights"
    )
    min_snr_db: float = Field(default=3.0, description="least mean SNR of a link that may be used")
    airtime_weight: float = Field(
        default=1.0, ge=0, description="`clustered`: weight of airtime in a link's cost"
    )
    energy_weight: float = Field(
        default=0.0, ge=0, description="`clustered`: weight of energy in a link's cost"
    )
    collision_weight: float = Field(
        default=0.0, ge=0, description="`clustered`: weight of mask collisions in a link's cost"
    )
    degree: int = Field(
        default=4, ge=1, description="`k_regular`, `k_nearest`, `small_world`: neighbours a device"
    )
    probability: float = Field(default=0.3, ge=0, le=1, description="`erdos_renyi`: edge probability")
    rewire: float = Field(default=0.1, ge=0, le=1, description="`small_world`: share of edges rewired")
    radius_m: float | None = Field(default=None, gt=0, description="`geometric`: reach; none = by min_snr_db")
    reach: Literal["respect", "ignore"] = Field(
        default="respect", description="keep only links the radio can carry"
    )
    path: str | None = Field(default=None, description="`file`: GraphML or edge-list CSV")


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

    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases")


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
    threads: int = Field(default=1, ge=1, description="torch threads in each actor")
    cpus_per_actor: float | None = Field(
        default=None,
        gt=0,
        description="CPU share an actor asks for; none = spread the cluster's CPUs over the actors",
    )
    gpus_per_actor: float = Field(default=0.0, ge=0, description="GPU share of one actor")
    memory_per_actor_mb: float | None = Field(
        default=None, gt=0, description="memory an actor reserves; none = estimated"
    )
    runs_dir: str = Field(default="runs", description="folder of all run folders")
    fork_actors: bool = Field(
        default=True,
        description="Ray started here: actors are forks of one process that has imported what they need",
    )
    ray_dashboard: bool = Field(default=False, description="start Ray's dashboard for a local run")
    actor_timeout_s: float = Field(default=600.0, gt=0, description="longest wait for one answer of an actor")
    max_restarts: int = Field(default=3, ge=0, description="times a dead actor is brought back in one run")

    @property
    def forks(self) -> bool:
        """Whether actors are forks: Ray is started here, on Linux, and nobody has turned it off."""
        return self.address is None and self.fork_actors and sys.platform == "linux"

    @model_validator(mode="after")
    def _positive(self) -> RuntimeConfig:
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
    score: Literal["auto", "exact_match", "choice"] = Field(
        default="auto",
        description="`choice` for closed label sets (label likelihood), `exact_match` of greedy decoding",
    )
    rules: tuple[str, ...] | None = Field(
        default=None, description="inference rules to compare at the end; none = the method's own list"
    )


class CheckpointConfig(Section):
    """When state is saved."""

    every: int = Field(
        default=1, ge=0, description="rounds between checkpoints; 0 = only when stopped and at the end"
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept")


class Config(Section):
    """One experiment, whole."""

    name: str | None = Field(default=None, description="run name; none = from method, seed and time")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of every random stream")
    rounds: int = Field(default=20, ge=1, le=1_000_000, description="communication rounds")
    method: Annotated[MethodConfig, Field(discriminator="type")] = Field(
        default_factory=SparseOrthogonalConfig, description="the learning method"
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="the base model")
    tasks: TasksConfig = Field(default_factory=TasksConfig, description="the tasks")
    devices: DevicesConfig = Field(default_factory=DevicesConfig, description="the devices")
    topology: TopologyConfig = Field(default_factory=TopologyConfig, description="the graph")
    radio: RadioConfig = Field(default_factory=RadioConfig, description="the radio")
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="processes and machines")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="accuracy")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="saved state")
    track: TrackConfig = Field(default_factory=TrackConfig, description="tracking")
