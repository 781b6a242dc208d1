"""The reference workload in Flower's simulation; run by `peers` with the Python of Flower's own environment.

N clients, each a LoRA of all linear layers (A and B trained) over one base that a worker process loads once, AdamW,
H steps of the same rows and lengths as our side, plain FedAvg on the server. One JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from typing import Any

import numpy as np
import peer_work


def simulate(o: argparse.Namespace) -> list[float]:
    """Run Flower; gives the time at which each round's results were all in."""
    from flwr.client import ClientApp, NumPyClient
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.simulation import run_simulation

    ends: list[float] = []

    class Client(NumPyClient):
        def __init__(self, number: int) -> None:
            self.number = number

        def fit(self, parameters: list[np.ndarray], config: Any) -> Any:
            return peer_work.train(o, self.number, parameters), o.batch * o.steps, {}

    class Timed(FedAvg):
        def configure_fit(self, *given: Any, **named: Any) -> Any:
            self.began = time.time()
            return super().configure_fit(*given, **named)

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            if failures:
                raise RuntimeError(f"{len(failures)} clients failed: {failures[0]}")
            ends.append(time.time())
            mean = super().aggregate_fit(server_round, results, failures)
            if o.paced:
                peer_work.tell_and_wait(time.time() - self.began)
            return mean

    def server(_context: Any) -> Any:
        strategy = Timed(
            fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=o.devices, min_available_clients=o.devices,
            initial_parameters=ndarrays_to_parameters(peer_work.first_adapters(o)),
        )  # fmt: skip
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=o.rounds))

    client = ClientApp(client_fn=lambda c: Client(int(c.node_config.get("partition-id", 0))).to_client())
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": o.cpus, "include_dashboard": False},
    }
    run_simulation(ServerApp(server_fn=server), client, num_supernodes=o.devices, backend_config=backend)
    return ends


def main() -> None:
    """Command line."""
    import psutil

    warnings.filterwarnings("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    o = peer_work.options(__doc__)
    print(json.dumps(peer_work.figures(o, psutil.Process().create_time(), simulate(o))))


if __name__ == "__main__":
    peer_work.run_by_name(__file__)
