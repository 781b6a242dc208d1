"""What `run.json` may hold, as it is read: a file that was edited or garbled is refused in one place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict


class Fingerprint(TypedDict):
    """What a run began with; see `simulation.fingerprint`."""

    config: dict[str, Any]
    rows: dict[str, str]
    uncut: NotRequired[dict[str, str]]
    taught: NotRequired[dict[str, str]]
    weights: str
    warm_start: NotRequired[str]
    files: NotRequired[dict[str, str]]
    code: dict[str, str]


class Faults(TypedDict):
    """Who is faulty and how, and how far a backdoor came after each evaluated round."""

    kind: str
    from_round: int
    devices: list[int]
    attack_success: NotRequired[dict[str, float]]


class Privacy(TypedDict):
    """What privacy a run has spent: device -> epsilon; null and `why` where it is not known."""

    mechanism: str
    hidden: str
    delta: float
    epsilon: dict[str, float] | None
    why: NotRequired[str]


class Host(TypedDict, total=False):
    """The machine of a run."""

    system: str
    machine: str
    cpus: int
    memory_bytes: float


class Git(TypedDict):
    """The checkout that a run's code came from."""

    commit: str | None
    dirty: NotRequired[bool]


class RunInfo(TypedDict, total=False):
    """Keys of `run.json` that are read; others are left alone."""

    schema_version: int
    name: str
    state: str
    started_at: str | None
    ended_at: str | None
    restarts: int
    forked_actors: int
    command: list[str]
    versions: dict[str, str | None]
    git: Git | None
    host: Host | None
    wandb: dict[str, str | None] | None
    fingerprint: Fingerprint
    warnings: list[str]
    changes: list[str]
    scores: dict[str, dict[str, Any]]
    lengthened: list[int]
    ended_after: list[int]
    ended_early_after: int
    early_ends: list[int]
    stopped_by: str
    failed_by: str
    faults: Faults
    privacy: Privacy
    adapters_of_device: dict[str, int]
    adapters_after: int


@lru_cache(maxsize=1)
def _form() -> TypeAdapter[RunInfo]:
    return TypeAdapter(RunInfo)


def check_info(info: Mapping[str, Any]) -> None:
    """Refuse a `run.json` whose parts are not what they are read as.

    Args:
        info: What it holds.

    Raises:
        ValueError: It names the first such key, what it should be and what it is.
    """
    try:
        _form().validate_python(info, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"`{key}`: {said}, and it is {str(first['input'])[:60]!r}") from None
