"""What a run should be told of its method's settings."""

from __future__ import annotations

from dfl_ray.config.baselines import ChocoConfig
from dfl_ray.config.schema import Config

CHOCO_STEP = 0.6
"""Largest `consensus_step` at which CHOCO was seen to converge with a tenth of the entries."""
CHOCO_SHARE = 0.1
"""That tenth."""


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
        if share <= CHOCO_SHARE and step > CHOCO_STEP:
            notes.append(
                f"`method.consensus_step` {step:g} is large for `method.keep_share` {share:g}: CHOCO was seen to "
                f"diverge above {CHOCO_STEP:g} with a share of {CHOCO_SHARE:g}."
            )
    if method.hub is not None and config.rounds % (method.exchange_every + 1):
        cycle = method.exchange_every + 1
        notes.append(
            f"`{method.name}` takes cycles of {cycle} rounds, and `rounds` {config.rounds} is no multiple of that: the "
            "run ends with adapters that the server has not averaged."
        )
    return tuple(notes)
