"""Which devices of a run fail or attack, and what is told and recorded of them."""

from __future__ import annotations

from typing import Any

from dfl_ray.config.schema import Config
from dfl_ray.config.section import named_keys
from dfl_ray.methods.fault_table import FAULTS, SCALED
from dfl_ray.methods.faults import Faults
from dfl_ray.seeds import Stream, generator


def drawn_faults(config: Config) -> Faults:
    """Draw the faulty devices: round(share · devices) of them, at most all but one, by a stream of their own.

    Args:
        config: The experiment.

    Returns:
        The same for the same seed, share and number of devices.
    """
    section, count = config.devices.faults, config.devices.count
    chosen = min(round(section.share * count), count - 1)
    if not chosen:
        return Faults()
    devices = generator(config.seed, Stream.FAULTS).choice(count, chosen, replace=False)
    numbers = tuple(sorted(int(d) for d in devices))
    return Faults(numbers, FAULTS[section.kind], section.from_round, section.scale, config.seed, section.kind)


def fault_notes(config: Config) -> tuple[str, ...]:
    """Say who is faulty and whose accuracy is reported.

    Args:
        config: The experiment.

    Returns:
        At most one sentence, and one where their scale does nothing; none where nobody is faulty.
    """
    section, faults = config.devices.faults, drawn_faults(config)
    if not faults.devices:
        if not section.share:
            idle = named_keys(section) - {"share"}
            named = ", ".join(f"`devices.faults.{key}`" for key in sorted(idle))
            return (
                (f"{named} without effect: `devices.faults.share` is 0, nobody is faulty.",) if idle else ()
            )
        return (f"`devices.faults.share` ({section.share:g}) is less than one device: nobody is faulty.",)
    shown = ", ".join(map(str, faults.devices[:20])) + (", ..." if len(faults.devices) > 20 else "")
    count = config.devices.count
    said = (
        f"{len(faults.devices)} of {count} devices are faulty from round {faults.since} on (`devices.faults.kind` "
        f"{section.kind}): {shown}. Accuracies are those of the {count - len(faults.devices)} honest ones.",
    )
    if section.kind in set(FAULTS.own) - set(SCALED) and "scale" in named_keys(section):
        scaled = ", ".join(SCALED)
        said += (
            f"`devices.faults.scale` without effect: `devices.faults.kind` is {section.kind}, not one of {scaled}.",
        )
    return said


def fault_record(config: Config) -> dict[str, dict[str, Any]]:
    """What `run.json` says of faulty devices.

    Args:
        config: The experiment.

    Returns:
        `faults` with `kind`, `from_round` and `devices`; empty where nobody is faulty.
    """
    faults = drawn_faults(config)
    if not faults.devices:
        return {}
    kind = config.devices.faults.kind
    return {"faults": {"kind": kind, "from_round": faults.since, "devices": list(faults.devices)}}
