"""The configuration as frozen pydantic models: every key, its default, its range and its meaning.

Nothing here imports torch, transformers or ray, so that checking a config takes milliseconds. A section with
variants (`method`, `topology`) is told apart by its `type`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from channels.tables import DEVICE_MIXES
from dfl_ray.config.choices import Choice, Variants
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.options import section_of
from dfl_ray.config.radio import RadioConfig
from dfl_ray.config.training import TrainingConfig
from dfl_ray.methods.entries import method_section
from dfl_ray.methods.table import METHODS
from dfl_ray.tasks.sources import TASK_SOURCES
from dfl_ray.tracking.table import TRACKERS
from topology.tables import GRAPHS, MIXINGS, MOBILITY, PARTITIONS, PLACEMENTS

Score = Literal["auto", "exact_match", "choice"]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, numbers finite, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


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

    source: Annotated[str, Choice(TASK_SOURCES)] = Field(
        default="synthetic", description="where rows come from"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of a source of an installed package, by name"
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
    template: str | None = Field(
        default=None,
        description='`files`: format string that joins fields into the prompt, e.g. "{instruction}\\n{input}"; none '
        "= the prompt field alone",
    )
    score: dict[str, Score] = Field(
        default_factory=dict,
        description="how single tasks are scored, {trec: choice, gsm8k: exact_match}; the others, and `auto`, follow "
        "`evaluate.score`",
    )
    max_choices: int = Field(
        default=32, ge=1, description="a task with at most so many distinct answers may be a closed label set"
    )
    on_bad_rows: Literal["refuse", "skip"] = Field(
        default="refuse", description="refuse the file, or count and skip"
    )
    templates: dict[str, PromptTemplate] = Field(
        default_factory=dict, description="`hub`: prompt template of each task that has no ready one"
    )

    @field_validator("score", mode="before")
    @classmethod
    def _by_task(cls, value: object) -> object:
        if value == "auto":
            return {}
        if isinstance(value, str):
            raise ValueError(
                f"name the tasks, {{trec: {value}}}, or set `evaluate.score: {value}` for all of them"
            )
        return value

    @model_validator(mode="after")
    def _template_is_read(self) -> TasksConfig:
        if self.template is None:
            return self
        if self.source != "files":
            raise ValueError(f"`template` is read with `source: files` only, got `source: {self.source}`")
        if self.prompt_field != "prompt":
            raise ValueError("set either `template` or `prompt_field`, not both")
        try:
            names = [name for _, name, _, _ in Formatter().parse(self.template) if name is not None]
        except ValueError as error:
            raise ValueError(f"`template` is not a format string: {error}") from None
        bad = [name for name in names if not name.isidentifier()]
        if bad or not names:
            raise ValueError(
                f"`template` must name fields in braces, e.g. {{instruction}}, got {self.template!r}"
            )
        return self


class PlacementConfig(Section):
    """Where the devices stand; each placement adds its own keys."""

    type: str = Field(default="uniform", description="the placement")

    def options(self) -> dict[str, Any]:
        """The keys that are the placement's own."""
        return _own(self, PlacementConfig)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the name of the variant: its class is made at run time, in every process anew."""
        return _again, (placement_section, self.type, dict(self))


class PartitionConfig(Section):
    """Which tasks a device holds; each partition adds its own keys."""

    type: str = Field(default="balanced", description="the partition")

    def options(self) -> dict[str, Any]:
        """The keys that are the partition's own."""
        return _own(self, PartitionConfig)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the name of the variant: its class is made at run time, in every process anew."""
        return _again, (partition_section, self.type, dict(self))


class TopologyConfig(Section):
    """Who may talk to whom; each graph adds its own keys."""

    type: str = Field(default="clustered", description="the graph")
    mixing: Annotated[str, Choice(MIXINGS)] = Field(
        default="metropolis_hastings", description="gossip weights"
    )
    min_snr_db: float = Field(default=3.0, description="least mean SNR of a link that may be used")
    reach: Literal["respect", "relay", "ignore"] = Field(
        default="respect",
        description="`respect`: only links the radio can carry; `relay`: what is out of reach goes over several "
        "hops; `ignore`: the textbook graph. `clustered` always respects reach and relays where needed",
    )

    def options(self) -> dict[str, Any]:
        """The keys that are the graph's own."""
        return _own(self, TopologyConfig)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the name of the variant: its class is made at run time, in every process anew."""
        return _again, (topology_section, self.type, dict(self))


def _again(section_for: Callable[[str], type[Section]], name: str, values: dict[str, Any]) -> Section:
    return section_for(name)(**values)


def _own(section: Section, base: type[Section]) -> dict[str, Any]:
    return {name: value for name, value in section if name not in base.model_fields}


@cache
def placement_section(name: str) -> type[PlacementConfig]:
    """The section of one placement."""
    return _made("placement", name, PLACEMENTS[name], ("count", "area_m", "rng"), PlacementConfig)


@cache
def partition_section(name: str) -> type[PartitionConfig]:
    """The section of one partition."""
    return _made("partition", name, PARTITIONS[name], ("devices", "tasks", "rng"), PartitionConfig)


@cache
def topology_section(name: str) -> type[TopologyConfig]:
    """The section of one graph."""
    return _made("graph", name, GRAPHS[name], ("inputs",), TopologyConfig)


@cache
def mobility_section(name: str) -> type[Section]:
    """The options of one mobility model as a section; no key of `Config` holds it, since no run moves its devices."""
    return section_of("mobility model", name, MOBILITY[name], ("positions_m", "area_m", "rng"), Section)  # type: ignore[return-value]


S = TypeVar("S", bound=Section)


def _made(
    kind: str, name: str, builder: Callable[..., Any], given: tuple[str, ...], base: type[S]
) -> type[S]:
    made = section_of(kind, name, builder, given, base)
    assert issubclass(made, base)
    return made


class DevicesConfig(Section):
    """The devices, where they stand and which tasks they hold."""

    count: int = Field(default=10, ge=1, le=1_000_000, description="number of devices")
    area_m: tuple[float, float] = Field(
        default=(300.0, 300.0), description="width and height of the area in metres"
    )
    placement: Annotated[
        PlacementConfig, Variants(PLACEMENTS, "uniform", PlacementConfig, placement_section)
    ] = Field(default_factory=lambda: placement_section("uniform")(), description="where they stand")
    partition: Annotated[
        PartitionConfig, Variants(PARTITIONS, "balanced", PartitionConfig, partition_section)
    ] = Field(
        default_factory=lambda: partition_section("balanced")(),
        description="which tasks a device holds, and in which mixture",
    )
    sizes: Literal["equal", "lognormal"] = Field(
        default="equal", description="how a task's rows are split over holders"
    )
    lognormal_sigma: float = Field(
        default=0.5, ge=0, description="`lognormal`: standard deviation of the logarithm of a holder's size"
    )
    battery_j: float | None = Field(
        default=None, gt=0, description="energy of each device at the start; none = mains power"
    )
    classes: Annotated[str, Choice(DEVICE_MIXES)] = Field(
        default="uniform", description="mix of device classes: all phones, or phones, tablets and sensors"
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
        default=("wandb",), description="who follows the run"
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
    score: Score = Field(
        default="auto",
        description="`choice` = label likelihood, `exact_match` of greedy decoding; `auto` = `choice` for closed label "
        "sets, `exact_match` for open answers and generated tasks",
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
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="processes and machines")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="accuracy")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="saved state")
    track: TrackConfig = Field(default_factory=TrackConfig, description="tracking")
