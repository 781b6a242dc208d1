"""`dfl-ray plan`: what a whole experiment would cost, without training anything.

The figures of the air come from a dry run (`simulation.dry_run`), those of this machine from laws of cost: memory and
start-up from the model's shapes, wall time from floating-point operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.methods.spec import method_spec
from dfl_ray.packing.machine import peak_memory_bytes
from dfl_ray.simulation.dry_run import DryRun, Outline, dry_run, totals

if TYPE_CHECKING:
    from dfl_ray.packing.actors import Packing
    from dfl_ray.simulation.round_loop import PlayedRound

FLOPS_PER_S_PER_CPU = 15e9
"""Effective training rate of one CPU core on small models (measured; see docs/runtime.md)."""
RAY_READY_S, ACTOR_READY_S = 7.6, 1.1
"""Seconds until Ray stands, and processor seconds of each actor after that (measured; see docs/runtime.md)."""
PROJECTION_S = 8.4e-11
"""Seconds of one core for each d^3 of a layer's full QR (measured: 0.44 s at d = 1536, 7.5 s at d = 4480)."""
DRIVER_MB, RAY_MB = 290.0, 373.0
"""Memory of the driver without its records, and of Ray's own processes (measured)."""

Step = Callable[[str], AbstractContextManager[None]]


def plan(
    config: Config, step: Step = lambda _name: nullcontext(), rounds: int | None = None
) -> dict[str, Any]:
    """Plan a whole run.

    Args:
        config: Any configuration; its model must be `embedded` or a local folder.
        step: Shows a step while it runs.
        rounds: How many rounds to plan, evenly spread; None plans all where that takes minutes at most.

    Returns:
        Figures by name, units in the names: the network's, `run` (sums over all rounds), `typical_round` (the planned
        round of median bytes), `start_up` and `memory` on this machine, `seconds` of the planning itself, `notes`.

    Raises:
        InputError: The layout is impossible or the model's shapes are not known.
    """
    seconds: dict[str, float] = {}
    found = dry_run(config, _timed(seconds, step), rounds)
    run, topology = found.outline, found.outline.deployment.topology
    return {
        "devices": config.devices.count,
        "method": config.method.name,
        "rounds": config.rounds,
        "planned_rounds": len(found.played),
        "links": len(topology.edges),
        "mean_degree": float(topology.degree.mean()),
        "parts": int(topology.components.max()) + 1,
        "run": dict(totals(found)),
        "typical_round": typical_round(found),
        **machine_figures(run),
        "seconds": seconds,
        "planning_memory_mb": peak_memory_bytes() / 2**20,
        "notes": list(found.notes),
    }


def _timed(seconds: dict[str, float], step: Step) -> Step:
    @contextmanager
    def measure(name: str) -> Iterator[None]:
        began = time.perf_counter()
        with step(name):
            yield
        seconds[name] = time.perf_counter() - began

    return measure


