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

from dfl_ray.config.methods import PerTaskConfig
from dfl_ray.config.schema import Config
from dfl_ray.engines.memory import trains_unmerged, value_bytes
from dfl_ray.packing.machine import peak_memory_bytes
from dfl_ray.simulation.dry_run import DryRun, Outline, dry_run, totals
from dfl_ray.simulation.gpu_estimate import GPU_FLOPS_PER_S, about, gpu_figures, gpu_lines
from dfl_ray.simulation.memory_estimate import memory_figures, outline_needs, planned_packing
from dfl_ray.simulation.node_estimate import Machines, check_forecast, node_figures, node_lines

if TYPE_CHECKING:
    from dfl_ray.packing.actors import Packing
    from dfl_ray.simulation.round_loop import PlayedRound

FLOPS_PER_S_PER_CPU = 15e9
"""Effective training rate of one CPU core on small models (measured; see docs/runtime.md)."""
LARGE_FLOPS_PER_S_PER_CPU = {"float32": 50e9, "bfloat16": 100e9}
"""The same on models that train unmerged (`engines.memory.trains_unmerged`), with AVX-512 (measured; see
docs/runtime.md); AMX is faster."""
RAY_READY_S, ACTOR_READY_S = 3.2, 0.2
"""Seconds until Ray and the experiment stand, and processor seconds of each actor after that (measured on a fast
machine, docs/runtime.md; a slow one takes twice as long)."""
BASE_S_PER_BYTE = 1e-9
"""Processor seconds in which the driver reads, checks and fingerprints a byte of the base, half for the fingerprint
(measured: 0.8 to 1.1 s a GB; a disk that gives less than a GB a second takes longer)."""
PROJECTION_S = 2.5e-10
"""Seconds of one core for each d (T r)^2 of a layer's thin QR (measured with T r = 192 and d = 1,536 to 18,944)."""

Step = Callable[[str], AbstractContextManager[None]]


def plan(
    config: Config,
    step: Step = lambda _name: nullcontext(),
    rounds: int | None = None,
    machines: Machines | None = None,
) -> dict[str, Any]:
    """Plan a whole run.

    Args:
        config: Any configuration; its model is `embedded`, a local folder, or a hub id whose sizes are shipped
            (`dfl_ray.models.published_shapes`).
        step: Shows a step while it runs.
        rounds: How many rounds to plan, evenly spread; None plans all where that takes minutes at most.
        machines: A cluster to forecast the run's speed on.

    Returns:
        Figures by name, units in the names: the network's, `run` (sums over all rounds), `typical_round` (the planned
        round of median bytes), `start_up` and `memory` on this machine, `on_nodes` (`node_estimate.node_figures`),
        `seconds` of the planning itself, `notes`.

    Raises:
        InputError: The layout is impossible, the model's shapes are not known, or the cluster cannot hold the run.
    """
    if machines is not None:
        check_forecast(config)
    seconds: dict[str, float] = {}
    found = dry_run(config, _timed(seconds, step), rounds, timed=machines is not None)
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
        **machine_figures(run, found.tokens_a_round),
        "on_nodes": [] if machines is None else node_figures(found, machines, cpu_rate(run)),
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
    from channels.estimate import jain_index
    from dfl_ray.simulation.radio_tables import bytes_on_air

    plan = played.plan
    latency = plan.finished_s - _made_s(played)
    sinr = plan.table["sinr_db"].to_numpy(float)
    bits = 8.0 * played.hops.transfers.payload_bytes
    served_bps = np.divide(bits, latency, out=np.zeros(len(latency)), where=latency > 0)
    fairness = jain_index(served_bps)
    return {
        "transfers": len(played.requests),
        "payload_bytes": bytes_on_air(plan),
        "airtime_s": plan.airtime_s,
        "round_s": plan.end_s - plan.start_s,
        "radio_occupied_s": plan.occupied_s,
        "energy_j": float(plan.energy_j.sum()),
        "radio_energy_j": float(plan.radio_energy_j.sum()),
        "compute_energy_j": float(plan.compute_energy_j.sum()),
        "compute_s_max": float(np.max(played.cost.seconds)) if played.ended is None else None,
        "delivered_fraction": float(played.arrived.mean()) if len(played.requests) else None,
        "slots": int(plan.table["slot"].max()) + 1 if len(plan.table) else 0,
        **_percentiles("latency_s", latency[np.isfinite(latency)], (50, 95, 99)),
        "latency_s_max": float(np.nanmax(latency)) if np.isfinite(latency).any() else None,
        "fairness": None if np.isnan(fairness) else fairness,
        **_percentiles("sinr_db", sinr[np.isfinite(sinr)], (5, 50, 95)),
    }


def _made_s(played: PlayedRound) -> np.ndarray | float:
    """From when on the latency of each hop counts: the round's start, or the end of its maker's local round."""
    if played.ended is None:
        return played.plan.start_s
    made = np.zeros(len(played.plan.alive))
    made[played.ended.devices] = played.ended.end_s
    return made[played.requests.source[played.hops.owner]]


