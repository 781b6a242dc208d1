"""The two references that send nothing: every device for itself, and one learner with everybody's rows.

`local` is the lower reference: what a device reaches alone (collaboration gain is measured against it).
`centralized` is the upper one: device 0 takes, in every step, the rows that all devices would have drawn, so it
makes as many optimiser steps on N times the rows; the other devices have no model and aren't asked. The rows would
have to reach it somehow: its cost on air is recorded as none, which is not a result but the absence of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import torch

from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.methods.shared import SharedAdapter

LEARNER = 0


@final
class Unsent(SharedAdapter):
    """See the module's text.

    Args:
        context: The run.
        joint: Whether one device learns from all devices' rows.
    """

    def __init__(self, context: Context, *, joint: bool) -> None:
        everyone = tuple(sorted(context.held))
        super().__init__(context, sources=(lambda d: everyone if d == LEARNER else ()) if joint else None)

    def begin(self, device: Device, round_index: int) -> None:
        """Nothing to prepare."""

    def keep(self, device: Device, round_index: int) -> torch.Tensor | None:
        """Everything may change."""
        return None

    def outgoing(self, device: Device, round_index: int) -> list[Outgoing]:
        """Nothing."""
        return []

    def incoming(
        self,
        device: Device,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Nothing is expected; whatever comes is foreign."""
        return Counter(foreign=len(received)) if received else Counter()


def local(context: Context) -> Unsent:
    """Every device for itself."""
    return Unsent(context, joint=False)


def centralized(context: Context) -> Unsent:
    """One learner with everybody's rows."""
    return Unsent(context, joint=True)
