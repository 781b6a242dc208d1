"""What a run's records say of faulty devices, of a backdoor's success and of privacy, in words."""

from __future__ import annotations

from collections.abc import Mapping

from dfl_ray.records.loading import Run
from dfl_ray.records.words import share


def asked_devices(run: Run) -> str:
    """Whose accuracies a run reports last: all devices, the honest ones, or as many as were not off or empty."""
    if run.info.get("faults"):
        return "honest devices"
    last, count = run.last_evaluated, run.config.get("devices", {}).get("count", 0)
    rows = run.table("evaluation", columns=["device"], rounds=(last, last))
    asked = int(rows["device"][rows["device"] >= 0].nunique())
    return f"{asked} of {count} devices" if 0 < asked < count else "all devices"


def fault_lines(run: Run) -> list[str]:
    """Who was faulty, and how far a backdoor came.

    Args:
        run: The run, complete or not.

    Returns:
        One or two sentences; none where nobody was faulty.
    """
    faults = run.info.get("faults")
    if not faults:
        return []
    devices = faults["devices"]
    shown = ", ".join(map(str, devices[:20])) + (", ..." if len(devices) > 20 else "")
    lines = [
        f"Faulty from round {faults['from_round']} on ({faults['kind']}): {len(devices)} devices, {shown}. Accuracies "
        "are those of the others."
    ]
    success = faults.get("attack_success") or {}
    if success:
        told = ", ".join(f"{share(success[r])} after round {r}" for r in sorted(success, key=int))
        lines.append(f"Prompts with the backdoor's trigger that get its answer: {told}.")
    return lines


def privacy_lines(run: Run) -> list[str]:
    """What privacy a run has spent; none where no mechanism was chosen, or it has not ended."""
    privacy = run.info.get("privacy")
    if not privacy:
        return []
    if privacy["epsilon"] is None:
        return [f"Privacy: epsilon is not known: {privacy['why']}"]
    found = {int(device): float(value) for device, value in privacy["epsilon"].items()}
    return [privacy_line(found, privacy["hidden"], privacy["delta"])]


def privacy_line(found: Mapping[int, float], hidden: str, delta: float) -> str:
    """Say what privacy a run has spent.

    Args:
        found: Device -> epsilon, at least one.
        hidden: `device` or `row`.
        delta: delta.

    Returns:
        One sentence.
    """
    least, most = min(found.values()), max(found.values())
    shown = f"{most:.2f}" if most - least < 0.005 else f"{least:.2f} to {most:.2f}"
    what = "a device's data" if hidden == "device" else "one training row"
    return f"Privacy: epsilon {shown} a device at delta {delta:g}, hiding {what} (`run.json: privacy`)."
