"""dfl-ray: wireless devices that fine-tune one language model together without a server, simulated on Ray.

`load_run(path)` gives the records of a run as pandas tables. All else is reached through its own module.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.version import VERSION as __version__

if TYPE_CHECKING:
    from dfl_ray.records import load_run

__all__ = ["__version__", "load_run"]

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
    """Import `load_run` when it is first asked for: pandas takes longer to import than `--help` may take."""
    if name == "load_run":
        from dfl_ray.records import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_refuse_foreign_neighbours()
