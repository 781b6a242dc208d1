"""`star`: everyone linked with one device."""

from typing import Annotated

import numpy as np

from topology.graphs import GraphInput, GraphLinks
from topology.registry import Within


def star(inputs: GraphInput, *, centre: Annotated[int, Within(ge=0)] = 0) -> GraphLinks:
    """Link everyone with one device, where the radio can carry it.

    Args:
        inputs: Devices and candidate links.
        centre: The device in the middle.
    """
    if centre >= inputs.nodes:
        raise ValueError(f"centre must be a device, 0 to {inputs.nodes - 1}, got {centre}")
    others = np.delete(np.arange(inputs.nodes), centre)
    edges = np.stack([np.full(len(others), centre), others], axis=1)
    return GraphLinks(edges[inputs.possible(edges)])
