"""Does the order of the methods survive another radio?

`python benchmarks/radio_methods.py --seeds 3 --json` trains the embedded suite on 10 devices with each method over each
radio: the default one, the presets of `RADIOS` (their areas and radios, nothing else), and one harsher than all. It
prints accuracy, bytes, airtime, radio energy and the share of delivered transfers of each, means over seeds; then, for
each radio, in how many pairs of methods the order is that of the default radio (Kendall's tau), of final accuracy and
of airtime. Pairs whose difference is smaller than its own 95 % interval over seeds (paired, Student's t) are left out
of the first. Finished runs are kept in the folder and read again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.comparison import Curve, Interval, curve_of
from benchmarks.kept_runs import say, settings_of, state_of
from benchmarks.result import with_origin

METHODS = "sparse_orthogonal,dlora,fedsa,choco,ffa"
SETTING = (
    "runtime.backend=local", "runtime.report=false", "track.trackers=[]", "devices.count=10", "rounds=8",
    "evaluate.every=8", "method.learning_rate=1e-2", "method.warmup_rounds=1",
)  # fmt: skip
HARSH = (
    "devices.area_m=[300,300]", "radio.external_per_km2=40", "radio.external_duty=0.5", "radio.max_attempts=2",
    "radio.harq=none", "radio.bandwidth_hz=5e6", "radio.subchannels=1", "radio.deadline_s=0.6",
)  # fmt: skip
RADIOS: Mapping[str, tuple[str | None, tuple[str, ...]]] = MappingProxyType(
    {
        "default": (None, ()),
        "nr-sidelink": ("nr-sidelink", ("devices.area_m=[300,300]",)),
        "wifi-direct": ("wifi-direct", ()),
        "mmwave-indoor": ("mmwave-indoor", ()),
        "harsh": ("nr-sidelink", HARSH),
    }
)  # fmt: skip
"""A preset and settings of each radio."""

COLUMNS = (("accuracy", 100, 1), ("payload_bytes", 1e-6, 2), ("airtime_s", 1, 2), ("radio_energy_j", 1, 2),
           ("delivered", 100, 1))  # fmt: skip
HEADS = ("accuracy %", "MB on air", "airtime s", "radio J", "delivered %")


def one_run(radio: str, method: str, seed: int, folder: Path, extra: Sequence[str]) -> Curve:
    """Train one method over one radio in this process, unless that was done before."""
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.launch import launch

    name = f"{radio}-{method.replace(':', '-').replace('=', '-')}-s{seed}"
    path = folder / name
    if state_of(path) != "done":
        shutil.rmtree(path, ignore_errors=True)
        preset, own = RADIOS[radio]
        words = [
            *SETTING,
            *settings_of(method),
            *own,
            *extra,
            f"seed={seed}",
            f"name={name}",
            f"runtime.runs_dir={folder}",
        ]
        launch(load_config(preset, words), json=True)
    return curve_of(path, method)


def figure(curve: Curve, name: str) -> float:
    """A final figure of a run; costs are sums over its rounds."""
    return curve.figures[name]


def agreement(
    base: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], *, sure: bool
) -> dict[str, float]:
    """How far two orders of methods agree.

    Args:
        base: Method -> figure of each seed, over the default radio.
        other: The same over another radio.
        sure: Whether only pairs count whose difference over the default radio lies outside its interval.

    Returns:
        Pairs counted, those in the same order, and Kendall's tau of them.
    """
    same = counted = 0
    for a, b in itertools.combinations(base, 2):
        gap = Interval.of([x - y for x, y in zip(base[a], base[b], strict=True)])
        if gap.mean == 0 or (sure and abs(gap.mean) < gap.half_width):
            continue
        counted += 1
        same += float(np.mean(other[a]) - np.mean(other[b])) * gap.mean > 0
    return {"pairs": counted, "same": same, "tau": 2 * same / counted - 1 if counted else float("nan")}


def table(results: Mapping[str, Mapping[str, Sequence[Curve]]]) -> list[str]:
    """The table in Markdown: a row a radio and method."""
    lines = ["| radio | method | " + " | ".join(HEADS) + " |", "|---" * (2 + len(HEADS)) + "|"]
    for radio, methods in results.items():
        for method, curves in methods.items():
            cells = [
                Interval.of([figure(c, n) for c in curves]).text(scale, digits)
                for n, scale, digits in COLUMNS
            ]
            lines.append(f"| {radio} | `{method}` | " + " | ".join(cells) + " |")
    return lines


def orders(results: Mapping[str, Mapping[str, Sequence[Curve]]]) -> dict[str, dict[str, Any]]:
    """Order by accuracy and by airtime over each radio, and how far it is that over the first."""
    first, out = next(iter(results)), dict[str, dict[str, Any]]()
    for name, falling in (("accuracy", True), ("airtime_s", False)):
        values = {
            r: {m: [figure(c, name) for c in curves] for m, curves in ms.items()} for r, ms in results.items()
        }
        for radio, found in values.items():
            ranked = sorted(found, key=lambda m: float(np.mean(found[m])), reverse=falling)
            out.setdefault(radio, {})[name] = {
                "order": ranked, **agreement(values[first], found, sure=name == "accuracy"),
            }  # fmt: skip
    return out


def main() -> None:
    """Run, print the table and the orders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods", default=METHODS, help="methods with settings, as in benchmarks/methods.py"
    )
    parser.add_argument("--radios", default=",".join(RADIOS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--folder", type=Path, default=Path("runs/radio_methods"), help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("extra", nargs="*", help="key=value for every run")
    given = parser.parse_args()
    results: dict[str, dict[str, list[Curve]]] = {}
    for radio in given.radios.split(","):
        for method in given.methods.split(","):
            curves = [one_run(radio, method, s, given.folder, given.extra) for s in range(given.seeds)]
            results.setdefault(radio, {})[method] = curves
            say(table({radio: {method: curves}})[-1])
    print("\n".join(table(results)))
    ordered = orders(results)
    for radio, found in ordered.items():
        for name, one in found.items():
            agreed = f"{one['same']} of {one['pairs']} pairs as over the first radio"
            print(f"{radio}, {name}: {', '.join(one['order'])}; {agreed}")
    if given.json:
        figures = {
            r: {m: {n: [figure(c, n) for c in cs] for n, _, _ in COLUMNS} for m, cs in ms.items()}
            for r, ms in results.items()
        }
        print(json.dumps(with_origin({"radios": figures, "orders": ordered}, seeds=given.seeds)))


if __name__ == "__main__":
    main()
