"""The methods by name.

Adding one is a file in this folder, a config section and a line here; one that is not a single adapter a device with
both factors stored also has its line in `dfl_ray.methods.spec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dfl_ray.methods.base import Context, Method
from dfl_ray.methods.choco import Choco
from dfl_ray.methods.dlora import Dlora
from dfl_ray.methods.fedsa import Fedsa
from dfl_ray.methods.ffa import Ffa
from dfl_ray.methods.flexlora import Flexlora
from dfl_ray.methods.flora import Flora
from dfl_ray.methods.hetlora import Hetlora
from dfl_ray.methods.rolora import Rolora
from dfl_ray.methods.sparse_orthogonal import SparseOrthogonal
from dfl_ray.methods.unsent import Unsent

METHODS: Mapping[str, Callable[[Context], Method]] = MappingProxyType(
    {
        "sparse_orthogonal": SparseOrthogonal,
        "dlora": Dlora,
        "ffa": Ffa,
        "rolora": Rolora,
        "fedsa": Fedsa,
        "choco": Choco,
        "flora": Flora,
        "flexlora": Flexlora,
        "hetlora": Hetlora,
        "local": Unsent,
        "centralized": Unsent,
    }
)


def make_method(context: Context) -> Method:
    """The method that the context's config section names."""
    return METHODS[context.config.name](context)
