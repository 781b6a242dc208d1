"""The methods by name: adding one is a file in this folder, a config section and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dfl_ray.config.methods import TrainingConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.base import Context, Method
from dfl_ray.methods.choco import Choco
from dfl_ray.methods.dlora import Dlora
from dfl_ray.methods.fedsa import Fedsa
from dfl_ray.methods.ffa import Ffa
from dfl_ray.methods.flexlora import Flexlora
from dfl_ray.methods.flora import Flora
from dfl_ray.methods.hetlora import Hetlora
from dfl_ray.methods.rolora import Rolora
from dfl_ray.methods.shared import SharedAdapter
from dfl_ray.methods.sparse_orthogonal import SparseOrthogonal
from dfl_ray.methods.unsent import centralized, local


@dataclass(frozen=True)
class Entry:
    """One method: its class, and what the driver must know of it without making it.

    Attributes:
        make: Makes the method.
        rules: Inference rules it can be asked by.
        compared: Those compared at the end of a run unless `evaluate.rules` names others (`all` = all).
        trains: Factors stored in an adapter.
        per_task: Whether devices mix inside tasks (else over the whole graph).
    """

    make: Callable[[Context], Method]
    rules: tuple[str, ...]
    compared: tuple[str, ...]
    trains: tuple[Factor, ...]
    per_task: bool


def _shared(make: Callable[[Context], Method], trains: tuple[Factor, ...] = ("a", "b")) -> Entry:
    return Entry(make, SharedAdapter.rules, SharedAdapter.rules, trains, False)


METHODS: Mapping[str, Entry] = MappingProxyType(
    {
        "sparse_orthogonal": Entry(
            SparseOrthogonal, SparseOrthogonal.rules, SparseOrthogonal.compared, ("b",), True
        ),
        "dlora": _shared(Dlora),
        "ffa": _shared(Ffa, ("b",)),
        "rolora": _shared(Rolora),
        "fedsa": _shared(Fedsa),
        "choco": _shared(Choco),
        "flora": _shared(Flora),
        "flexlora": _shared(Flexlora),
        "hetlora": _shared(Hetlora),
        "local": _shared(local),
        "centralized": _shared(centralized),
    }
)


@dataclass(frozen=True)
class Facts:
    """What the driver must know of the configured method; `rule` is the one its accuracy is reported by."""

    rule: str
    rules: tuple[str, ...]
    compared: tuple[str, ...]
    trains: tuple[Factor, ...]
    per_task: bool


def method_facts(config: TrainingConfig) -> Facts:
    """Facts of the configured method."""
    section: Any = config
    entry = METHODS[section.type]
    rule = getattr(section, "rule", entry.rules[0])
    return Facts(rule, entry.rules, entry.compared, entry.trains, entry.per_task)


def make_method(context: Context) -> Method:
    """The method that the context's config section names."""
    section: Any = context.config
    return METHODS[section.type].make(context)
