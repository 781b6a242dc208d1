"""Published updates: what one author publishes for many, stored and forwarded along a tree, one hop a round.

A device passes the newest published update of each (kind, task) to its children in the author's tree until the link has
acknowledged it; a lost hop is simply tried again next round, a newer version overtakes an older one.
"""

from __future__ import annotations

import numpy as np

from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.wire.message import Kind, Message, pack, unpack


def _slot(kind: Kind, task: int) -> str:
    return f"published/{kind.name}/{task}"


def _ack(kind: Kind, task: int, child: int) -> str:
    return f"ack/{kind.name}/{task}/{child}"


def publish(device: Device, message: Message) -> None:
    """Put an author's own new published update in place."""
    _store(device, message, pack(message))


def _store(device: Device, message: Message, data: bytes) -> None:
    device.memory[_slot(message.kind, message.task)] = np.frombuffer(data, np.uint8)
    device.marks[_slot(message.kind, message.task)] = message.version


def held_version(device: Device, kind: Kind, task: int) -> int:
    """Version of the published update a device holds, or -1."""
    return device.marks.get(_slot(kind, task), -1)


def held(device: Device, kind: Kind, task: int) -> Message | None:
    """The published update a device holds, decoded, or None."""
    data = device.memory.get(_slot(kind, task))
    return None if data is None else unpack(data.tobytes())


def accept(device: Device, message: Message) -> bool:
    """Keep a received published update if it is newer than what is held; says whether it was."""
    if message.version <= held_version(device, message.kind, message.task):
        return False
    _store(device, message, pack(message))
    return True


def forward(device: Device, context: Context, kinds: tuple[Kind, ...]) -> list[Outgoing]:
    """The published updates a device still owes to its children, one message each."""
    out: list[Outgoing] = []
    for task in range(context.tasks):
        author = context.graph.authority.get((task, device.index))
        if author is None:
            continue
        for kind in kinds:
            trees = context.graph.holders if kind is Kind.MASK else context.graph.everyone
            children = trees[task, author].children.get(device.index, ())
            version = held_version(device, kind, task)
            behind = tuple(c for c in children if device.marks.get(_ack(kind, task, c), -1) < version)
            if behind:
                data = device.memory[_slot(kind, task)].tobytes()
                out.append(Outgoing(kind, task, behind, data))
    return out


def note_delivered(device: Device, delivery: Delivery) -> None:
    """Remember which children have acknowledged which version."""
    for child in delivery.reached:
        device.marks[_ack(delivery.kind, delivery.task, child)] = delivery.version
