"""What a run should be told of its method's settings."""

from __future__ import annotations

from dfl_ray.config.baselines import ChocoConfig
from dfl_ray.config.literature import FedSbConfig
from dfl_ray.config.schema import Config

CHOCO_STEP_PER_SHARE = 4.0
"""Largest `consensus_step` over `keep_share` without a warning. Ten devices on a ring that only average hold together
at 4 and diverge at 6 (tests/unit/dfl_ray/methods/test_methods_listed.py); denser graphs bear less."""


def method_notes(config: Config) -> tuple[str, ...]:
    """Say what is odd about the settings of a method, though each is allowed.

    Args:
        config: The experiment.

    Returns:
        One sentence each.
    """
    method, notes = config.method, []
    if isinstance(method, ChocoConfig):
        share, step = method.keep_share, method.consensus_step
        if step > CHOCO_STEP_PER_SHARE * share * (1 + 1e-9):
            notes.append(
                f"`method.consensus_step` {step:g} is large for `method.keep_share` {share:g}: CHOCO may diverge above "
                f"{CHOCO_STEP_PER_SHARE:g} times the share, on dense graphs even below."
            )
    if isinstance(method, FedSbConfig) and method.bases == "gradient":
        notes.append(
            f"The bases come from the gradient of {method.bases_rows} training rows of the devices, computed before "
            "the run: how it is formed and how the bases reach every device is not simulated and costs nothing here."
        )
    if method.hub is not None and config.rounds % (method.exchange_every + 1):
        cycle = method.exchange_every + 1
        notes.append(
            f"`{method.name}` takes cycles of {cycle} rounds, and `rounds` {config.rounds} is no multiple of that: the "
            "run ends with adapters that the server has not averaged."
        )
    return tuple(notes)
