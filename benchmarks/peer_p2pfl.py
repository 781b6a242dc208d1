"""The reference workload in p2pfl's simulation; run by `peers` with the Python of p2pfl's own environment.

N nodes without a server, linked by p2pfl's in-memory protocol in a full graph, all of them in the train set in every
round. Each trains in p2pfl's pool of Ray actors, one for each processor, as p2pfl does by itself; the adapters travel
and are averaged by its FedAvg. A round has ended when the last node has ended it. The timeouts are p2pfl's standalone
settings with longer waits, since nodes must not give up on each other on a slow machine. One JSON object on the last
line.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from typing import Any

import numpy as np
import peer_work
from p2pfl.learning.frameworks.learner import Learner
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel

DEADLINE_S = 1800.0


class Adapters(P2PFLModel):
    """A node's adapters; the base stays with whoever trains."""

    def get_parameters(self) -> list[np.ndarray]:
        """The arrays."""
        return self.model

    def set_parameters(self, params: Any) -> None:
        """Take arrays, or a message."""
        if isinstance(params, bytes):
            params, self.additional_info = self.decode_parameters(params)
        self.model = [np.asarray(p, np.float32) for p in params]

    def build_copy(self, **given: Any) -> Adapters:
        """A model of its own."""
        return Adapters(copy.copy(self.model), **given)

    def get_framework(self) -> str:
        """What p2pfl calls it."""
        return "pytorch"


class Trainer(Learner):
    """Trains a node's adapters; evaluation is left out.

    Args:
        o: The work.
        number: The node.
    """

    def __init__(self, o: argparse.Namespace, number: int) -> None:
        super().__init__()
        self.o, self.number = o, number

    def fit(self) -> P2PFLModel:
        """Local steps."""
        model = self.get_model()
        model.set_parameters(peer_work.train(self.o, self.number, model.get_parameters()))
        model.set_contribution([self.addr], self.o.batch * self.o.steps)
        return model

    def interrupt_fit(self) -> None:
        """Nothing to interrupt."""

    def evaluate(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def get_framework(self) -> str:
        """What p2pfl calls it."""
        return "pytorch"


def settle(o: argparse.Namespace) -> None:
    """p2pfl's settings."""
    from p2pfl.settings import Settings
    from p2pfl.utils.utils import set_standalone_settings

    set_standalone_settings()
    Settings.general.LOG_LEVEL = "ERROR"
    Settings.training.RAY_ACTOR_POOL_SIZE = o.cpus
    Settings.training.VOTE_TIMEOUT = Settings.training.AGGREGATION_TIMEOUT = int(DEADLINE_S)
    Settings.heartbeat.TIMEOUT = DEADLINE_S


def simulate(o: argparse.Namespace) -> list[float]:
    """Run p2pfl; gives the time at which the last node ended each round."""
    from p2pfl.communication.protocols.protobuff.memory import MemoryCommunicationProtocol as InMemory
    from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset
    from p2pfl.management.logger import logger
    from p2pfl.node import Node
    from p2pfl.utils.topologies import TopologyFactory, TopologyType
    from p2pfl.utils.utils import wait_convergence

    settle(o)
    logger.set_level("ERROR")
    first, rows = peer_work.first_adapters(o), P2PFLDataset.from_pandas(_no_rows())
    nodes = [
        Node(Adapters(list(first)), rows, addr=f"node-{k}", learner=Trainer(o, k), protocol=InMemory())
        for k in range(o.devices)
    ]
    for node in nodes:
        node.start()
    TopologyFactory.connect_nodes(TopologyFactory.generate_matrix(TopologyType.FULL, len(nodes)), nodes)
    wait_convergence(nodes, len(nodes) - 1, wait=DEADLINE_S, only_direct=False)
    nodes[0].set_start_learning(rounds=o.rounds, epochs=1, trainset_size=o.devices)
    ends = watch(nodes, o.rounds)
    for node in nodes:
        node.stop()
    return ends


def _no_rows() -> Any:
    import pandas as pd

    return pd.DataFrame({"x": [0]})


def watch(nodes: list[Any], rounds: int) -> list[float]:
    """The time at which the last node ended each round."""
    ends: list[float] = []
    begun = [False] * len(nodes)
    deadline = time.time() + DEADLINE_S
    while len(ends) < rounds:
        if time.time() > deadline:
            raise RuntimeError(f"round {len(ends) + 1} had not ended after {DEADLINE_S:.0f} s")
        done = []
        for k, node in enumerate(nodes):
            current = node.state.round
            begun[k] = begun[k] or current is not None
            done.append(rounds if begun[k] and current is None else current or 0)
        ends += [time.time()] * (min(done) - len(ends))
        time.sleep(0.01)
    return ends


def main() -> None:
    """Command line."""
    import psutil

    warnings.filterwarnings("ignore")
    o = peer_work.options(__doc__)
    print(json.dumps(peer_work.figures(o, psutil.Process().create_time(), simulate(o))))


if __name__ == "__main__":
    peer_work.run_by_name(__file__)
