"""One run on three Ray nodes in network namespaces of their own, against the same run in one process.

Each namespace has its own address on a bridge, so that Ray's nodes see each other as machines on a network do; token
authentication stays on, with the token file all of them find under the same HOME. Needs Linux and root; where the
kernel refuses namespaces, the script says so and skips.

Beside what was measured stands what was planned: bytes that cross between nodes, by the expected messages that the
devices are dealt by, and an actor's memory. A node's memory is watched: the proportional shares of all its processes (a
page that several map counts in shares, and the three nodes lie on one machine), and its largest actor's private memory.

    python benchmarks/three_nodes.py [--alone] [--json] [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.namespaces import (
    PORT,
    SUBNET,
    TOKEN,
    NodeMemory,
    Unsupported,
    namespaces,
    run,
    start_nodes,
    wire_bytes,
)

NODES = 3
DEFAULTS = (
    "devices.count=60", "devices.partition={type: one_each}", "rounds=10", "method.local_steps=2", "evaluate.every=10",
    "evaluate.rows_per_task=2", "evaluate.rules=[oracle]", "track.wandb.mode=disabled", "runtime.micro_devices=1",
)  # fmt: skip
"""Six clusters of ten devices: a graph that three nodes can share; trained one by one, so that sums have one order."""


def planned(words: Sequence[str]) -> dict[str, float]:
    """What a run on `NODES` equal nodes of one CPU expects, by the same choices as the run makes.

    Args:
        words: Settings of the run.

    Returns:
        `message_bytes` and `node_crossing_bytes` of a run in which nothing is lost, `actor_mb` of an actor.
    """
    from dfl_ray.config.load import load_config
    from dfl_ray.network.traffic import message_graph
    from dfl_ray.packing.partition import Node
    from dfl_ray.simulation.chosen_packing import choose_packing
    from dfl_ray.simulation.experiment import build_experiment

    config = load_config(None, list(words))
    experiment = build_experiment(config)
    nodes = [Node(f"{k}", 1.0) for k in range(NODES)]
    packing = choose_packing(experiment, {"CPU": float(NODES)}, nodes, forks=False)
    sent = float(message_graph(experiment.traffic_law(), config.devices.count, config.rounds).bytes.sum())
    crossing = sent * (1.0 - packing.inside)
    return {"message_bytes": sent, "node_crossing_bytes": crossing, "actor_mb": packing.memory_mb}


def same_records(one: str, two: str) -> dict[str, float]:
    """Largest difference of each table's numbers; raises if anything but learnt figures differs.

    Raises:
        RuntimeError: Radio, bytes or any other exact column differs.
    """
    import numpy as np

    from dfl_ray.records import comparable, load_run

    left, right = load_run(Path(one)), load_run(Path(two))
    learnt = "loss|collision|gradient|consensus|accuracy|forgetting|interference|routed"
    worst: dict[str, float] = {}
    for name in ("rounds", "devices", "transfers", "evaluation"):
        a, b = comparable(getattr(left, name)), comparable(getattr(right, name))
        loose = a.columns[a.columns.str.contains(learnt)]
        exact = [c for c in a.columns if c not in loose]
        other = [c for c in exact if not a[c].equals(b[c].astype(a[c].dtype))]
        if other:
            raise RuntimeError(f"table `{name}` differs between one process and {NODES} nodes: {other}")
        gap = [np.nanmax(np.abs(a[c].to_numpy(float) - b[c].to_numpy(float)), initial=0.0) for c in loose]
        worst[name] = float(max(gap, default=0.0))
    return worst


def measure(words: Sequence[str], alone: bool = False) -> dict[str, Any]:
    """Run both and compare.

    Args:
        words: Settings that differ from `DEFAULTS`.
        alone: Leave the run in one process out, and with it the comparison.

    Returns:
        Figures by name.

    Raises:
        Unsupported: No namespaces here.
        RuntimeError: A run failed, or their records differ.
    """
    from dfl_ray.records import load_run

    with tempfile.TemporaryDirectory(prefix="dfl") as folder, namespaces(NODES) as names:
        common = [*DEFAULTS, *words, f"runtime.runs_dir={folder}/runs"]
        start_nodes(names, f"{folder}/ray")
        before = wire_bytes(names)
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            expected = apart.submit(planned, common).result()
        memory = NodeMemory(names)
        address = f"runtime.address={SUBNET}.1:{PORT}"
        several = run([*common, "name=several", address], ["ip", "netns", "exec", names[0], *TOKEN])
        wire = wire_bytes(names) - before
        memory.stop()
        one = None if alone else run([*common, "name=one", "runtime.backend=local"])
        rounds = load_run(Path(several["run"])).rounds
        return {
            "nodes": NODES,
            "rounds": int(several["rounds"]),
            "message_bytes": int(rounds["message_bytes"].sum()),
            "node_crossing_bytes": int(rounds["node_crossing_bytes"].sum()),
            "planned_message_bytes": expected["message_bytes"],
            "planned_node_crossing_bytes": expected["node_crossing_bytes"],
            "planned_actor_mb": expected["actor_mb"],
            "actor_private_mb": memory.actor_mb,
            "node_proportional_mb": memory.node_mb,
            "inside_nodes_fraction": several["inside_nodes_fraction"],
            "wire_bytes": wire,
            "largest_difference": None if one is None else same_records(one["run"], several["run"]),
        }


def main() -> int:
    """Measure and print; 0 also where the machine has no namespaces, which is then said."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alone", action="store_true", help="no run in one process to compare with")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("words", nargs="*", help="overrides of the configuration")
    options = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the namespaces go when the script is ended
    try:
        found = measure(options.words, options.alone)
    except Unsupported as reason:
        found = {"skipped": str(reason)}
    for name, value in found.items():
        print(f"{name:24} {value}")
    if options.json:
        from benchmarks.result import with_origin  # found from anywhere by the path set above

        print(json.dumps(with_origin(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
