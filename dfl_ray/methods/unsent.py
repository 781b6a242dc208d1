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

from dfl_ray.methods.base import Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.shared import SharedAdapter


@final
class Unsent(SharedAdapter[MethodState]):
    """Training without messages; see the module's text.

    Whose rows a device trains on is said by the traffic law (`laws.SilentLaw`).

    Args:
        context: The run.
    """

    def memory(self, device: int) -> MethodState:
        """Nothing but what every method keeps."""
        return MethodState(self.law.start(device))

    def outgoing(self, device: Device[MethodState], round_index: int) -> list[Outgoing]:
        """Nothing."""
        return []

    def incoming(
        self,
        device: Device[MethodState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Nothing is expected; whatever comes is foreign."""
        return Counter(foreign=len(received)) if received else Counter()
