"""What a device's radio draws in each state: by components, or by the states of TR 38.840 with their sleeps.

`components`: a sender draws P_tx/eta + P_circuit, a receiver P_rx, and everybody else a listening or an idle power.

`states`: transmit, receive, idle (awake and monitoring, since something is still awaited), and three sleeps. A device
to which nothing is on its way goes to micro sleep at once, to light sleep after `light_after_s` and to deep sleep after
`deep_after_s` of silence, over the ends of rounds too. Entering a sleep costs its transition energy, down and up again,
at that moment; of a silence that reaches a deeper sleep, the deeper one's only. Power at P watts radiated is linear
in P between 0 and 23 dBm, which is P/eta + P_circuit again.

Source:
    3GPP TR 38.840 v16.0.0, clause 8.1, FR1 (100 MHz, 30 kHz): relative powers 1, 20 and 45 (sleeps), 100 (PDCCH only),
    300 (PDCCH and PDSCH), 250 at 0 dBm and 700 at 23 dBm (PUSCH); transition energies 450 and 100 power units times ms
    in 20 and 6 ms. The numbers are as quoted by a thesis (github.com/bjoluc/5g-handover-optimization, table
    of its chapter 2.2.2); the report itself was not at hand.

Departures: the report has no watts (`unit_w`) and no rule between 0 and 23 dBm. Its studies put a device to sleep by
DRX timers and cycles, here by the two thresholds, which are the transition times by default and within 10 % of the
silences from which each sleep pays. Devices wake in time for what is scheduled; wake-ups delay nothing. Bandwidths and
antennas other than the report's are not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np

from channels.arrays import BoolArray, FloatArray
from channels.checks import require_positive
from channels.registry import Within
from channels.units import dbm_to_watt

ENERGY_KINDS: tuple[str, ...] = ("components", "states")
"""How the radio's energy is reckoned."""

STATES: tuple[str, ...] = (
    "transmit", "receive", "listen", "micro_sleep", "light_sleep", "deep_sleep", "transition",
)  # fmt: skip
"""Parts of the radio's energy under `states`, in the order of all arrays; `listen` is awake, monitoring."""


_Figure: TypeAlias = Annotated[float | None, Within(ge=0, le=1e6)]
"""A power in W or an energy in J, or None for that of the report."""


@dataclass(frozen=True)
class Sleeps:
    """The sleeps, from the lightest to the deepest.

    Attributes:
        power_w: (3,) power in W.
        after_s: (3,) silence from which each is entered in s, not falling, the first 0.
        entry_j: (3,) energy of entering each from the one before, and of leaving it, in J.
    """

    power_w: FloatArray
    after_s: FloatArray
    entry_j: FloatArray

    def energy_j(self, from_s: FloatArray, to_s: FloatArray) -> FloatArray:
        """Energy of a part of a silence.

        Args:
            from_s: (N,) silence at its beginning in s.
            to_s: (N,) silence at its end in s, >= `from_s`.

        Returns:
            (4, N) energy in J of micro, light and deep sleep and of transitions.
        """
        ends_s = np.append(self.after_s[1:], np.inf)
        within = np.minimum(to_s, ends_s[:, None]) - np.maximum(from_s, self.after_s[:, None])
        entered = (from_s <= self.after_s[:, None]) & (self.after_s[:, None] < to_s)
        slept = self.power_w[:, None] * np.maximum(within, 0.0)
        return np.concatenate([slept, (self.entry_j[:, None] * entered).sum(axis=0)[None]])


@dataclass(frozen=True)
class PowerDraw:
    """What a radio draws in each state.

    Attributes:
        amplifier_efficiency: Radiated over additional drawn power, eta.
        circuit_power_w: Further power of a sender in W.
        receive_power_w: Power of a receiver in W.
        listen_power_w: Power of a device that still awaits a reception in W.
        idle_power_w: Power of any other device in W, where there are no sleeps.
        sleeps: What other devices do under `states`; None under `components`.
    """

    amplifier_efficiency: float = 0.35
    circuit_power_w: float = 0.1
    receive_power_w: float = 0.1
    listen_power_w: float = 0.0
    idle_power_w: float = 0.0
    sleeps: Sleeps | None = None