def _percentiles(name: str, values: np.ndarray, wanted: Sequence[int]) -> dict[str, float | None]:
    found = np.percentile(values, wanted) if len(values) else [None] * len(wanted)
    return {f"{name}_p{p:02d}": None if v is None else float(v) for p, v in zip(wanted, found, strict=True)}


def machine_figures(run: Outline, tokens: float | None = None) -> dict[str, Any]:
    """Actors, memory, start-up and wall time on this machine; what would not fit is said, not refused.

    A round's wall time is taken as tokens · FLOPs per token / (`cpu_rate` · CPUs).

    Args:
        run: The run without its weights.
        tokens: Tokens that all devices train on in a round, on average; None: what they would if all trained.

    Returns:
        `cpus`, `backend`, `actors`, `memory` (figures of 2^20 bytes), `start_up` (seconds by part),
        `expected_round_wall_s`, `evaluation_s` (one evaluation by one rule, at most, since adapters that several
        devices share are asked once; None where a plan doesn't know how many rows are asked, and then the base model's
        in `start_up` is 0), `closing_sketches_s`, and `on_gpus` for runs that ask for GPUs
        (`gpu_estimate.gpu_figures`), whose start-up is told on one.
    """
    from dfl_ray.packing.machine import usable_cpus

    config, cpus = run.config, usable_cpus()
    packing = planned_packing(run, {"CPU": float(cpus)})
    if tokens is None:
        tokens = float(sum(run.tokens.mean)) * config.method.local_steps * config.method.batch_rows
    start_up = _start_up(run, packing, cpus)
    without = start_up["total_s"] - start_up["base_evaluation_s"]
    asked = run.evaluation_tokens
    return {
        "cpus": cpus,
        "backend": config.runtime.backend,
        "actors": len(packing.groups),
        "memory": memory_figures(run, packing),
        "start_up": start_up,
        "expected_round_wall_s": tokens * run.flops_per_token / (cpu_rate(run) * cpus),
        "evaluation_s": None if asked is None else _forward_s(run, asked) * config.devices.count / cpus,
        "closing_sketches_s": _closing_sketches_s(run, cpus),
        "on_gpus": gpu_figures(run, outline_needs(run).state_mb, without, tokens),
    }


def _closing_sketches_s(run: Outline, cpus: int) -> float:
    """Seconds of the exact sketches of all layers that `filter` needs as a reference, when all rules are asked."""
    from dfl_ray.simulation.round_facts import needs_references, rules_asked

    config, method = run.config, run.config.method
    if not isinstance(method, PerTaskConfig) or not needs_references(
        config, rules_asked(config, config.rounds)
    ):
        return 0.0
    forward = 2.0 * run.targets.parameters * run.rows
    return run.tasks * method.sketch_prompts * forward / (cpu_rate(run) * cpus)


def cpu_rate(run: Outline) -> float:
    """Floating-point operations a second of one CPU core: `FLOPS_PER_S_PER_CPU`, or the large path's.

    Args:
        run: The run without its weights.

    Returns:
        Operations a second.
    """
    shape = run.targets.shape
    large = shape is not None and trains_unmerged(shape, value_bytes(run.config.model.dtype))
    return LARGE_FLOPS_PER_S_PER_CPU[run.config.model.dtype] if large else FLOPS_PER_S_PER_CPU


def _one_rate(run: Outline) -> float:
    """Operations a second of one GPU where the run asks for them, else of one CPU core."""
    return GPU_FLOPS_PER_S[run.config.model.dtype] if run.config.runtime.gpus_per_actor else cpu_rate(run)


def _forward_s(run: Outline, tokens: float) -> float:
    """Seconds in which so many tokens go through the model forward, at `_one_rate`."""
    return 2.0 * run.targets.parameters * tokens / _one_rate(run)


def _start_up(run: Outline, packing: Packing, cpus: int) -> dict[str, float]:
    """Seconds before the first round: the base, Ray and its actors, projections, sketches, the base's evaluation."""
    method, config = run.config.method, run.config
    rate = _one_rate(run) if config.runtime.gpus_per_actor else _one_rate(run) * cpus
    forward = 2.0 * run.targets.parameters * run.rows
    read = value_bytes(config.model.dtype) * run.targets.parameters  # a base in 4 bits is read whole, too
    parts = {"base_model_s": BASE_S_PER_BYTE * read}
    parts |= {"ray_s": 0.0, "actors_s": 0.0, "projections_s": 0.0, "sketches_s": 0.0}
    if config.runtime.backend == "ray":
        parts |= {"ray_s": RAY_READY_S, "actors_s": ACTOR_READY_S * len(packing.groups) / cpus}
    if isinstance(method, PerTaskConfig):
        rows = run.tasks * method.rank
        parts["projections_s"] = PROJECTION_S * rows**2 * sum(s.in_features for s in run.layout.layers)
        parts["sketches_s"] = run.sketch_share * run.tasks * method.sketch_prompts * forward / rate
    parts["base_evaluation_s"] = _forward_s(run, run.base_tokens or 0.0)
    return {**parts, "total_s": sum(parts.values())}


