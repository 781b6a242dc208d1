"""`middle`: the median of one's own values and those that arrived, entry by entry."""

import numpy as np

from dfl_ray.methods.aggregations import GOSSIP


class Middle:
    """Gossip whose mean is a median, which one wrong neighbour cannot move far; all else is gossip's."""

    def __getattr__(self, name):
        return getattr(GOSSIP, name)

    def mix(self, kept, own, arrived, mixing):
        """The median over the device and the neighbours that were heard of, (size,) float64."""
        return np.median(np.stack([own, *(a.values for a in arrived.values())]).astype(np.float64), axis=0)


MIDDLE = Middle()