def state_powers(
    *,
    unit_w: Annotated[float, Within(gt=0, le=1e6)] = 1e-3,
    deep_sleep_w: _Figure = None,
    light_sleep_w: _Figure = None,
    micro_sleep_w: _Figure = None,
    idle_w: _Figure = None,
    receive_w: _Figure = None,
    transmit_0dbm_w: _Figure = None,
    transmit_23dbm_w: _Figure = None,
    light_transition_j: _Figure = None,
    deep_transition_j: _Figure = None,
    light_after_s: Annotated[float, Within(ge=0, le=1e12)] = 6e-3,
    deep_after_s: Annotated[float, Within(ge=0, le=1e12)] = 20e-3,
) -> PowerDraw:
    """The states of TR 38.840, by its relative powers or by watts.

    Args:
        unit_w: Watts of one relative power unit, > 0; the report leaves it open.
        deep_sleep_w: Power of deep sleep in W; None takes 1 unit.
        light_sleep_w: Power of light sleep in W; None takes 20 units.
        micro_sleep_w: Power of micro sleep in W; None takes 45 units.
        idle_w: Power awake and monitoring in W; None takes 100 units.
        receive_w: Power of receiving in W; None takes 300 units.
        transmit_0dbm_w: Power of sending at 0 dBm in W; None takes 250 units.
        transmit_23dbm_w: Power of sending at 23 dBm in W; None takes 700 units.
        light_transition_j: Energy down to light sleep and up again in J; None takes 100 units times ms.
        deep_transition_j: The same for deep sleep, not less; None takes 450 units times ms.
        light_after_s: Silence after which a device goes to light sleep in s, >= 0.
        deep_after_s: The same for deep sleep, not less.

    Returns:
        The powers.

    Raises:
        ValueError: If a value is out of range, thresholds or transition energies fall, or sending draws less than it
            radiates.
    """
    require_positive("energy_options.unit_w", unit_w)

    def watts(name: str, given: float | None, units: float) -> float:
        value = units * unit_w if given is None else given
        require_positive(f"energy_options.{name}", value, zero_allowed=True)
        return value

    low_w = watts("transmit_0dbm_w", transmit_0dbm_w, 250.0)
    high_w = watts("transmit_23dbm_w", transmit_23dbm_w, 700.0)
    efficiency = _efficiency(low_w, high_w)
    entries = (
        watts("light_transition_j", light_transition_j, 100e-3),
        watts("deep_transition_j", deep_transition_j, 450e-3),
    )
    after = (watts("light_after_s", light_after_s, 0.0), watts("deep_after_s", deep_after_s, 0.0))
    for name, (light, deep) in (("transition_j", entries), ("after_s", after)):
        if deep < light:
            raise ValueError(
                f"energy_options.deep_{name} is {deep:g}; expected at least light_{name} ({light:g})"
            )
    return PowerDraw(
        amplifier_efficiency=efficiency,
        circuit_power_w=low_w - float(dbm_to_watt(0.0)) / efficiency,
        receive_power_w=watts("receive_w", receive_w, 300.0),
        listen_power_w=watts("idle_w", idle_w, 100.0),
        idle_power_w=0.0,
        sleeps=Sleeps(
            power_w=np.array(
                [
                    watts("micro_sleep_w", micro_sleep_w, 45.0),
                    watts("light_sleep_w", light_sleep_w, 20.0),
                    watts("deep_sleep_w", deep_sleep_w, 1.0),
                ]
            ),
            after_s=np.array([0.0, *after]),
            entry_j=np.array([0.0, entries[0], entries[1] - entries[0]]),
        ),
    )


def resting_energy(
    draw: PowerDraw,
    step_s: float,
    awaiting: BoolArray,
    battery_j: FloatArray,
    silent_s: FloatArray,
    busy_s: FloatArray | float = 0.0,
    off_s: FloatArray | float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Energy by state of neither sending nor receiving over a step, at most what a battery holds.

    Args:
        draw: Powers with sleeps.
        step_s: Length of the step in s.
        awaiting: (N,) whether a device still awaits a reception: it is awake.
        battery_j: (N,) energy left in J.
        silent_s: (N,) silence of each device at the step's beginning in s.
        busy_s: (N,) seconds of the step, from its beginning, spent sending or receiving; they end a silence.
        off_s: (N,) seconds of the step in which the device is off; it draws nothing.

    Returns:
        (7, N) energy in J in the order of `STATES`, the first two 0, and (N,) silence at the step's end.
    """
    assert draw.sleeps is not None
    rest_s = np.maximum(step_s - busy_s - off_s, 0.0) + np.zeros(silent_s.shape)
    from_s = np.where(np.asarray(busy_s) > 0, 0.0, silent_s)
    parts = np.zeros((len(STATES), silent_s.shape[0]))
    parts[STATES.index("listen")] = np.where(awaiting, draw.listen_power_w * rest_s, 0.0)
    parts[STATES.index("micro_sleep") :] = np.where(
        awaiting, 0.0, draw.sleeps.energy_j(from_s, from_s + rest_s)
    )
    spent = parts.sum(axis=0)
    short = spent > battery_j
    if short.any():
        parts[:, short] *= battery_j[short] / spent[short]
    return parts, np.where(awaiting, 0.0, from_s + rest_s)


def _efficiency(low_w: float, high_w: float) -> float:
    """Slope of radiated over drawn power between 0 and 23 dBm; ValueError where less is drawn than is radiated."""
    low_radiated, high_radiated = (float(dbm_to_watt(dbm)) for dbm in (0.0, 23.0))
    if high_w - low_w < high_radiated - low_radiated or low_w < low_radiated:
        raise ValueError(
            f"energy_options draw {low_w:g} W at 0 dBm and {high_w:g} W at 23 dBm; expected at least what is radiated,"
            f" {low_radiated:g} W, and {high_radiated - low_radiated:.3g} W more; raise unit_w or transmit_23dbm_w"
        )
    return (high_radiated - low_radiated) / (high_w - low_w)
