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
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NODES = 3
TOKEN = ("env", "RAY_AUTH_MODE=token")
"""Ray looks for the token by itself when it starts a cluster, not when it joins one at an address."""
PORT = 6399
SUBNET = "10.213.47"
DEFAULTS = (
    "devices.count=60", "devices.partition={type: one_each}", "rounds=10", "method.local_steps=2", "evaluate.every=10",
    "evaluate.rows_per_task=2", "evaluate.rules=[oracle]", "track.wandb.mode=disabled", "runtime.micro_devices=1",
)  # fmt: skip
"""Six clusters of ten devices: a graph that three nodes can share; trained one by one, so that sums have one order."""


class Unsupported(RuntimeError):
    """This machine gives no network namespaces."""


def ip(*words: str) -> None:
    """Run `ip`, with its own words in the error."""
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Unsupported("`ip` is not installed (package iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise Unsupported(f"`ip {' '.join(words)}`: {error.stderr.strip()}") from error


@contextlib.contextmanager
def namespaces() -> Iterator[list[str]]:
    """Namespaces `<prefix>-0` ... on one bridge, with addresses SUBNET.1 ...; all taken away at the end."""
    prefix = f"dfl{os.getpid() % 100000}"
    names = [f"{prefix}-{k}" for k in range(NODES)]
    try:
        ip("link", "add", f"{prefix}br", "type", "bridge")
        ip("link", "set", f"{prefix}br", "up")
        for k, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"{prefix}v{k}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{prefix}v{k}", "master", f"{prefix}br", "up")
            ip("-n", name, "addr", "add", f"{SUBNET}.{k + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names:
            end_processes(name)
        for words in [("netns", "del", n) for n in names] + [("link", "del", f"{prefix}br")]:
            subprocess.run(["ip", *words], capture_output=True)


def processes(name: str) -> list[int]:
    """Numbers of the processes in a namespace."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def end_processes(name: str) -> None:
    """End what runs in a namespace, and nothing else."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        listed = processes(name)
        for pid in listed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
        if listed:
            time.sleep(2.0)


def inside(name: str, command: Sequence[str], *, timeout_s: float) -> str:
    """What a command in a namespace prints.

    Raises:
        RuntimeError: It failed; the message holds the end of what it said.
    """
    done = subprocess.run(
        ["ip", "netns", "exec", name, *command], capture_output=True, text=True, timeout=timeout_s, check=False
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise RuntimeError(f"`{' '.join(command[:4])} ...` in {name} ended with {done.returncode}: {said}")
    return done.stdout


class NodeMemory:
    """Watches the memory of every node from a thread.

    Args:
        names: The namespaces.
        every_s: Time between looks.

    Attributes:
        node_mb: For each node the largest sum of its processes' proportional shares, in 2^20 bytes.
        actor_mb: For each node the largest private memory of one of its actors, in 2^20 bytes.
    """

    def __init__(self, names: Sequence[str], every_s: float = 2.0) -> None:
        self.node_mb, self.actor_mb = [0.0] * len(names), [0.0] * len(names)
        self._names, self._every_s, self._done = names, every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            for k, name in enumerate(self._names):
                found = [_memory_mb(pid) for pid in processes(name)]
                self.node_mb[k] = max(self.node_mb[k], sum(whole for whole, _ in found))
                self.actor_mb[k] = max(self.actor_mb[k], max((own for _, own in found), default=0.0))


def _memory_mb(pid: int) -> tuple[float, float]:
    """Proportional share of a process, and its private memory if it is an actor of devices, in 2^20 bytes."""
    import psutil

    try:
        process = psutil.Process(pid)
        memory, title = process.memory_full_info(), " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return 0.0, 0.0
    return memory.pss / 2**20, memory.uss / 2**20 if title.startswith("ray::DeviceActor") else 0.0


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


def start_nodes(names: Sequence[str], folder: str) -> None:
    """Start a head and its workers, one CPU each."""
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    common = ["--num-cpus=1", "--object-store-memory=150000000", "--disable-usage-stats"]
    head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
    for k, name in enumerate(names):
        role = head if k == 0 else [f"--address={SUBNET}.1:{PORT}"]
        # A joining node does not look for the token by itself, unlike a head.
        token = ["env", "RAY_AUTH_MODE=token"]
        inside(
            name, [*token, ray, "start", *role, f"--node-ip-address={SUBNET}.{k + 1}", *common], timeout_s=120
        )


def run(words: Sequence[str], prefix: Sequence[str] = ()) -> dict[str, Any]:
    """One run's JSON summary."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "dfl_ray", "run", *words, "--json"], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def wire_bytes(names: Sequence[str]) -> int:
    """Bytes all nodes have sent onto the bridge so far."""
    command = ["cat", "/sys/class/net/eth0/statistics/tx_bytes"]
    return sum(int(inside(n, command, timeout_s=30)) for n in names)


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

    with tempfile.TemporaryDirectory(prefix="dfl") as folder, namespaces() as names:
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