def typical_round(found: DryRun) -> dict[str, Any]:
    """Figures of the planned round of median bytes among those in which something was asked for.

    Args:
        found: The dry run.

    Returns:
        Name -> figure, units in the names (s, J, bytes, dB), percentiles None where nothing was measured; empty if
        no round was planned.
    """
    asked = {r: int(p.requests.payload_bytes.sum()) for r, p in found.played.items()}
    busy = sorted((size, r) for r, size in asked.items() if size) or [(0, r) for r in asked]
    if not busy:
        return {}
    number = busy[len(busy) // 2][1]
    return {"round": number, **_radio_figures(found.played[number])}


def _radio_figures(played: PlayedRound) -> dict[str, Any]:
    from dfl_ray.simulation.radio_tables import bytes_on_air

    plan = played.plan
    latency = plan.finished_s - plan.start_s
    sinr = plan.table["sinr_db"].to_numpy(float)
    return {
        "transfers": len(played.requests),
        "payload_bytes": bytes_on_air(plan),
        "airtime_s": plan.airtime_s,
        "round_s": plan.end_s - plan.start_s,
        "radio_occupied_s": plan.occupied_s,
        "energy_j": float(plan.energy_j.sum()),
        "radio_energy_j": float(plan.radio_energy_j.sum()),
        "compute_energy_j": float(plan.compute_energy_j.sum()),
        "compute_s_max": float(np.max(played.cost.seconds)),
        "delivered_fraction": float(played.arrived.mean()) if len(played.requests) else None,
        "slots": int(plan.table["slot"].max()) + 1 if len(plan.table) else 0,
        **_percentiles("latency_s", latency[np.isfinite(latency)], (50, 95, 99)),
        **_percentiles("sinr_db", sinr[np.isfinite(sinr)], (5, 50, 95)),
    }


def _percentiles(name: str, values: np.ndarray, wanted: Sequence[int]) -> dict[str, float | None]:
    found = np.percentile(values, wanted) if len(values) else [None] * len(wanted)
    return {f"{name}_p{p:02d}": None if v is None else float(v) for p, v in zip(wanted, found, strict=True)}


def machine_figures(run: Outline) -> dict[str, Any]:
    """Actors, memory, start-up and wall time on this machine; what would not fit is said, not refused.

    A round's wall time is taken as tokens · FLOPs per token / (`FLOPS_PER_S_PER_CPU` · CPUs).

    Args:
        run: The run without its weights.

    Returns:
        `cpus`, `actors`, `memory` (figures of 2^20 bytes), `start_up` (seconds by part) and
        `expected_round_wall_s`.
    """
    from dfl_ray.packing.actors import device_state_mb, pack
    from dfl_ray.packing.machine import usable_cpus

    config, deployment = run.config, run.deployment
    held = int((deployment.mixture > 0).sum(axis=1).max())
    state_mb = device_state_mb(run.layout.size, held if method_spec(config.method).per_task else 1)
    cpus = usable_cpus()
    packing = pack(config.runtime, deployment.topology.cluster, {"CPU": float(cpus)}, state_mb)
    tokens = sum(run.tokens.mean) * config.method.local_steps * config.method.batch_rows
    return {
        "cpus": cpus,
        "actors": len(packing.groups),
        "memory": _memory(run, packing, state_mb),
        "start_up": _start_up(run, packing, cpus),
        "expected_round_wall_s": tokens * run.flops_per_token / (FLOPS_PER_S_PER_CPU * cpus),
    }


def _memory(run: Outline, packing: Packing, state_mb: float) -> dict[str, float]:
    """Peak memory of a run here, in MB: the base is mapped once, the last checkpoint gathers all state."""
    bytes_a_weight = 2 if run.config.model.dtype == "bfloat16" else 4
    base = run.targets.parameters * bytes_a_weight / 2**20
    actors = packing.memory_mb * len(packing.groups)
    checkpoint = state_mb * run.config.devices.count
    ray = RAY_MB if run.config.runtime.backend == "ray" else 0.0
    return {
        "base_mb": base,
        "actor_mb": packing.memory_mb,
        "device_state_mb": state_mb,
        "peak_mb": DRIVER_MB + ray + base + actors + checkpoint,
    }


def _start_up(run: Outline, packing: Packing, cpus: int) -> dict[str, float]:
    """Seconds before the first round: Ray and its actors, projections, sketches, and the base model's evaluation."""
    method, config = run.config.method, run.config
    rate = FLOPS_PER_S_PER_CPU * cpus
    forward = 2.0 * run.targets.parameters * run.rows
    parts = {"ray_s": 0.0, "actors_s": 0.0, "projections_s": 0.0, "sketches_s": 0.0}
    if config.runtime.backend == "ray":
        parts |= {"ray_s": RAY_READY_S, "actors_s": ACTOR_READY_S * len(packing.groups) / cpus}
    if isinstance(method, SparseOrthogonalConfig):
        drawn = sum(PROJECTION_S * s.in_features**3 for s in run.layout.layers)
        parts["projections_s"] = drawn * (1 + -(-len(packing.groups) // cpus))
        parts["sketches_s"] = run.tasks * method.sketch_prompts * forward / rate
    asked = config.evaluate.rows_per_task or 0
    parts["base_evaluation_s"] = run.tasks * asked * forward / FLOPS_PER_S_PER_CPU
    return {**parts, "total_s": sum(parts.values())}


def plan_lines(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures in words, as (name, value) lines for a table.

    Args:
        figures: What `plan` returns.

    Returns:
        The lines in the order they are shown, the notes last.
    """
    from dfl_ray.records.results import share, size

    f, run, memory, start = figures, figures["run"], figures["memory"], figures["start_up"]
    lines = [
        ("devices, links", f"{f['devices']:,}, {f['links']:,}"),
        ("mean degree, parts", f"{f['mean_degree']:.2f}, {f['parts']}"),
        ("rounds planned", f"{f['planned_rounds']:,} of {f['rounds']:,}"),
        ("bytes on air, whole run", size(run["payload_bytes"])),
        ("airtime, whole run", f"{run['airtime_s']:.4g} s"),
        ("simulated time, whole run", f"{run['simulated_s']:.4g} s"),
        ("energy, whole run", f"{run['energy_j']:.4g} J: radio {run['radio_energy_j']:.4g} J, computing "
         f"{run['compute_energy_j']:.4g} J"),
        ("delivered", f"{share(run['delivered_fraction'])} of {run['transfers']:,} transfers"
         if run["transfers"] else "nothing is sent"),
        *_typical_lines(figures["typical_round"]),
        ("actors here", f"{f['actors']:,} on {f['cpus']} CPUs, about {memory['actor_mb']:.0f} MB each"),
        ("peak memory here", f"about {memory['peak_mb']:,.0f} MB ({memory['base_mb']:.0f} MB of it the base model)"),
        ("start-up here", f"about {start['total_s']:.3g} s: " + ", ".join(
            f"{name.removesuffix('_s').replace('_', ' ')} {value:.2g} s"
            for name, value in start.items() if name != "total_s" and value >= 0.05)),
        ("wall time a round here", f"about {f['expected_round_wall_s']:.3g} s of training"),
        ("planning took", ", ".join(f"{k} {v:.2f} s" for k, v in f["seconds"].items())
         + f"; peak memory {f['planning_memory_mb']:.0f} MB"),
    ]  # fmt: skip
    told = [(name, value) for name, value in lines if value]
    return [*told, *(("note", text) for text in f["notes"])]


def _typical_lines(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of the typical round; one line that says so where no round was planned."""
    from dfl_ray.records.results import size

    if not one:
        return [("typical round", "none: no round was planned")]

    def spread(name: str, unit: str, keys: Sequence[str]) -> str:
        return ", ".join(
            f"{k} {one[f'{name}_{k}']:.3g} {unit}" for k in keys if one[f"{name}_{k}"] is not None
        )

    return [
        (f"typical round ({one['round']})", f"{one['transfers']:,} transfers in {one['slots']:,} slots, "
         f"{size(one['payload_bytes'])}, {one['airtime_s']:.3g} s of airtime, {one['energy_j']:.3g} J"),
        ("  simulated", f"{one['round_s']:.3g} s ({one['compute_s_max']:.3g} s of it the slowest training)"),
        ("  latency", spread("latency_s", "s", ("p50", "p95", "p99"))),
        ("  SINR", spread("sinr_db", "dB", ("p05", "p50", "p95"))),
    ]  # fmt: skip
