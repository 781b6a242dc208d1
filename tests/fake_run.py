"""A made-up run with the shape of a real one: learning curves, a map, a radio schedule, losses.

The numbers come from simple laws and a seed (log-distance SINR, saturating curves), so that pictures and
reports can be looked at and tested without training anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dfl_ray.records import RunFolder, load_run

TASKS = ("parity", "lookup", "agree", "sum", "reverse", "topic")


@dataclass(frozen=True)
class Fake:
    """What the made-up run looks like."""

    devices: int = 10
    rounds: int = 30
    every: int = 5
    method: str = "sparse_orthogonal"
    seed: int = 0
    final: float = 0.93
    message_bytes: int = 4_200
    state: str = "done"
    tasks: tuple[str, ...] = TASKS


def write_fake_run(runs_dir: Path, name: str = "fake", fake: Fake | None = None) -> Path:
    """Write a made-up run folder and return its path."""
    fake = fake or Fake()
    rng = np.random.default_rng(fake.seed)
    config = {"name": name, "seed": fake.seed, "rounds": fake.rounds, "devices": {"count": fake.devices}}
    method = {"type": fake.method, "rank": 8} | (
        {"rule": "likelihood"} if fake.method == "sparse_orthogonal" else {}
    )
    folder = RunFolder.create(runs_dir, name, {**config, "method": method})
    nodes, edges = _topology(fake, rng)
    folder.write_topology(nodes, edges)
    folder.append({"evaluation": _evaluation(fake, nodes, 0, rng)}, 0)
    best = 0.0
    for number in range(1, fake.rounds + 1):
        tables = _tables(fake, nodes, edges, number, best, rng)
        best = max(best, float(tables["rounds"]["accuracy_mean"].fillna(0).iloc[0]))
        folder.append(tables, number)
    if fake.state == "running":
        folder.close()
    else:
        folder.finish(fake.state)
    return folder.path


def write_next_round(path: Path, fake: Fake) -> None:
    """Add one more round to a made-up run that goes on, evaluated like its others."""
    run = load_run(path)
    nodes, edges = run.topology_at(run.last_round)
    number = run.last_round + 1
    tables = _tables(fake, nodes, edges, number, 0.0, np.random.default_rng([fake.seed, number]))
    folder = RunFolder.open(path)
    folder.append(tables, number)
    folder.close()


def _tables(fake: Fake, nodes, edges, number: int, best: float, rng: np.random.Generator) -> dict:
    """The record tables of one round."""
    transfers = _transfers(fake, nodes, edges, number, rng)
    attempts = _attempts(transfers)
    tables = {
        "transfers": transfers,
        "attempts": attempts,
        "devices": _devices(fake, nodes, transfers, attempts, number, rng),
    }
    if number % fake.every == 0 or number == fake.rounds:
        tables["evaluation"] = _evaluation(fake, nodes, number, rng)
        tables["experts"] = _experts(fake, nodes, number)
        if fake.method == "sparse_orthogonal":
            tables["routing"] = _routing(fake, number)
    tables["rounds"] = _round(fake, tables, number, best, rng)
    return tables


def _topology(fake: Fake, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    side = 300.0 * np.sqrt(fake.devices / 10)
    positions = rng.uniform(0, side, (fake.devices, 2))
    count = len(fake.tasks)
    held = [(device % count, (device + 1 + device // count) % count) for device in range(fake.devices)]
    nodes = pd.DataFrame(
        {
            "device": range(fake.devices),
            "x_m": positions[:, 0],
            "y_m": positions[:, 1],
            "tasks": [",".join(fake.tasks[task] for task in tasks) for tasks in held],
            "cluster": [int(tasks[0]) for tasks in held],
        }
    )
    from scipy.spatial import KDTree

    _, near = KDTree(positions).query(positions, k=min(4, fake.devices))
    pairs = np.unique(np.sort([(i, j) for i, row in enumerate(near) for j in row[1:]], axis=1), axis=0)
    length = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    shared = [bool(set(held[a]) & set(held[b])) for a, b in pairs]
    edges = pd.DataFrame(
        {
            "source": pairs[:, 0],
            "destination": pairs[:, 1],
            "length_m": length,
            "mean_snr_db": 62 - 22 * np.log10(np.maximum(length, 3)) + rng.normal(0, 3, len(pairs)),
            "airtime_s_per_mb": 0.8 + length / 100,
            "kind": np.where(shared, "intra", "gateway"),
        }
    )
    return nodes, edges


def _transfers(fake: Fake, nodes, edges, number: int, rng: np.random.Generator) -> pd.DataFrame:
    ends = edges[["source", "destination"]].to_numpy()
    both = np.concatenate([ends, ends[:, ::-1]])
    snr = np.tile(edges["mean_snr_db"].to_numpy(), 2)
    sinr = snr - rng.exponential(3, len(both)) + 10 * np.log10(rng.exponential(1, len(both)) + 0.02)
    efficiency = np.log2(1 + 10 ** (sinr / 10) / 2)
    rate = 1e6 * np.maximum(efficiency, 0.05)
    delivered = sinr > 0
    duration = 8 * fake.message_bytes / rate
    slot = np.arange(len(both)) // max(2, fake.devices // 4)
    length = pd.Series(duration).groupby(slot).max()
    start = length.cumsum().shift(fill_value=0.0).loc[slot].to_numpy()
    tries = np.where(delivered, 1, 3)
    return pd.DataFrame(
        {
            "transfer": range(len(both)),
            "slot": slot,
            "source": both[:, 0],
            "destination": both[:, 1],
            "kind": np.where(np.tile(edges["kind"] == "gateway", 2), "expert", "adapter"),
            "task": [nodes["tasks"].iloc[source].split(",")[0] for source in both[:, 0]],
            "sinr_db": sinr,
            "rate_bps": rate,
            "start_s": start,
            "end_s": start + tries * duration,
            "payload_bytes": fake.message_bytes,
            "attempts": tries,
            "delivered": delivered,
            "energy_j": 0.4 * duration * tries,
            "message": 0,
            "hop": 1,
            "origin": both[:, 0],
            "receiver": both[:, 1],
            "outcome": np.where(delivered, "delivered", "failed"),
        }
    )


def _attempts(transfers: pd.DataFrame) -> pd.DataFrame:
    """Every attempt of the transfers, one after the other, each as long as the last and with its SINR."""
    rows = transfers.loc[transfers.index.repeat(transfers["attempts"])].reset_index(drop=True)
    attempt = rows.groupby("transfer").cumcount() + 1
    duration = (rows["end_s"] - rows["start_s"]) / rows["attempts"]
    begin = rows["start_s"] + (attempt - 1) * duration
    columns = [
        "transfer",
        "slot",
        "source",
        "destination",
        "sinr_db",
        "rate_bps",
        "payload_bytes",
        "delivered",
    ]
    return rows[columns].assign(
        attempt=attempt,
        transmission=np.arange(len(rows)),
        subchannel=0,
        start_s=begin,
        end_s=begin + duration,
        decoded=rows["delivered"],
        energy_j=rows["energy_j"] / rows["attempts"],
        power_w=0.1,
    )


def _devices(fake: Fake, nodes, transfers, attempts, number: int, rng: np.random.Generator) -> pd.DataFrame:
    sent = attempts["payload_bytes"].groupby(attempts["source"]).sum()
    got = (transfers["payload_bytes"] * transfers["delivered"]).groupby(transfers["destination"]).sum()
    index = range(fake.devices)
    return pd.DataFrame(
        {
            "device": index,
            "loss": 2.2 * np.exp(-number / 8) + 0.1 + rng.normal(0, 0.03, fake.devices),
            "gradient_norm": 0.8 + rng.random(fake.devices),
            "compute_s": 0.4,
            "energy_j": 0.3,
            "sent_bytes": sent.reindex(index, fill_value=0).to_numpy(),
            "received_bytes": got.reindex(index, fill_value=0).to_numpy(),
            "refused": 0,
            "alive": True,
            "x_m": nodes["x_m"],
            "y_m": nodes["y_m"],
            "tasks": nodes["tasks"],
            "actor": [f"device-{device:04d}" for device in index],
        }
    )


def _evaluation(fake: Fake, nodes, number: int, rng: np.random.Generator) -> pd.DataFrame:
    rules = (
        {"likelihood": 1.0, "oracle": 1.02, "sum": 0.5}
        if fake.method == "sparse_orthogonal"
        else {"sum": 1.0}
    )
    if number < fake.rounds:
        rules = dict(list(rules.items())[:1])
    frames = []
    for rule, factor in rules.items():
        for position, task in enumerate(fake.tasks):
            learnt = 1 - np.exp(-number / (4 + 2 * position))
            top = min(1.0, factor * fake.final * (1 - 0.04 * position))
            accuracy = 0.12 + (top - 0.12) * learnt + rng.normal(0, 0.02, fake.devices)
            routed = 0.97 if rule == "likelihood" else np.nan
            frames.append(
                pd.DataFrame(
                    {
                        "device": range(fake.devices),
                        "task": task,
                        "rule": rule,
                        "accuracy": np.clip(accuracy, 0, 1),
                        "rows": 64,
                        "chance": 0.125,
                        "routed_right": routed,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _experts(fake: Fake, nodes, number: int) -> pd.DataFrame:
    """Experts: its own of the tasks it holds, replicas of the others, older from task to task; none of the last."""
    count = len(fake.tasks)
    held = [{fake.tasks.index(task) for task in tasks.split(",")} for tasks in nodes["tasks"]]
    device, task = np.divmod(np.arange(fake.devices * count), count)
    own = np.array([t in held[d] for d, t in zip(device, task, strict=True)])
    one_adapter = fake.method != "sparse_orthogonal"
    own |= one_adapter
    none = ~own & (task == count - 1)
    version = np.maximum(1, number - task)
    return pd.DataFrame(
        {
            "device": device,
            "task": np.array(fake.tasks, object)[task],
            "holding": np.where(own, "own", np.where(none, "none", "replica")),
            "author": pd.Series(np.where(own, device, task % fake.devices), dtype="Int64").mask(none),
            "version": pd.Series(version, dtype="Int64").mask(own | none),
            "age_rounds": pd.Series(np.where(own, 0, number - version), dtype="Int64").mask(none),
        }
    )


def _routing(fake: Fake, number: int) -> pd.DataFrame:
    """Of 64 rows of a task 60 go to its own expert and 4 to that of the next task."""
    count = len(fake.tasks)
    device, task = np.divmod(np.arange(fake.devices * count), count)
    names = np.array(fake.tasks, object)
    choices = ((task, 60), ((task + 1) % count, 4))
    parts = [
        pd.DataFrame(
            {"device": device, "rule": "likelihood", "task": names[task], "chosen": names[to], "rows": rows}
        )
        for to, rows in choices
    ]
    return pd.concat(parts, ignore_index=True)


def _round(fake: Fake, tables, number: int, best: float, rng: np.random.Generator) -> pd.DataFrame:
    transfers, attempts, rows = tables["transfers"], tables["attempts"], tables.get("evaluation")
    accuracy = worst = np.nan
    if rows is not None:
        by_task = rows[rows["rule"] == rows["rule"].iloc[0]].groupby("task")["accuracy"].mean()
        accuracy, worst = by_task.mean(), by_task.min()
    train, evaluate = 0.9 + 0.1 * rng.random(), 0.0 if rows is None else 0.8
    small = {"plan_wall_s": 0.02, "exchange_wall_s": 0.05, "record_wall_s": 0.03}
    wall = train + evaluate + sum(small.values())
    row = {
        "simulated_s": number * 0.9 + 0.01 * rng.random(),
        "payload_bytes": int(attempts["payload_bytes"].sum()),
        "airtime_s": float((attempts["end_s"] - attempts["start_s"]).sum()),
        "energy_j": float(transfers["energy_j"].sum()) + 0.3 * fake.devices,
        "delivered_fraction": transfers["delivered"].mean(),
        "accuracy_mean": accuracy,
        "accuracy_worst_task": worst,
        "forgetting_mean": max(0.0, best - accuracy),
        "wall_s": wall,
        "train_loss": tables["devices"]["loss"].mean(),
        "consensus_distance": 0.02,
        "collision_b": 0.25,
        "collision_delta_w": 0.9,
        "spectral_gap": 0.31,
        "density": max(0.5, 1 - number / 20),
        **{f"sinr_db_p{q:02d}": np.percentile(attempts["sinr_db"], q) for q in (5, 50, 95)},
        "transfers": len(transfers),
        "delivered": int(transfers["delivered"].sum()),
        "lost": int((~transfers["delivered"]).sum()),
        "refused": 0,
        "skipped_devices": 0,
        "alive_devices": fake.devices,
        "train_wall_s": train,
        "evaluate_wall_s": evaluate,
        **small,
        "overhead_fraction": sum(small.values()) / wall,
    }
    return pd.DataFrame([row])
