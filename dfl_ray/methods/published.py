"""Published updates: the bytes that one author publishes for many, and that devices pass on along a tree.

Who passes what on to whom and when is the traffic law's (`methods.expert_law`); here the bytes are kept beside it.
"""

from __future__ import annotations

import numpy as np

from dfl_ray.methods.base import MethodState
from dfl_ray.methods.laws import Planned
from dfl_ray.wire.message import Kind, Message, maker_of, unpack


def held(memory: MethodState, kind: Kind, task: int) -> Message | None:
    """The published update a device holds, decoded, or None."""
    data = memory.updates.get((kind, task))
    return None if data is None else unpack(data.tobytes())


def maker(memory: MethodState, kind: Kind, task: int) -> tuple[int, int] | None:
    """Author and version of the published update a device holds, or None; its body, which is large, is not read."""
    data = memory.updates.get((kind, task))
    return None if data is None else maker_of(data.data)


def store(memory: MethodState, message: Message, data: bytes) -> None:
    """Keep the bytes of an update in place of the one before."""
    memory.updates[int(message.kind), message.task] = np.frombuffer(data, np.uint8)


def as_planned(message: Message, payload_bytes: int, *, kept: int = 0, in_force: int = 0) -> Planned:
    """Describe a decoded update as the traffic law does.

    Args:
        message: The update.
        payload_bytes: Its encoded length, in bytes.
        kept: Entries its mask keeps.
        in_force: Round in which its mask comes into force.

    Returns:
        The description, without destinations.
    """
    return Planned(
        message.kind, message.task, (), payload_bytes, message.version, kept=kept, in_force=in_force
    )
