"""Devices that fail or attack: what each kind of fault makes of what a device sends, learns and does.

A faulty device keeps its own state honest; what is wrong is what it says. Values are falsified where parts of adapters
become messages (`methods.exchange`), after rounding, error feedback and the bookkeeping of push-sum, so every method
that exchanges them is attacked alike. Published updates (experts, masks, sketches) are not falsified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dfl_ray.errors import RunError, paragraph
from dfl_ray.methods.aggregations import PartState
from dfl_ray.seeds import Stream, generator

_ALL = 2**31
"""Stands for all devices in the key of a draw; no device has this number."""


@dataclass(frozen=True)
class Said:
    """What a faulty device would say if it were honest.

    Attributes:
        values: (kept,) float32.
        part: The part's state; `stale` may be set.
        scale: `devices.faults.scale`.
        rng: Draws of this message.
        shared_rng: Draws that all faulty devices make alike for this part in this round.
    """

    values: np.ndarray
    part: PartState
    scale: float
    rng: np.random.Generator
    shared_rng: np.random.Generator


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        values: Gives the (kept,) float32 that are sent instead; None = what is sent is not falsified.
        trains: Whether the device does anything at all.
        sends: Whether it sends.
        flips_labels: Whether it learns wrong labels (`tasks.flipped`).
        backdoor: Whether it learns to answer a trigger with a target (`tasks.triggered`).
    """

    values: Callable[[Said], np.ndarray] | None = None
    trains: bool = True
    sends: bool = True
    flips_labels: bool = False
    backdoor: bool = False


@dataclass(frozen=True)
class Faults:
    """The faulty devices of a run.

    Attributes:
        devices: Their numbers, ascending.
        fault: What they do.
        since: The first round in which they do it.
        scale: `devices.faults.scale`.
        seed: The run's seed.
        kind: The fault's name, `devices.faults.kind`.
    """

    devices: tuple[int, ...] = ()
    fault: Fault = Fault()
    since: int = 1
    scale: float = 1.0
    seed: int = 0
    kind: str = ""

    @cached_property
    def _faulty(self) -> frozenset[int]:
        return frozenset(self.devices)

    def falsified(
        self, device: int, round_index: int, part: PartState, values: np.ndarray, *key: int
    ) -> np.ndarray | None:
        """What a device sends instead of its values.

        Args:
            device: The sender.
            round_index: The round, from 1.
            part: The state of the part.
            values: (kept,) float32 what it would send.
            key: Numbers >= 0 that tell this message from the device's others of the round.

        Returns:
            (kept,) float32; None = the values as they are.

        Raises:
            RunError: The fault gives something else.
        """
        if device not in self._faulty or round_index < self.since or self.fault.values is None:
            return None
        rng, shared = (generator(self.seed, Stream.FAULTS, round_index, d, *key) for d in (device, _ALL))
        sent = self.fault.values(Said(values, part, self.scale, rng, shared))
        if not isinstance(sent, np.ndarray) or sent.shape != values.shape or sent.dtype.kind not in "fiu":
            kind = type(sent).__name__
            raise RunError(
                paragraph(
                    f"The fault `{self.kind}` (`devices.faults.kind`) does not give the values that a message has",
                    got=f"{sent.shape} {sent.dtype}" if isinstance(sent, np.ndarray) else f"a {kind}",
                    expected=f"{values.shape} float32",
                )
            )
        return sent

    def learns_wrong(self, device: int, round_index: int) -> bool:
        """Whether a device learns from wrong rows in a round."""
        wrong = self.fault.flips_labels or self.fault.backdoor
        return wrong and round_index >= self.since and device in self._faulty

    def stopped(self, round_index: int) -> tuple[int, ...]:
        """The devices that do nothing in a round."""
        return self.devices if round_index >= self.since and not self.fault.trains else ()

    def silent(self, round_index: int) -> tuple[int, ...]:
        """The devices that send nothing in a round."""
        return self.devices if round_index >= self.since and not self.fault.sends else ()


def _sign_flip(said: Said) -> np.ndarray:
    """-scale x.

    Source: Li et al. 2019 (arXiv 1811.03761), RSA, the sign-flipping attack.
    """
    return -said.scale * said.values


def _scaled_noise(said: Said) -> np.ndarray:
    """x + scale rms(x) n, n ~ N(0, 1).

    Source: Blanchard et al. 2017, "Machine learning with adversaries", the Gaussian attack. Departure: the noise is
    relative to the values.
    """
    rms = float(np.sqrt(np.mean(said.values.astype(np.float64) ** 2)))
    noise = said.rng.standard_normal(len(said.values))
    return (said.values + said.scale * rms * noise).astype(np.float32)


def _stale_replay(said: Said) -> np.ndarray:
    """What the device said first, under each new version; anew where the number of values has changed.

    A true replay is refused by its version, so only this one does harm.
    """
    if said.part.stale is None or len(said.part.stale) != len(said.values):
        said.part.stale = said.values.copy()
    return said.part.stale


def _nan_payload(said: Said) -> np.ndarray:
    """NaN everywhere; receivers refuse it and count it."""
    return np.full_like(said.values, np.nan)


def _sybil(said: Said) -> np.ndarray:
    """scale rms(x) n, n ~ N(0, 1) drawn once a round for all faulty devices: identities of one attacker agree.

    Source: Douceur 2002, "The Sybil attack"; Fung et al. 2020 (arXiv 1808.04866) for learning. Departure: identities
    differ by the length of what they say, as far as their own values do.
    """
    rms = float(np.sqrt(np.mean(said.values.astype(np.float64) ** 2)))
    return (said.scale * rms * said.shared_rng.standard_normal(len(said.values))).astype(np.float32)


SIGN_FLIP = Fault(_sign_flip)
SCALED_NOISE = Fault(_scaled_noise)
STALE_REPLAY = Fault(_stale_replay)
NAN_PAYLOAD = Fault(_nan_payload)
LABEL_FLIP = Fault(flips_labels=True)
SILENT = Fault(sends=False)
CRASH = Fault(trains=False, sends=False)
BACKDOOR = Fault(backdoor=True)
SYBIL = Fault(_sybil)
