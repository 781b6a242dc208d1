"""`config.yaml` of a run folder, as it is read: a file that was edited or garbled is refused in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError

SECTIONS = ("devices", "method", "topology")
WHOLE = ("seed", "rounds")
"""Keys by which every list, report and figure tells runs apart or counts; those of sections are mappings."""

LARGEST = 2**63


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration that a run keeps of itself, without the time that its whole check takes.

    Args:
        path: The run folder.

    Returns:
        Plain data. Sections are mappings, `seed`, `rounds` and `devices.count` whole numbers and `method.type` a text,
        as far as they are there.

    Raises:
        InputError: Missing, no text, no YAML, or of another form.
    """
    from dfl_ray.config.yamlio import YAMLError, parse, place_and_reason

    try:
        config = parse((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, "cannot be read", str(error)) from error
    except YAMLError as error:
        place, reason = place_and_reason(error)
        raise _damaged(path, f"is not YAML{place}", reason) from error
    wrong = _wrong(config)
    if wrong:
        raise _damaged(path, "is not a run's configuration", wrong)
    return config


def _wrong(config: Any) -> str:
    """What is of another form than a run writes it; empty where nothing is."""
    if not isinstance(config, dict):
        return "an empty file" if config is None else "no mapping"
    for name in SECTIONS:
        if not isinstance(config.get(name, {}), dict):
            return f"`{name}` is no mapping"
    counted = {name: config.get(name, 0) for name in WHOLE}
    counted["devices.count"] = config.get("devices", {}).get("count", 0)
    for name, value in counted.items():
        if type(value) is not int or not 0 <= value < LARGEST:
            return f"`{name}` is no whole number"
    return "" if isinstance(config.get("method", {}).get("type", ""), str) else "`method.type` is no text"


def _damaged(path: Path, what: str, got: str) -> InputError:
    return InputError(
        f"{path / 'config.yaml'} {what}", got=got, change="Restore the file, or give another run folder."
    )
