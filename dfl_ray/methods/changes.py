"""How much of a message is new to its receiver: what `radio.priority: information` orders messages by.

With v the trained values that a message carries, and u those of the last message of the same kind and task that its
sender knows to have reached the receiver (0 before the first),

    change = |v - u| / max(|v|, |u|),  in [0, 2], in the Euclidean norm; 0 where both are 0,

rounded to float16. The first message to a receiver has 1, and so has one whose values cannot be compared: a sketch, a
projection, a mask, a bid, or values of another number than before. A sender knows both sides: it made v and u, and it
learns who got a message by the same acknowledgements by which it sends lost ones again, so that no byte travels for it.
What is not delivered is compared with an ever older u, so that a message that was put off gains weight.

v are the sender's own adapter of the task as it is when the message is made (after the local steps, and after what
`privacy` makes of it), or, of a published expert, its values as they were published. Rounding and sparsification on
the wire, error feedback and control variates are left out of it. So for a method that sends differences or products
(`choco`, `fedsrd`, `fedex`), v is still the adapter from which they are made; and a server's answer counts by the
change of the server's own adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dfl_ray.methods.laws import Planned


def change_of(now: np.ndarray, before: np.ndarray | None) -> float:
    """Size of the change between two vectors; see the module's text.

    Args:
        now: (n,) v.
        before: (n,) u; None for 0.

    Returns:
        The change in [0, 2], a float16's value.
    """
    if before is None or before.shape != now.shape:
        return 1.0
    new, old = now.astype(np.float64), before.astype(np.float64)
    # Sums in numpy's own order: they do not depend on where an array lies in memory.
    size = max(float(np.square(new).sum()), float(np.square(old).sum()))
    moved = float(np.square(new - old).sum())
    return float(np.float16(np.sqrt(moved / size))) if size > 0 else 0.0


@dataclass
class Told:
    """What a sender knows its receivers to have; empty unless `radio.priority` is `information`.

    Attributes:
        values: (kind, task, version) -> (n,) float32, the values of messages that somebody has, or may come to have.
        reached: (kind, task, receiver) -> version of the last message that reached it.
    """

    values: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict)
    reached: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def changes(self, message: Planned, values: np.ndarray | None) -> tuple[float, ...]:
        """The change that a message carries for each of its destinations; its values are kept.

        Args:
            message: What the traffic law says of it.
            values: (n,) its values; None where they cannot be compared.

        Returns:
            A change a destination.
        """
        if values is None:
            return (1.0,) * len(message.destinations)
        about = (int(message.kind), message.task)
        had = [self.reached.get((*about, to)) for to in message.destinations]
        found = {
            version: change_of(values, None if version is None else self.values[(*about, version)])
            for version in set(had)
        }
        self.values[(*about, message.version)] = np.array(values, np.float32)
        return tuple(found[version] for version in had)

    def arrived(self, message: Planned, receivers: Sequence[int]) -> None:
        """The sender learns who has got a message; twice is as good as once.

        Args:
            message: What the traffic law said of it.
            receivers: Those of its destinations that have it.
        """
        if (int(message.kind), message.task, message.version) in self.values:
            for to in receivers:
                self.reached[int(message.kind), message.task, to] = message.version

    def forget(self, under_way: Sequence[Planned] = ()) -> None:
        """Let go of values that nobody has.

        Args:
            under_way: Messages of which it is not yet known who gets them.
        """
        needed = {(kind, task, version) for (kind, task, _), version in self.reached.items()}
        needed |= {(int(m.kind), m.task, m.version) for m in under_way}
        self.values = {key: values for key, values in self.values.items() if key in needed}
