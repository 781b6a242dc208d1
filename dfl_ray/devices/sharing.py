"""Equal published updates held once: devices that hold the same version of an expert, sketch or mask share its bytes.

A published update reaches every device of its tree as the same bytes, so a group of thousands would hold thousands of
copies of a few dozen messages. Published updates are read-only once stored; only the reference is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dfl_ray.methods.base import Device


class SharedUpdates:
    """Keeps one array for every distinct published update that some device of the group holds."""

    def __init__(self) -> None:
        self._known: dict[bytes, np.ndarray] = {}

    def share(self, devices: Iterable[Device[Any]]) -> None:
        """Let equal published updates of these devices be the same array, and forget those nobody holds any more.

        Args:
            devices: All devices of the group; their memory is changed in place.
        """
        known = {id(array): key for key, array in self._known.items()}
        kept: dict[bytes, np.ndarray] = {}
        for device in devices:
            updates = device.memory.updates
            for name, array in list(updates.items()):
                key = known.get(id(array)) or array.tobytes()
                if key not in kept:
                    kept[key] = self._known.get(key, array)
                updates[name] = kept[key]
                known[id(kept[key])] = key
        self._known = kept
