"""Is anything slower, relative to what it is measured against, than when it was last committed?

`make bench` runs a set of some minutes: the driver's round against the bare loop's (`overhead.py`), and a group whose
state lies in a memory-mapped file against one in memory, both sides in turns. Only ratios are compared with
`benchmarks/guard.json`, never seconds, and only with figures of the same kind of machine (processor and cores); a ratio
that has grown by more than a tenth is named, and the exit code is 1. `make bench ARGS=--keep` writes the new figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from benchmarks.result import with_origin

KEPT = Path(__file__).with_name("guard.json")
ALLOWED = 0.10
"""Share by which a ratio may grow before it is named."""
SIZES = ((10, False), (100, False), (16, True))
"""Devices, and whether each has an actor of its own, of the driver's ratios."""
FILE_DEVICES, FILE_ROUNDS = 60, 5


def kind(of: Mapping[str, Any]) -> str:
    """Name the kind of a machine: what ratios may depend on.

    Args:
        of: `processor` and `cpus`, as `benchmarks.machine.machine` gives them.
    """
    return f"{of['processor']} x {of['cpus']}"


def compared(found: Mapping[str, float], before: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Set new ratios beside those kept.

    Args:
        found: Name -> ratio, of which smaller is better.
        before: The same of the commit that kept them.

    Returns:
        A line for each name of either, and the names of those that are worse by more than `ALLOWED`; what was not
        measured now counts as worse.
    """
    lines, worse = [], []
    for name in [*before, *(n for n in found if n not in before)]:
        new, old = found.get(name), before.get(name)
        if new is None:
            said, bad = "not measured", True
        elif old is None:
            said, bad = "new", False
        else:
            change = new / old - 1.0
            bad = change > ALLOWED
            said = f"{100 * change:+.0f} %" + (" WORSE" if bad else "")
        cells = ["-" if value is None else f"{value:.3f}" for value in (old, new)]
        lines.append(f"{name:<36}  {cells[0]:>8}  {cells[1]:>8}  {said}")
        worse += [name] if bad else []
    return lines, worse


def kept_ratios(path: Path, of: Mapping[str, Any]) -> dict[str, float]:
    """Read the ratios of a kind of machine.

    Args:
        path: The file, which need not be there.
        of: The machine.

    Returns:
        Name -> ratio; empty where that kind has none.
    """
    return json.loads(path.read_text()).get(kind(of), {}) if path.exists() else {}


def keep(path: Path, of: Mapping[str, Any], found: Mapping[str, float]) -> None:
    """Write the ratios of a kind of machine; those of the others stay.

    Args:
        path: The file.
        of: The machine.
        found: Name -> ratio.
    """
    whole = json.loads(path.read_text()) if path.exists() else {}
    whole[kind(of)] = {name: round(ratio, 4) for name, ratio in found.items()}
    path.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def measured() -> dict[str, float]:
    """Measure all ratios on this machine; takes some minutes."""
    from benchmarks.overhead import compare

    found: dict[str, float] = {}
    for devices, lone in SIZES:
        each = "one actor each" if lone else "packed"
        found[f"round / bare, {devices} devices, {each}"] = compare(devices, lone, "light", ["rounds=12"])[
            "ratio"
        ]
    found["state in a file / in memory"] = file_ratio(FILE_DEVICES, FILE_ROUNDS)
    return found


def file_ratio(devices: int, rounds: int, part: float = 0.1, *more: str) -> float:
    """Time of a round of training and exchange with the state in a file over that in memory, in turns, in one process.

    Args:
        devices: Devices.
        rounds: Rounds; the first is left out.
        part: Budget as a share of the state.
        *more: Settings for both.

    Returns:
        The median of the rounds' quotients.

    Raises:
        RuntimeError: The two have not learnt the same.
    """
    import numpy as np

    from benchmarks.cold_state import make_experiment, make_group, one_round
    from benchmarks.scaling import overrides

    experiment = make_experiment([*overrides(devices, rounds, ()), *more])
    sides = [make_group(experiment, share)[0] for share in (None, part)]
    quotients: list[float] = []
    for round_index in range(1, rounds + 1):
        found = [one_round(group, round_index) for group in sides]
        if not np.array_equal(found[0][1], found[1][1], equal_nan=True):
            raise RuntimeError(f"round {round_index}: the state in the file gives other losses")
        quotients.append(found[1][0] / found[0][0])
    return statistics.median(quotients[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 where a ratio has grown by more than a tenth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="write the new ratios into benchmarks/guard.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    o = parser.parse_args(arguments)
    here = machine()
    before, found = kept_ratios(KEPT, here), measured()
    lines, worse = compared(found, before)
    print("\n".join([f"{kind(here)}", f"{'ratio':<36}  {'kept':>8}  {'now':>8}", *lines]))
    if not before:
        print(
            f"No figures of this kind of machine are kept; keep these by `make bench ARGS=--keep`: {KEPT.name}"
        )
    elif worse:
        print(f"Worse by more than {100 * ALLOWED:.0f} %: {'; '.join(worse)}")
    if o.keep:
        keep(KEPT, here, found)
    if o.json:
        print(json.dumps(with_origin({"ratios": found, "kept": before, "worse": worse})))
    return 1 if worse and not o.keep else 0


if __name__ == "__main__":
    sys.exit(main())
