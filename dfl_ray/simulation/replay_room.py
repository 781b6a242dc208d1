"""When what is kept for the replay of lost actors is more than a checkpoint would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dfl_ray.simulation.chosen_packing import actor_needs

if TYPE_CHECKING:
    from dfl_ray.simulation.experiment import Experiment

LEAST_MB = 256.0
"""What may be kept without a checkpoint for its sake, however small the state is."""


class ReplayRoom:
    """Bounds what a run keeps for replays, by what its devices' state has.

    A lost actor is replaced from the last checkpoint and by the calls since then, so without checkpoints a run of R
    rounds keeps the messages, outcomes, transfers and graphs of R rounds. A checkpoint is due when they have outgrown
    the state, at least 256 MB. How many rounds a replacement repeats is not bounded but by `checkpoint.every`.

    Args:
        experiment: The run.
        say: Tells the user, the first time.
    """

    def __init__(self, experiment: Experiment, say: Callable[[str], None]) -> None:
        self._most = max(LEAST_MB, actor_needs(experiment).state_mb * experiment.config.devices.count) * 2**20
        self._say, self._told = say, False
        self._every = experiment.config.checkpoint.every

    def outgrown(self, kept_bytes: int) -> bool:
        """Whether a checkpoint is due for the sake of what is kept.

        Args:
            kept_bytes: Bytes of what is kept since the last checkpoint (`Backend.replay_bytes`).
        """
        if kept_bytes <= self._most:
            return False
        if not self._told:
            self._told = True
            often = "A number of rounds" if self._every == 0 else f"Fewer rounds than {self._every}"
            self._say(
                "What is kept for the replay of lost actors has outgrown the devices' state: a checkpoint is "
                f"saved now, and whenever it does again. {often} between checkpoints (`checkpoint.every`) or no "
                "replay (`runtime.max_restarts=0`) avoid that"
            )
        return True
