"""What a learning method consists of: config section, class, what the driver must know. Importing this needs no torch.

A new method is a file in this folder, a config section, a `MethodEntry` here and a line in `dfl_ray.methods.table`; or,
in a package of one's own, an entry point in the group `dfl_ray.methods` that names a `MethodEntry` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, get_args

from dfl_ray.config import baselines
from dfl_ray.config.methods import (
    ROUTED_RULES,
    DloraPerTaskConfig,
    FfaPerTaskConfig,
    LocalPerTaskConfig,
    SparseOrthogonalConfig,
)
from dfl_ray.config.training import TrainingConfig
from dfl_ray.errors import InputError
from dfl_ray.experts.table import RULES
from dfl_ray.methods import laws
from dfl_ray.methods.about import About
from dfl_ray.methods.choco_law import ChocoLaw
from dfl_ray.methods.expert_law import ExpertLaw
from dfl_ray.methods.spec import PRODUCTS_HEARD, MethodSpec
from dfl_ray.methods.table import METHODS

if TYPE_CHECKING:
    from dfl_ray.methods.base import Context, Method


@dataclass(frozen=True)
class MethodEntry:
    """A learning method whole.

    Attributes:
        section: Its config section, whose `type` is a `Literal` of its one name.
        place: "module:attribute" of what makes the method from a `Context`; imported when devices are made, so that
            reading a configuration needs no torch.
        spec: What the driver must know of it; the default is that of one adapter a device with A and B trained.
        about: What is said of it in words; without it the first line of its section's text.
    """

    section: type[TrainingConfig]
    place: str
    spec: MethodSpec = field(default_factory=MethodSpec)
    about: About = field(default_factory=About)

    def make(self, context: Context) -> Method:
        """Make the method for a run, importing it first.

        Args:
            context: The run.

        Returns:
            The method.
        """
        module, _, attribute = self.place.partition(":")
        made: Callable[[Context], Method] = getattr(import_module(module), attribute)
        return made(context)


_COMPARED = ("likelihood", "oracle", "likelihood_soft", "filter", "sum", "average")
_HERE = "dfl_ray.methods"
_TRAINED = MethodSpec(ExpertLaw, "likelihood", ROUTED_RULES, ("likelihood", "oracle"), ("a", "b"), True, True)
_CONTROL = "A control for sparse_orthogonal: the same replicas and router, other experts."

SPARSE_ORTHOGONAL = MethodEntry(
    SparseOrthogonalConfig,
    f"{_HERE}.sparse_orthogonal:SparseOrthogonal",
    MethodSpec(ExpertLaw, _COMPARED[0], RULES.own, _COMPARED, ("b",), True, True),
    About(
        "sparse and orthogonal LoRA: one masked B a task under static orthogonal A",
        "arXiv 2602.20492",
        trained="masked B of an expert a task",
        sent="kept entries of B; masks and sketches once, replicas to everybody",
        mixed="gossip among the task's holders, exact",
    ),
)
DLORA_PER_TASK = MethodEntry(
    DloraPerTaskConfig,
    f"{_HERE}.per_task:DloraPerTask",
    _TRAINED,
    About(
        "traditional LoRA with an expert a task",
        "this project, after arXiv 2106.09685",
        trained="A, B of an expert a task",
        mixed="gossip among the task's holders",
        note=_CONTROL,
    ),
)
FFA_PER_TASK = MethodEntry(
    FfaPerTaskConfig,
    f"{_HERE}.per_task:FfaPerTask",
    replace(_TRAINED, trains=("b",)),
    About(
        "FFA-LoRA with an expert a task",
        "this project, after arXiv 2403.12313",
        trained="B of an expert a task under one A common to all tasks",
        sent="B",
        mixed="gossip among the task's holders, exact",
        note=_CONTROL,
    ),
)
LOCAL_PER_TASK = MethodEntry(
    LocalPerTaskConfig,
    f"{_HERE}.per_task:DloraPerTask",
    _TRAINED,
    About(
        "experts trained apart and spread once",
        "this project",
        trained="A, B of an expert a task",
        sent="each expert once, by its author",
        mixed="not at all",
        note=_CONTROL,
    ),
)
DLORA = MethodEntry(
    baselines.DloraConfig,
    f"{_HERE}.dlora:Dlora",
    about=About(
        "traditional decentralised LoRA",
        "arXiv 2106.09685 with gossip; the update of Dec-LoRA, arXiv 2501.15361",
        mixed="each by gossip over all neighbours",
    ),
)
FFA = MethodEntry(
    baselines.FfaConfig,
    f"{_HERE}.ffa:Ffa",
    MethodSpec(trains=("b",)),
    About(
        "FFA-LoRA: one common frozen A",
        "Sun et al. 2024, arXiv 2403.12313",
        trained="B under one common A",
        sent="B",
        mixed="gossip, exact",
        note="ConLoRA, a frozen A against consensus error (repository LuYuPromax/DFL-LORA), is this update.",
    ),
)
ROLORA = MethodEntry(
    baselines.RoloraConfig,
    f"{_HERE}.rolora:Rolora",
    MethodSpec(
        laws.alternating_factor, barrier="all devices train and send the same factor, A or B, at a time"
    ),
    About(
        "RoLoRA: A and B in turn",
        "Chen et al. 2024, arXiv 2409.02346",
        trained="A and B in turn",
        sent="the active factor",
        mixed="gossip",
        note="The paper's fresh optimiser a round is `method.fresh_optimizer`, for all methods alike.",
    ),
)
FEDSA = MethodEntry(
    baselines.FedsaConfig,
    f"{_HERE}.fedsa:Fedsa",
    MethodSpec(laws.shared_factor),
    About(
        "FedSA-LoRA: A shared, B personal",
        "Guo et al. 2024, arXiv 2410.01463",
        sent="A",
        mixed="gossip; B stays personal",
        note="Personalised: read its accuracy on a device's own tasks first.",
    ),
)
CHOCO = MethodEntry(
    baselines.ChocoConfig,
    f"{_HERE}.choco:Choco",
    MethodSpec(
        ChocoLaw,
        arrays=1,
        copies=True,
        barrier="both ends of a link move their copies of each other by every difference sent",
    ),
    About(
        "CHOCO-SGD: compressed differences to public copies",
        "Koloskova et al. 2019, arXiv 1902.00340",
        sent="top-k differences to public copies",
        mixed="CHOCO gossip",
    ),
)
FLORA = MethodEntry(
    baselines.FloraConfig,
    f"{_HERE}.flora:Flora",
    MethodSpec(
        feedback=False,
        own_base=True,
        heard=PRODUCTS_HEARD,
        barrier="a module is merged once, by all neighbours at a time, and then begun anew by its maker",
    ),
    About(
        "one-hop FLoRA: stacked modules merged into the own base",
        "Wang et al. 2024, arXiv 2409.05976",
        mixed="stacked and merged into the own base, then a new module",
        note="Modules reach direct neighbours only: not to be ranked as FLoRA, which has a server.",
    ),
)
FLEXLORA = MethodEntry(
    baselines.FlexloraConfig,
    f"{_HERE}.flexlora:Flexlora",
    MethodSpec(laws.ranked_module, feedback=False, heard=PRODUCTS_HEARD),
    About(
        "FlexLoRA: the mean product cut to the own rank",
        "Bai et al. 2024, arXiv 2402.11505; DeCAF, arXiv 2505.21382, without a server",
        mixed="mean product, cut to the own rank by SVD",
    ),
)
HETLORA = MethodEntry(
    baselines.HetloraConfig,
    f"{_HERE}.hetlora:Hetlora",
    MethodSpec(laws.ranked_module, feedback=False),
    About(
        "HetLoRA: ranks that may differ, weighed by the updates' norms",
        "Cho et al. 2024, arXiv 2401.06432",
        mixed="padded, weighed by the updates' norms, truncated",
        note="Its weights do not keep the plain mean; rank self-pruning is left out; equal ranks by default.",
    ),
)
LOCAL = MethodEntry(
    baselines.LocalConfig,
    f"{_HERE}.unsent:Unsent",
    MethodSpec(laws.silent, heard=0.0),
    About("every device for itself", "the lower reference", sent="nothing", mixed="not at all"),
)
CENTRALIZED = MethodEntry(
    baselines.CentralizedConfig,
    f"{_HERE}.unsent:Unsent",
    MethodSpec(laws.joint, heard=0.0, barrier="one learner takes the rows of all devices in every step"),
    About("one learner with everybody's rows", "the upper reference", sent="nothing", mixed="not at all"),
)


def method_entry(name: str) -> MethodEntry:
    """Find everything a method consists of.

    Args:
        name: Its name in `dfl_ray.methods.table`, or that of an installed package's entry point.

    Returns:
        Its entry.

    Raises:
        ValueError: There is none, or the package that has it cannot be imported or gives something else.
    """
    return METHODS[name]


def method_section(name: str) -> type[TrainingConfig]:
    """Find the config section of a method.

    Args:
        name: The method's name.

    Returns:
        The section's class, whose `type` is the name.

    Raises:
        ValueError: See `method_entry`.
        InputError: The section of an installed package's entry is not its own.
    """
    entry = method_entry(name)
    field = entry.section.model_fields.get("type")
    if field is None or get_args(field.annotation) != (name,) or field.default != name:
        raise InputError(
            f"The config section `{entry.section.__name__}` of the method `{name}` has another `type`",
            expected=f'type: Literal["{name}"] = "{name}"',
        )
    return entry.section


def make_method(context: Context) -> Method:
    """The method that the context's config section names."""
    return method_entry(context.config.name).make(context)
