"""How fast is the same work elsewhere? Ours, Flower's simulation and p2pfl's, one after the other on this machine.

`python benchmarks/peers.py --model FOLDER --tasks FOLDER --flower PYTHON --p2pfl PYTHON --json` fine-tunes LoRA
adapters (rank 8, all linear layers, A and B trained) of 100 devices on `sst2`: 5 local steps of 8 rows of at most 96
tokens, everyone in every round. Each peer needs an environment of its own: PYTHON is its interpreter; `--make FOLDER`
makes FOLDER/flower and FOLDER/p2pfl with pip first. A peer that is not named is left out. Evaluation is left out of
all sides' rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.result import with_origin
from benchmarks.timed_run import measure
from dfl_ray.config.load import override_texts
from dfl_ray.packing.machine import usable_cpus

PEERS = {
    "flower": ("flwr[simulation]==1.41.*", "torch==2.13.0", "transformers>=5.23,<6", "peft>=0.21,<0.22", "psutil"),
    "p2pfl": (
        "p2pfl==0.4.3", "torch==2.13.0", "transformers==4.46.3", "peft==0.13.2", "huggingface_hub==0.25.2",
        "pyarrow<20", "psutil",
    ),
}  # fmt: skip
"""What each peer's environment needs; p2pfl's `datasets` takes no newer transformers."""
LENGTH, RANK, TASK = 96, 8, "sst2"


def settings(o: argparse.Namespace) -> list[str]:
    """The work as settings of our side."""
    return [
        "method=dlora", f"method.rank={RANK}", f"method.alpha={2 * RANK}", "method.learning_rate=0.001",
        f"method.local_steps={o.steps}", f"method.batch_rows={o.batch}", f"devices.count={o.devices}",
        "devices.partition=one_each", "devices.min_holders=1",
        "devices.area_m=[300,300]", "topology.type=ring", "topology.reach=ignore", "tasks.source=files",
        *override_texts({"tasks.path": str(o.tasks), "model.name": str(o.model)}),
        f"tasks.names=[{TASK}]", "tasks.train_rows=2000", f"model.max_tokens={LENGTH}", f"rounds={o.rounds}",
        f"evaluate.every={o.rounds}", "evaluate.rows_per_task=1", "checkpoint.every=0", *o.overrides,
    ]  # fmt: skip


def ours(o: argparse.Namespace) -> dict[str, Any]:
    """Our side: the whole driver, radio and records included."""
    script = str(Path(__file__).with_name("timed_run.py"))
    return measure([sys.executable, script, *settings(o)])


def peer_arguments(o: argparse.Namespace) -> list[str]:
    """The work as arguments of a peer's script."""
    rows = Path(o.tasks) / TASK / "train.jsonl"
    given = {
        "model": o.model, "rows-file": rows, "devices": o.devices, "rounds": o.rounds, "steps": o.steps,
        "batch": o.batch, "length": LENGTH, "rank": RANK, "cpus": usable_cpus(),
    }  # fmt: skip
    return [part for key, value in given.items() for part in (f"--{key}", str(value))]


def peer(name: str, o: argparse.Namespace, python: str) -> dict[str, Any]:
    """A peer's side, in its own environment."""
    return measure([python, str(Path(__file__).with_name(f"peer_{name}.py")), *peer_arguments(o)])


def environment(name: str, folder: Path) -> str:
    """Make a peer's environment unless it is there, and give its interpreter."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS[name]], check=True)
    return str(python)


def lines(sides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table, and how many times better ours is."""
    out = [f"{'side':>10}  {'device-steps/s':>14}  {'first round s':>13}  {'peak MB':>8}"]
    for name, f in sides.items():
        speed = f.get("device_steps_per_s", float("nan"))
        out.append(f"{name:>10}  {speed:>14.1f}  {f['first_round_s']:>13.1f}  {f['peak_mb']:>8.0f}")
    for name, found in ratios(sides).items():
        out += [f"{name}: {key}: {value:.2f}" for key, value in found.items()]
    return out


def ratios(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours over each peer's for speed, and the other quantities as shares of the peer's."""
    mine = sides["dfl-ray"]
    return {
        name: {
            "times the device-steps per second": mine["device_steps_per_s"] / its["device_steps_per_s"],
            "share of the memory": mine["peak_mb"] / its["peak_mb"],
            "share of the time to the first round": mine["first_round_s"] / its["first_round_s"],
        }
        for name, its in sides.items()
        if name != "dfl-ray" and {"device_steps_per_s"} <= set(its) & set(mine)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of the stories260K model")
    parser.add_argument("--tasks", required=True, help=f"folder that holds {TASK}/train.jsonl and test.jsonl")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="local steps")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    for name in PEERS:
        parser.add_argument(f"--{name}", help=f"interpreter of an environment with {name}")
    parser.add_argument("--make", type=Path, help="folder to make the missing ones in")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value settings of our side")
    o = parser.parse_args(arguments)
    sides = {"dfl-ray": ours(o)}
    for name in PEERS:
        python = getattr(o, name) or (environment(name, o.make) if o.make else None)
        if python:
            sides[name] = peer(name, o, python)
    print("\n".join(lines(sides)))
    if o.json:
        print(json.dumps(with_origin({"sides": sides, "ratios": ratios(sides)})))


if __name__ == "__main__":
    main()
