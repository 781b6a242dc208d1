"""What ends a run before its last round: virtual time, energy or accuracy, as `stop` asks."""

from __future__ import annotations

from dataclasses import dataclass

from dfl_ray.config.schema import StopConfig


@dataclass
class Goals:
    """How far a run is on the way to what ends it.

    Attributes:
        stop: The configuration's `stop`.
        spent_j: Energy of all rounds so far, joules.
    """

    stop: StopConfig
    spent_j: float = 0.0

    def spent(self, simulated_s: float, energy_j: float) -> str | None:
        """Take in what a finished round has cost and say whether the run ends with it.

        Args:
            simulated_s: Virtual time at its end, seconds.
            energy_j: Energy of this round, joules.

        Returns:
            What has been reached, in words; None if nothing has.
        """
        self.spent_j += energy_j
        wanted = self.stop
        if wanted.simulated_s is not None and simulated_s >= wanted.simulated_s:
            return f"{simulated_s:.4g} s simulated (`stop.simulated_s` {wanted.simulated_s:g})"
        if wanted.joules is not None and self.spent_j >= wanted.joules:
            return f"{self.spent_j:.4g} J spent (`stop.joules` {wanted.joules:g})"
        return None

    def learnt(self, accuracy: float | None) -> str | None:
        """Say whether the run ends with a round for what has been learnt.

        Args:
            accuracy: Mean accuracy after it in [0, 1]; None where it was not evaluated.

        Returns:
            What has been reached, in words; None if it has not.
        """
        wanted = self.stop.accuracy
        if wanted is None or accuracy is None or accuracy < wanted:
            return None
        return f"accuracy {accuracy:.1%} (`stop.accuracy` {wanted:g})"
