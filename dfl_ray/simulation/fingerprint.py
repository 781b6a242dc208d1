"""What a run's result depends on, in short: kept in `run.json`, and compared when the run is gone on with.

A run that is resumed equals one that was never stopped only under the same configuration, rows, weights and code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.changeable import MAY_CHANGE
from dfl_ray.config.option_files import option_files
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.methods.fault_table import FAULTS
from dfl_ray.version import VERSION

if TYPE_CHECKING:
    from dfl_ray.simulation.experiment import Experiment

KEY = "fingerprint"
"""Name of the fingerprint in `run.json`."""
SHOWN = 6
"""Differences that are named; of more only the number is told."""


def config_values(config: Config) -> dict[str, Any]:
    """The keys of a configuration that no resume may change, with their values.

    Args:
        config: The experiment.

    Returns:
        Dotted key -> JSON value.
    """
    return _values(config, without_defaults=False)


def _values(config: Config, *, without_defaults: bool) -> dict[str, Any]:
    found = config.model_dump(mode="json", exclude={*MAY_CHANGE, "name"}, exclude_defaults=without_defaults)
    return dict(_flat(found, ""))


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            # As JSON gives it back: infinities and all.
            yield f"{before}{name}", json.loads(json.dumps(value))


def fingerprint(experiment: Experiment) -> dict[str, Any]:
    """Configuration, rows, weights and code of an experiment.

    Args:
        experiment: The run.

    Returns:
        `config` (dotted key -> value), `rows` (task -> SHA-256 of its token rows, as they are cut and scored), `uncut`
        (task -> SHA-256 of its tokens, the same by every score), `taught` (task -> SHA-256 of the labels that faulty
        devices learn by, where some do), `weights` (SHA-256), `warm_start` (SHA-256, where there is one), `files` (key
        of the configuration that names a file -> SHA-256) and `code`
        (`version` and `sources`, SHA-256 of the packages' source files).
    """
    setup, faults = experiment.setup, experiment.config.devices.faults
    teaches = faults.share > 0 and (FAULTS[faults.kind].flips_labels or FAULTS[faults.kind].backdoor)
    return {
        "config": config_values(experiment.config),
        "rows": {
            task.name: _digest(task.train, task.test, task.choices, task.labels) for task in setup.tasks
        },
        "uncut": {task.name: task.uncut for task in setup.tasks},
        **({"taught": {task.name: _digest(task.choices) for task in setup.tasks}} if teaches else {}),
        "weights": _digest(
            setup.weights.config_json,
            setup.weights.arrays,
            setup.weights.buffers,
            *({name: [t.packed, t.absmax]} for name, t in setup.weights.four_bit.items()),
        ),
        "files": file_digests(experiment.config),
        **({} if setup.warm is None else {"warm_start": _digest(sorted(setup.warm.factors.items()))}),
        "code": {"version": VERSION, "sources": source_digest(Path(__file__).resolve().parents[2])},
    }


def file_digests(config: Config) -> dict[str, str]:
    """SHA-256 of the files that a configuration names.

    Args:
        config: The experiment.

    Returns:
        Key of the configuration that names a file -> hexadecimal digits.
    """
    return {key: file_digest(Path(path)) for key, path in option_files(config).items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, however large it is.

    Args:
        path: The file; `~` is the user's home.

    Returns:
        Hexadecimal digits.
    """
    with path.expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(root: Path) -> str:
    """SHA-256 over the source files of the four packages, by name and content.

    Args:
        root: Folder that holds the packages.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for package in ("actors", "channels", "dfl_ray", "topology"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    """Take in arrays by type, shape and content, mappings by key, sequences and records part by part."""
    if isinstance(part, np.ndarray):
        digest.update(f"{part.dtype.str}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    elif isinstance(part, Mapping):
        for name in sorted(part):
            digest.update(f"{name}\0".encode())
            _feed(digest, part[name])
    elif isinstance(part, tuple | list):
        digest.update(f"[{len(part)}".encode())
        for item in part:
            _feed(digest, item)
    elif hasattr(part, "__dataclass_fields__"):
        _feed(digest, {name: getattr(part, name) for name in part.__dataclass_fields__})
    else:
        digest.update(f"{part!r}\0".encode())


def refuse_changed_config(path: Path, recorded: Mapping[str, Any], config: Config) -> None:
    """Refuse a `config.yaml` that was changed since the run was started, before anything is read or started.

    A key that the run's dfl-ray did not know yet is no difference at its default.

    Args:
        path: The run folder.
        recorded: What its `run.json` holds; one of an older version has no fingerprint and passes.
        config: What its `config.yaml` says.

    Raises:
        InputError: It names the keys with both values.
    """
    kept = recorded.get(KEY)
    if kept is None:
        return
    now, chosen = config_values(config), _values(config, without_defaults=True)
    now = {key: value for key, value in now.items() if key in kept["config"] or key in chosen}
    differences = [
        f"`{key}` was {_shown(kept['config'].get(key))} and is {_shown(now.get(key))}"
        for key in sorted({*kept["config"], *now})
        if kept["config"].get(key) != now.get(key)
    ]
    _refuse(path, differences, "Restore config.yaml, or start another run for another experiment.")


def refuse_changed_inputs(
    path: Path, recorded: Mapping[str, Any], found: Mapping[str, Any], *, goes_on: bool = True
) -> None:
    """Refuse to go on with a run, or to ask its saved state, on other rows, other weights or other code.

    Args:
        path: The run folder.
        recorded: See `refuse_changed_config`.
        found: The fingerprint of what is there now.
        goes_on: Whether the run trains on. What only reads it may be newer than it, and needs no attacker's labels.

    Raises:
        InputError: It names what differs.
    """
    kept = recorded.get(KEY)
    if kept is None:
        return
    differences = _other_rows(kept, found)
    if goes_on and "uncut" in kept and kept.get("taught") != found.get("taught"):
        differences.append("the labels that faulty devices learn by are others, which follow from the score")
    if kept["weights"] != found["weights"]:
        differences.append("the weights of the base model are others")
    files = kept.get("files", found["files"])  # older versions kept none
    differences += [
        f"the file of `{key}` is another"
        for key in sorted({*files, *found["files"]})
        if files.get(key) != found["files"].get(key)
    ]
    if kept.get("warm_start") != found.get("warm_start"):
        differences.append("the adapter of `model.warm_start` is another")
    if goes_on and kept["code"] != found["code"]:
        commit = (recorded.get("git") or {}).get("commit") or "unknown"
        same = kept["code"]["version"] == VERSION
        what = "its source files differ" if same else f"it was {kept['code']['version']} and is {VERSION}"
        differences.append(f"the code of dfl-ray has changed: {what} (the run's commit: {commit})")
    _refuse(
        path,
        differences,
        "Restore the data, the model folder or the code, or start another run. "
        "`dfl-ray resume --changed` goes on all the same and notes it in run.json."
        if goes_on
        else "Restore the data or the model folder.",
        goes_on=goes_on,
    )


def _other_rows(kept: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The tasks whose rows are others, each in words; older runs noted rows and scores as one."""
    older = "uncut" not in kept
    name, what = ("rows", "rows or the score") if older else ("uncut", "rows")
    return [
        f"the {what} of task `{task}` are others"
        for task in sorted({*kept[name], *found[name]})
        if kept[name].get(task) != found[name].get(task)
    ]


def _refuse(path: Path, differences: list[str], change: str, *, goes_on: bool = True) -> None:
    if not differences:
        return
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    raise InputError(
        f"The run {path} cannot be {'gone on with' if goes_on else 'read'} as it was begun",
        got="; ".join(differences[:SHOWN]) + more,
        expected=f"the configuration, rows{', weights and code' if goes_on else ' and weights'} it was started with",
        change=change,
    )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
