"""Which expert a device answers with, how old it is, and which experts the router chose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dfl_ray.methods.base import Expert

Choices = dict[tuple[int, int], np.ndarray]
"""(device, task) -> for each held-out row the task whose expert answers, or `routing.OPEN`."""

NOBODY = -1
"""In place of an author or a version: there is none."""


def holdings(experts: Mapping[tuple[int, int], Expert | None]) -> dict[str, list[object]]:
    """List what each device answers with.

    Args:
        experts: (device, task) -> the expert, or None.

    Returns:
        Columns device, task, author and version, one row a pair; `NOBODY` where there is none. See `Expert.origin`.
    """
    out: dict[str, list[object]] = {name: [] for name in ("device", "task", "author", "version")}
    for (device, task), expert in experts.items():
        replica = expert is not None and expert.origin[0] == "replica"
        author = NOBODY if expert is None else int(expert.origin[2] if replica else expert.origin[1])
        version = int(expert.origin[3]) if replica and expert is not None else NOBODY
        for column, value in zip(out.values(), (device, task, author, version), strict=True):
            column.append(value)
    return out


def confusions(routed: Mapping[str, Choices]) -> dict[str, list[object]]:
    """Count which expert each rule chose for the rows of each task.

    Args:
        routed: Rule -> (device, task) -> for each held-out row the task of the chosen expert; negative = open.

    Returns:
        Columns device, rule, task, chosen and rows, one row for each pair that occurs.
    """
    out: dict[str, list[object]] = {name: [] for name in ("device", "rule", "task", "chosen", "rows")}
    counted: dict[int, list[tuple[int, int]]] = {}  # devices that choose alike share the array
    for rule, choices in routed.items():
        for (device, task), chosen in choices.items():
            if id(chosen) not in counted:
                found, counts = np.unique(chosen[chosen >= 0], return_counts=True)
                counted[id(chosen)] = list(zip(found.tolist(), counts.tolist(), strict=True))
            for other, rows in counted[id(chosen)]:
                for column, value in zip(out.values(), (device, rule, task, other, rows), strict=True):
                    column.append(value)
    return out
