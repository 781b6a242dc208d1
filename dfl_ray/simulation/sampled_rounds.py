"""Which rounds of a run are planned where all would take too long, and what the plan then does not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.methods.laws import TrafficLaw

PLANNED_DEVICE_ROUNDS = 300_000
"""Device-rounds up to which all rounds are planned unless the user asks for fewer."""
FOLLOWED = 8
"""So many times as many are planned where what a round leaves decides on the next: batteries, or `stop`."""


def chosen_rounds(
    law: TrafficLaw, devices: int, rounds: int, wanted: int | None, *, followed: bool = False
) -> list[int]:
    """The rounds to plan: all, or evenly spread over those in which something new is sent.

    Args:
        law: What the method sends.
        devices: Number of devices.
        rounds: Number of rounds R.
        wanted: How many to plan; None plans as many as take a few minutes at most.
        followed: Whether what a round leaves decides on the next, so that more are planned.

    Returns:
        Round numbers from 1, ascending; fewer than wanted where fewer rounds send something new.
    """
    most = PLANNED_DEVICE_ROUNDS * (FOLLOWED if followed else 1)
    count = max(1, most // devices) if wanted is None else wanted
    if count >= rounds:
        return list(range(1, rounds + 1))
    busy = [r for r in range(1, rounds + 1) if law.busy(r)] or list(range(1, rounds + 1))
    places = np.unique(np.linspace(0, len(busy) - 1, min(count, len(busy))).round().astype(int))
    return [busy[p] for p in places.tolist()]


def goes_on(config: Config, battery_j: np.ndarray) -> list[str]:
    """Say what of a configuration goes on from round to round, so that it is followed only where none is left out.

    Args:
        config: The experiment.
        battery_j: (devices,) batteries in J, inf for none.

    Returns:
        Batteries and keys of `stop`, in words.
    """
    stop = [f"`stop.{key}`" for key in ("simulated_s", "joules") if getattr(config.stop, key) is not None]
    return [*(["batteries"] if np.isfinite(battery_j).any() else []), *stop]


def sampled_note(planned: int, rounds: int, followed: Sequence[str]) -> str:
    """Say how many rounds a plan has, and what it does not see in the others.

    Args:
        planned: Rounds that are planned.
        rounds: Rounds of the run.
        followed: What `goes_on` found.
    """
    lost = f". What the others take does not count for {' and '.join(followed)}: the run may end earlier"
    return (
        f"{planned} of {rounds} rounds are planned, evenly spread over those in which something new is sent; in the "
        "others everything is taken to arrive, at the planned rounds' cost a byte"
        + (lost if followed else "")
    )