def _named_parts(start: Mapping[str, float]) -> str:
    """The parts of the start-up that take any time, behind a colon."""
    parts = {name.removesuffix("_s").replace("_", " "): s for name, s in start.items() if name != "total_s"}
    told = ", ".join(f"{name} {about(s)}" for name, s in parts.items() if s >= 0.05)
    return f": {told}" if told else ""


def _evaluation_words(seconds: float | None, sketches_s: float) -> str:
    told = "not counted" if seconds is None else f"at most {about(seconds)} by one rule"
    if sketches_s < 0.05:
        return told
    return f"{told}, and {about(sketches_s)} of sketches at the end, where all rules are asked"


def plan_lines(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures in words, as (name, value) lines for a table.

    Args:
        figures: What `plan` returns.

    Returns:
        The lines in the order they are shown, the notes last.
    """
    from dfl_ray.records.schema import STATE_ENERGY_COLUMNS
    from dfl_ray.records.words import share, size

    f, run, memory, start = figures, figures["run"], figures["memory"], figures["start_up"]
    lines = [
        ("devices, links", f"{f['devices']:,}, {f['links']:,}"),
        ("mean degree, parts", f"{f['mean_degree']:.2f}, {f['parts']}"),
        ("rounds planned", f"{f['planned_rounds']:,} of {f['rounds']:,}"),
        ("bytes on air, whole run", size(run["payload_bytes"])),
        ("airtime, whole run", f"{run['airtime_s']:.4g} s"),
        ("simulated time, whole run", about(run["simulated_s"])),
        ("energy, whole run", f"{run['energy_j']:.4g} J: radio {run['radio_energy_j']:.4g} J, computing "
         f"{run['compute_energy_j']:.4g} J"),
        ("  radio by state", ", ".join(f"{name.removesuffix('_energy_j').replace('_', ' ')} {run[name]:.4g} J"
                                       for name in STATE_ENERGY_COLUMNS if name in run)),
        ("control, whole run", f"{size(round(run['control_bytes']))}, {run['control_airtime_s']:.4g} s of airtime,"
         f" {about(run['control_s'])}, {run['control_energy_j']:.4g} J of the radio's"
         if "control_bytes" in run else ""),
        ("delivered", f"{share(run['delivered_fraction'])} of {run['transfers']:,} transfers"
         if run["transfers"] else "nothing is sent"),
        *_typical_lines(figures["typical_round"]),
        ("actors here", "none: one process hosts all devices" if f["backend"] == "local"
         else f"{f['actors']:,} on {f['cpus']} CPUs, about {memory['actor_mb']:.0f} MiB each"),
        ("peak memory here", f"about {memory['peak_mb']:,.0f} MiB; the base model has {memory['base_mb']:,.0f} MiB"),
        ("start-up here", f"about {about(start['total_s'])}" + _named_parts(start)),
        ("wall time a round here", "" if f["on_gpus"] else f"about {about(f['expected_round_wall_s'])} of training"),
        ("evaluation here", "" if f["on_gpus"] else _evaluation_words(f["evaluation_s"], f["closing_sketches_s"])),
        *gpu_lines(f["on_gpus"]),
        *node_lines(f["on_nodes"]),
        ("planning took", ", ".join(f"{k} {v:.2f} s" for k, v in f["seconds"].items())
         + f"; peak memory {f['planning_memory_mb']:.0f} MiB"),
    ]  # fmt: skip
    told = [(name, value) for name, value in lines if value]
    return [*told, *(("note", text) for text in f["notes"])]


def _typical_lines(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of the typical round; one line that says so where no round was planned."""
    from dfl_ray.records.words import size

    if not one:
        return [("typical round", "none: no round was planned")]

    def spread(name: str, unit: str, keys: Sequence[str]) -> str:
        return ", ".join(
            f"{k} {one[f'{name}_{k}']:.3g} {unit}" for k in keys if one[f"{name}_{k}"] is not None
        )

    slowest = (
        "" if one["compute_s_max"] is None else f" ({about(one['compute_s_max'])} of it the slowest training)"
    )
    return [
        (f"typical round ({one['round']})", f"{one['transfers']:,} transfers in {one['slots']:,} slots, "
         f"{size(one['payload_bytes'])}, {one['airtime_s']:.3g} s of airtime, {one['energy_j']:.3g} J"),
        ("  simulated", f"{about(one['round_s'])}{slowest}"),
        ("  latency", spread("latency_s", "s", ("p50", "p95", "p99", "max"))),
        ("  fairness", "" if one["fairness"] is None
         else f"{one['fairness']:.3f} (Jain's index of the hops' bits over their latency; 1 = all alike)"),
        ("  SINR", spread("sinr_db", "dB", ("p05", "p50", "p95"))),
    ]  # fmt: skip
