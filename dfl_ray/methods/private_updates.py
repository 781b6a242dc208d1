"""Clipping and noise on what a device has learnt since it last sent: the Gaussian mechanism on updates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dfl_ray.config.privacy import PrivacyConfig
from dfl_ray.methods.aggregations import PartState
from dfl_ray.seeds import Stream, generator


@dataclass(frozen=True)
class PrivateUpdates:
    """The mechanism `updates` of a run.

    A part's public values p are those that everybody may know: its start, and after each mixing in a round in which
    the device sent, what came of it. It sends y = p + u min(1, C / |u|) + n with u = x - p, n ~ N(0, (s C)^2), and
    goes on with y itself, so that all it ever says later is a function of what it has said and heard. Each message of
    a part is one Gaussian mechanism of sensitivity C with the noise multiplier s.

    Source: McMahan et al. 2018 (arXiv 1710.06963), user-level privacy, with the device in place of the server, which
    does not exist here.

    Attributes:
        privacy: C, s and whether this is the mechanism of the run.
        seed: The run's seed.
    """

    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    seed: int = 0

    @property
    def wanted(self) -> bool:
        """Whether what is sent is made private."""
        return self.privacy.mechanism == "updates"

    def begin(self, kept: PartState, values: np.ndarray) -> None:
        """Before local steps: the values of the first round are public; `values` is (size,) float32."""
        if self.wanted and kept.public is None:
            kept.public = values.copy()

    def said(
        self, kept: PartState, values: np.ndarray, keep: np.ndarray | None, round_index: int, *key: int
    ) -> np.ndarray:
        """Make the values private that are about to be sent.

        Args:
            kept: The part's state.
            values: (size,) float32 x after the local steps.
            keep: (size,) bool of the exchanged entries; None = all. The others stay as they are.
            round_index: The round, from 1.
            key: Numbers >= 0 that tell this part from all others of the round.

        Returns:
            (size,) float32 y; x itself under another mechanism.
        """
        if not self.wanted:
            return values
        assert kept.public is not None, "begin has not been called"
        where = slice(None) if keep is None else keep
        start = kept.public[where].astype(np.float64)
        update = values[where] - start
        norm, clip = float(np.linalg.norm(update)), self.privacy.clip_norm
        rng = generator(self.seed, Stream.PRIVACY, round_index, *key)
        noise = rng.normal(0.0, self.privacy.noise_multiplier * clip, len(update))
        private = values.copy()
        private[where] = start + update * min(1.0, clip / norm if norm else 1.0) + noise
        kept.sent_private = True
        return private

    def mixed(self, kept: PartState, values: np.ndarray) -> None:
        """After mixing: what the device goes on with is public, (size,) float32, if it sent in this round."""
        if self.wanted and kept.sent_private:
            kept.public, kept.sent_private = values.copy(), False
