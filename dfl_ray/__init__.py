"""dfl-ray: wireless devices that fine-tune one language model together without a server, simulated on Ray.

`run(load_config(...))` runs an experiment and returns its `Run`, `resume` goes on with one, `plan` says what it would
cost, and `load_run(path)` gives the records of an earlier run as pandas tables. All else is reached through its own
module.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.version import VERSION as __version__

if TYPE_CHECKING:
    from dfl_ray.config.load import load_config
    from dfl_ray.records import Run, load_run
    from dfl_ray.simulation.library import plan, resume, run

__all__ = ["Run", "__version__", "load_config", "load_run", "plan", "resume", "run"]

_LAZY = {
    "Run": "dfl_ray.records",
    "load_config": "dfl_ray.config.load",
    "load_run": "dfl_ray.records",
    "plan": "dfl_ray.simulation.library",
    "resume": "dfl_ray.simulation.library",
    "run": "dfl_ray.simulation.library",
}

_NEIGHBOURS = ("topology", "channels", "actors")


def _refuse_foreign_neighbours() -> None:
    """Raise ImportError if one of our top-level packages is somebody else's (docs/adr/0001).

    The names are generic (Django Channels is `channels`); the first one on `sys.path` is imported.
    """
    home = Path(__file__).resolve().parent.parent
    for name in _NEIGHBOURS:
        found = _location(name)
        if found != home / name:
            got = f"is {found}, which is not part of dfl-ray" if found else "cannot be found"
            raise ImportError(
                f"The package `{name}` {got}; dfl-ray needs its own at {home / name}. Give "
                f"dfl-ray an environment of its own, or remove the other `{name}` from sys.path.",
                name=name,
                path=str(found) if found else None,
            )


def _location(name: str) -> Path | None:
    """Folder that `import name` would take, without importing it; None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        # A module put into sys.modules by hand has no spec.
        spec = None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.origin else [])
    return Path(places[0]).resolve() if places else None


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first asked for: pandas takes longer to import than `--help` may take."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_refuse_foreign_neighbours()
