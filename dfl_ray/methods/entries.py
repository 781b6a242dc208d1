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
from dfl_ray.methods.expert_law import ExpertLaw
from dfl_ray.methods.spec import MethodSpec
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
    """

    section: type[TrainingConfig]
    place: str
    spec: MethodSpec = field(default_factory=MethodSpec)

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

SPARSE_ORTHOGONAL = MethodEntry(
    SparseOrthogonalConfig,
    f"{_HERE}.sparse_orthogonal:SparseOrthogonal",
    MethodSpec(ExpertLaw, _COMPARED[0], RULES.own, _COMPARED, ("b",), True, True),
)
_TRAINED = MethodSpec(ExpertLaw, "likelihood", ROUTED_RULES, ("likelihood", "oracle"), ("a", "b"), True, True)
DLORA_PER_TASK = MethodEntry(DloraPerTaskConfig, f"{_HERE}.per_task:DloraPerTask", _TRAINED)
FFA_PER_TASK = MethodEntry(FfaPerTaskConfig, f"{_HERE}.per_task:FfaPerTask", replace(_TRAINED, trains=("b",)))
LOCAL_PER_TASK = MethodEntry(LocalPerTaskConfig, f"{_HERE}.per_task:DloraPerTask", _TRAINED)
DLORA = MethodEntry(baselines.DloraConfig, f"{_HERE}.dlora:Dlora")
FFA = MethodEntry(baselines.FfaConfig, f"{_HERE}.ffa:Ffa", MethodSpec(trains=("b",)))
ROLORA = MethodEntry(
    baselines.RoloraConfig,
    f"{_HERE}.rolora:Rolora",
    MethodSpec(
        laws.alternating_factor, barrier="all devices train and send the same factor, A or B, at a time"
    ),
)
FEDSA = MethodEntry(baselines.FedsaConfig, f"{_HERE}.fedsa:Fedsa", MethodSpec(laws.shared_factor))
CHOCO = MethodEntry(
    baselines.ChocoConfig,
    f"{_HERE}.choco:Choco",
    MethodSpec(
        laws.ChocoLaw, barrier="both ends of a link move their copies of each other by every difference sent"
    ),
)
FLORA = MethodEntry(
    baselines.FloraConfig,
    f"{_HERE}.flora:Flora",
    MethodSpec(
        feedback=False,
        barrier="a module is merged once, by all neighbours at a time, and then begun anew by its maker",
    ),
)
FLEXLORA = MethodEntry(
    baselines.FlexloraConfig, f"{_HERE}.flexlora:Flexlora", MethodSpec(laws.ranked_module, feedback=False)
)
HETLORA = MethodEntry(
    baselines.HetloraConfig, f"{_HERE}.hetlora:Hetlora", MethodSpec(laws.ranked_module, feedback=False)
)
LOCAL = MethodEntry(baselines.LocalConfig, f"{_HERE}.unsent:Unsent", MethodSpec(laws.silent))
CENTRALIZED = MethodEntry(
    baselines.CentralizedConfig,
    f"{_HERE}.unsent:Unsent",
    MethodSpec(laws.joint, barrier="one learner takes the rows of all devices in every step"),
)


def method_entry(name: str) -> MethodEntry:
    """Find everything a method consists of.

    Args:
        name: Its name in `dfl_ray.methods.table`, or that of an installed package's entry point.

    Returns:
        Its entry.

    Raises:
        InputError: The entry point of an installed package gives something else.
    """
    entry = METHODS[name]
    if not isinstance(entry, MethodEntry):
        raise InputError(
            f"The method `{name}` of an installed package is not usable",
            got=f"its entry point gives a {type(entry).__name__}",
            expected="a dfl_ray.methods.entries.MethodEntry",
        )
    return entry


def method_section(name: str) -> type[TrainingConfig]:
    """Find the config section of a method.

    Args:
        name: The method's name.

    Returns:
        The section's class, whose `type` is the name.

    Raises:
        InputError: The entry of an installed package is not a `MethodEntry`, or its section is not its own.
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
