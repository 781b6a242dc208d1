"""`dfl-ray plan`: what one round of a configuration would cost, without loading a model or training anything.

The graph is built and one representative round is scheduled for real by the channel: every adapter message at its
final length, and the share of the replica traffic that falls on a round. Message lengths come from the codec and
the shapes in the weight files' headers; computing time from the floating-point operations.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.lora.layout import Layout
from dfl_ray.methods.spec import method_spec
from dfl_ray.models.shapes import linear_layers
from dfl_ray.network.deployment import Deployment, build_deployment
from dfl_ray.wire.codec import encoded_size
from dfl_ray.wire.message import HEADER_BYTES

if TYPE_CHECKING:
    from channels.transfers import RoundPlan, Transfers

TOKENS_PER_ROW = {"synthetic": 16, "files": 90, "hub": 256}
"""Mean tokens of a row, where no data are read: measured on the embedded suite and on short real text."""
FLOPS_PER_S_PER_CPU = 15e9
"""Effective training rate of one CPU core on small models (measured; see docs/runtime.md)."""

Step = Callable[[str], AbstractContextManager[None]]


def plan(config: Config, step: Step = lambda _name: nullcontext()) -> dict[str, Any]:
    """Plan one round.

    Args:
        config: Any configuration; its model must be `embedded` or a local folder.
        step: Shows a step while it runs.

    Returns:
        Figures by name, units in the names; `seconds` holds how long each part of the planning took.

    Raises:
        InputError: The layout is impossible or the model's shapes are not known.
    """
    seconds: dict[str, float] = {}
    tasks = _task_count(config)
    layers, parameters = linear_layers(_model_folder(config), config.model.target_modules)
    layout = Layout(tuple(layers), config.method.rank, method_spec(config.method).trains)
    with _timed("topology", seconds, step):
        deployment = build_deployment(config, tasks)
    with _timed("channel", seconds, step):
        channel = deployment.channel.make()
        transfers = typical_transfers(config, deployment, layout)
        cost = _compute(config, deployment, layout, parameters)
    with _timed("plan", seconds, step):
        found = channel.plan_round(1, transfers, ready_s=cost.seconds, compute_energy_j=cost.energy_j)
    flops = float(_flops_per_device(config, layout, parameters)) * config.devices.count
    return {
        "devices": config.devices.count,
        "method": config.method.type,
        "links": len(deployment.topology.edges),
        "mean_degree": float(deployment.topology.degree.mean()),
        "parts": int(deployment.topology.components.max()) + 1,
        **_radio_figures(found, transfers),
        "compute_energy_j": float(np.sum(cost.energy_j)),
        "compute_s_max": float(np.max(cost.seconds)),
        **_cluster_figures(config, deployment, layout, flops),
        "seconds": seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _timed(name: str, seconds: dict[str, float], step: Step) -> AbstractContextManager[None]:
    from contextlib import contextmanager

    @contextmanager
    def measure() -> Any:
        began = time.perf_counter()
        with step(name):
            yield
        seconds[name] = time.perf_counter() - began

    return measure()


def _task_count(config: Config) -> int:
    if config.tasks.names is not None:
        return len(config.tasks.names)
    if config.tasks.source == "synthetic":
        from dfl_ray.tasks.synthetic import DEFAULT_TASKS

        return len(DEFAULT_TASKS)
    from dfl_ray.tasks.load import read_tasks

    return len(read_tasks(config).tasks)


def _model_folder(config: Config) -> Path:
    from dfl_ray.models.paths import embedded_path

    return embedded_path() if config.model.name == "embedded" else Path(config.model.name).expanduser()


def typical_transfers(config: Config, deployment: Deployment, layout: Layout) -> Transfers:
    """The transfers of a typical late round: all adapter messages, and a share of the replicas.

    Args:
        config: The experiment.
        deployment: Devices, channel and graph.
        layout: What one adapter holds.
    """
    from channels.transfers import Transfers

    facts = method_spec(config.method)
    density = float(getattr(config.method, "density", 1.0))
    dense = layout.size if not facts.per_task else round(density * layout.size)
    payload = HEADER_BYTES + encoded_size(dense, config.method.precision)
    topology = deployment.topology
    groups = (
        [topology.task_edges(t) for t in range(topology.tasks)] if facts.per_task else [topology.gossip_edges]
    )
    pairs = [np.concatenate([g, g[:, ::-1]]) for g in groups]
    message = np.concatenate([np.full(len(p), k) for k, p in enumerate(pairs)])
    if config.method.exchange_every > 1:
        keep = [p[:, 0] % config.method.exchange_every == 0 for p in pairs]
        pairs = [p[k] for p, k in zip(pairs, keep, strict=True)]
        message = message[np.concatenate(keep)]
    rows = np.concatenate(pairs)
    sizes = np.full(len(rows), payload)
    if facts.per_task and hasattr(config.method, "replicas_every"):
        hops = _replica_hops(config, deployment)
        rows = np.concatenate([rows, hops[:, :2]])
        message = np.concatenate([message, len(groups) + hops[:, 2]])
        sizes = np.concatenate([sizes, np.full(len(hops), payload + 5 + layout.size // 8)])
    return Transfers.build(rows[:, 0], rows[:, 1], sizes, message)


def _replica_hops(config: Config, deployment: Deployment) -> np.ndarray:
    """(hops, 3) source, destination, task of the replica traffic that falls on one round of `replicas_every`."""
    topology = deployment.topology
    every = int(getattr(config.method, "replicas_every", 1))
    out = [np.zeros((0, 3), np.int64)]
    for task in range(topology.tasks):
        for part in topology.task_components(task):
            hops = np.array(topology.broadcast_tree(int(part[0])), np.int64).reshape(-1, 2)
            mine = hops[hops[:, 1] % every == 0]
            out.append(np.column_stack([mine, np.full(len(mine), task)]))
    return np.concatenate(out)


def _flops_per_device(config: Config, layout: Layout, parameters: int) -> float:
    adapter = sum(config.method.rank * (s.in_features + s.out_features) for s in layout.layers)
    tokens = (
        config.method.local_steps
        * config.method.batch_rows
        * TOKENS_PER_ROW.get(config.tasks.source, TOKENS_PER_ROW["files"])
    )
    return tokens * (4.0 * parameters + 6.0 * adapter)


def _compute(config: Config, deployment: Deployment, layout: Layout, parameters: int) -> Any:
    from channels.energy import compute_cost

    flops = _flops_per_device(config, layout, parameters)
    return compute_cost(deployment.channel.classes, np.full(config.devices.count, flops))


def _radio_figures(found: RoundPlan, transfers: Transfers) -> dict[str, Any]:
    from dfl_ray.simulation.round_tables import bytes_on_air

    latency = found.finished_s - found.start_s
    arrived = latency[np.isfinite(latency)]
    sinr = found.table["sinr_db"].to_numpy(float)
    return {
        "transfers": len(transfers),
        "payload_bytes": bytes_on_air(found),
        "airtime_s": found.airtime_s,
        "round_s": found.end_s - found.start_s,
        "radio_occupied_s": found.occupied_s,
        "energy_j": float(found.energy_j.sum()),
        "delivered_fraction": float(found.delivered.mean()) if len(transfers) else None,
        "slots": int(found.table["slot"].max()) + 1 if len(found.table) else 0,
        **_percentiles("latency_s", arrived, (50, 95, 99)),
        **_percentiles("sinr_db", sinr[np.isfinite(sinr)], (5, 50, 95)),
    }


def _percentiles(name: str, values: np.ndarray, wanted: Sequence[int]) -> dict[str, float | None]:
    found = np.percentile(values, wanted) if len(values) else [None] * len(wanted)
    return {f"{name}_p{p:02d}": None if v is None else float(v) for p, v in zip(wanted, found, strict=True)}


def _cluster_figures(config: Config, deployment: Deployment, layout: Layout, flops: float) -> dict[str, Any]:
    """Actors, their memory and the wall time on this machine; what would not fit is said, not refused."""
    import os

    from dfl_ray.packing.actors import pack

    held = int((deployment.mixture > 0).sum(axis=1).max())
    state_mb = 16 * layout.size * (held if method_spec(config.method).per_task else 1) / 2**20
    cpus = len(os.sched_getaffinity(0))
    packing = pack(config, deployment.topology.cluster, {"CPU": float(cpus)}, state_mb)
    return {
        "cpus": cpus,
        "actors": len(packing.groups),
        "memory_per_actor_mb": packing.memory_mb,
        "state_per_device_mb": state_mb,
        "expected_round_wall_s": flops / (FLOPS_PER_S_PER_CPU * cpus),
    }


def plan_lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures in words, as (name, value) lines for a table."""
    from dfl_ray.records.results import share, size

    f = figures

    def spread(name: str, unit: str, keys: Sequence[str]) -> str:
        return ", ".join(f"{k} {f[f'{name}_{k}']:.3g} {unit}" for k in keys if f[f"{name}_{k}"] is not None)

    return [
        ("devices, links", f"{f['devices']:,}, {f['links']:,}"),
        ("mean degree, parts", f"{f['mean_degree']:.2f}, {f['parts']}"),
        ("transfers a round", f"{f['transfers']:,} in {f['slots']:,} slots"),
        ("bytes on air", size(f["payload_bytes"])),
        ("airtime, sum", f"{f['airtime_s']:.3g} s"),
        ("round, simulated", f"{f['round_s']:.3g} s ({f['compute_s_max']:.3g} s of it the slowest training)"),
        ("energy", f"{f['energy_j']:.3g} J ({f['compute_energy_j']:.3g} J of it computing)"),
        ("delivered", share(f["delivered_fraction"])),
        ("latency", spread("latency_s", "s", ("p50", "p95", "p99"))),
        ("SINR", spread("sinr_db", "dB", ("p05", "p50", "p95"))),
        ("actors here", f"{f['actors']:,} on {f['cpus']} CPUs, about {f['memory_per_actor_mb']:.0f} MB each"),
        ("wall time a round here", f"about {f['expected_round_wall_s']:.3g} s of training"),
        ("planning took", ", ".join(f"{k} {v:.2f} s" for k, v in f["seconds"].items())
         + f"; peak memory {f['peak_memory_mb']:.0f} MB"),
    ]  # fmt: skip
