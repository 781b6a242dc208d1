"""Ray nodes in network namespaces of one machine: addresses on a bridge, links as slow as wanted, CPUs by quota.

Each namespace has its own address on a bridge, so that Ray's nodes see each other as machines on a network do; token
authentication stays on, with the token file all of them find under the same HOME. Needs Linux and root.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory_watch import Watch

TOKEN = ("env", "RAY_AUTH_MODE=token")
"""Ray looks for the token by itself when it starts a cluster, not when it joins one at an address."""
PORT = 6399
SUBNET = "10.213.47"


class Unsupported(RuntimeError):
    """This machine gives no network namespaces."""


def tool(name: str, *words: str) -> None:
    """Run `ip` or `tc`, with its own words in the error."""
    try:
        subprocess.run([name, *words], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Unsupported(f"`{name}` is not installed (package iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise Unsupported(f"`{name} {' '.join(words)}`: {error.stderr.strip()}") from error


@contextlib.contextmanager
def namespaces(count: int, link: Sequence[str] = ()) -> Iterator[list[str]]:
    """Namespaces `<prefix>-0` ... on one bridge, with addresses SUBNET.1 ...; all taken away at the end.

    Args:
        count: How many.
        link: The queue of what each sends, as `tc` is given it (`link_queue`); none leaves links as fast as they are.

    Yields:
        Their names.

    Raises:
        Unsupported: This machine gives none, or not such a queue.
    """
    prefix = f"dfl{os.getpid() % 100000}"
    names = [f"{prefix}-{k}" for k in range(count)]
    try:
        tool("ip", "link", "add", f"{prefix}br", "type", "bridge")
        tool("ip", "link", "set", f"{prefix}br", "up")
        for k, name in enumerate(names):
            tool("ip", "netns", "add", name)
            tool("ip", "link", "add", f"{prefix}v{k}", "type", "veth", "peer", "name", "eth0", "netns", name)
            tool("ip", "link", "set", f"{prefix}v{k}", "master", f"{prefix}br", "up")
            tool("ip", "-n", name, "addr", "add", f"{SUBNET}.{k + 1}/24", "dev", "eth0")
            tool("ip", "-n", name, "link", "set", "lo", "up")
            tool("ip", "-n", name, "link", "set", "eth0", "up")
            if link:
                tool("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *link)
        yield names
    finally:
        for name in names:
            end_processes(name)
        for words in [("netns", "del", n) for n in names] + [("link", "del", f"{prefix}br")]:
            subprocess.run(["ip", *words], capture_output=True)


def link_queue(mbit_s: float, delay_ms: float) -> tuple[list[str], float]:
    """The queue that makes a link slow: `netem`, or where the kernel has none a token bucket, which cannot delay.

    Args:
        mbit_s: Rate in Mbit/s.
        delay_ms: Delay in ms.

    Returns:
        Words for `tc qdisc add`, and the delay in ms that it will have.

    Raises:
        Unsupported: This machine gives no namespaces.
    """
    netem = ["netem", "rate", f"{mbit_s:g}mbit", "delay", f"{delay_ms:g}ms"]
    probe = f"dfl{os.getpid() % 100000}-probe"
    tool("ip", "netns", "add", probe)
    try:
        tool("tc", "-n", probe, "qdisc", "add", "dev", "lo", "root", *netem)
    except Unsupported:
        return ["tbf", "rate", f"{mbit_s:g}mbit", "burst", "64kb", "latency", "100ms"], 0.0
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return netem, delay_ms


class CpuShares:
    """A share of CPU time for the processes of each node, by the kernel's quotas (cgroups of version 1 or 2).

    Args:
        names: The nodes.

    Raises:
        Unsupported: This machine lets nobody make such a group.
    """

    PERIOD_US = 500_000
    """The kernel looks at quotas a few hundred times a second: a share of a short period is rough."""

    def __init__(self, names: Sequence[str]) -> None:
        root = Path("/sys/fs/cgroup")
        self._unified = (root / "cgroup.controllers").exists()
        self._groups = {n: (root if self._unified else root / "cpu") / n for n in names}
        try:
            if self._unified:
                (root / "cgroup.subtree_control").write_text("+cpu")
            for group in self._groups.values():
                group.mkdir()
        except OSError as error:
            raise Unsupported(f"no group of processes with a quota: {error}") from error

    def limit(self, name: str, pids: Sequence[int], share: float) -> None:
        """Give some processes of a node that share of one CPU, together, from now on."""
        for pid in pids:
            (self._groups[name] / "cgroup.procs").write_text(str(pid))
        quota = round(share * self.PERIOD_US)
        if self._unified:
            (self._groups[name] / "cpu.max").write_text(f"{quota} {self.PERIOD_US}")
        else:
            (self._groups[name] / "cpu.cfs_period_us").write_text(str(self.PERIOD_US))
            (self._groups[name] / "cpu.cfs_quota_us").write_text(str(quota))

    def close(self) -> None:
        """Take the groups away; their processes must have ended."""
        for group in self._groups.values():
            for _ in range(20):
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.2)


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


class NodeMemory(Watch):
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
        self._names = names
        super().__init__(self._measure, every_s)

    def _measure(self) -> bool:
        for k, name in enumerate(self._names):
            found = [_memory_mb(pid) for pid in processes(name)]
            self.node_mb[k] = max(self.node_mb[k], sum(whole for whole, _ in found))
            self.actor_mb[k] = max(self.actor_mb[k], max((own for _, own in found), default=0.0))
        return True


def _memory_mb(pid: int) -> tuple[float, float]:
    """Proportional share of a process, and its private memory if it is an actor of devices, in 2^20 bytes."""
    import psutil

    try:
        process = psutil.Process(pid)
        memory, title = process.memory_full_info(), " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return 0.0, 0.0
    return memory.pss / 2**20, memory.uss / 2**20 if title.startswith("ray::DeviceActor") else 0.0


def start_nodes(names: Sequence[str], folder: str) -> None:
    """Start a head and its workers, one CPU each."""
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    common = ["--num-cpus=1", "--object-store-memory=150000000", "--disable-usage-stats"]
    head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
    for k, name in enumerate(names):
        role = head if k == 0 else [f"--address={SUBNET}.1:{PORT}"]
        start = [ray, "start", *role, f"--node-ip-address={SUBNET}.{k + 1}", *common]
        inside(name, [*TOKEN, *start], timeout_s=120)


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
