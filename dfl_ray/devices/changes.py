"""How much is new in the messages of a device, and what it remembers for that; see `methods.changes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dfl_ray.methods.base import Delivery, Device, Outgoing
from dfl_ray.wire.message import Kind


def message_changes(device: Device[Any], messages: Sequence[Outgoing]) -> list[tuple[float, ...]]:
    """The change that each message carries for each of its destinations.

    Args:
        device: The sender, which keeps the messages' values until it is known who got them.
        messages: Its messages, as they were made.

    Returns:
        For each message a change a destination.
    """
    return [device.memory.told.changes(out.planned, _values(device, out)) for out in messages]


def _values(device: Device[Any], out: Outgoing) -> np.ndarray | None:
    """(size,) what a message says of trained values: its own account, or the adapter; None for other content."""
    if out.values is not None:
        return out.values()
    task = out.planned.task
    if out.planned.kind is not Kind.ADAPTER or task not in device.adapter_tasks:
        return None
    return device.state.theta[device.adapter_tasks.index(task)].cpu().numpy()


def settle(device: Device[Any], sent: Sequence[Delivery]) -> None:
    """Remember who got a device's messages, and let go of what nobody has.

    Args:
        device: The sender; what it has under way (`Device.waiting`) is kept.
        sent: What became of its messages.
    """
    told = device.memory.told
    for delivery in sent:
        told.arrived(delivery.planned, delivery.reached)
    told.forget([fate.planned for fate in device.waiting.fates.values()])
