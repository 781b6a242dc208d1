"""Energy, computing time and device classes.

Computing: time t = C·work/f and energy E = kappa·C·f²·work, where C is the processor's cycles per
FLOP, f its clock and kappa its effective switched capacitance. Radio:
E = (P_tx/eta + P_circuit)·t_tx + P_rx·t_rx. All time is virtual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray, IntArray
from channels.checks import require_positive
from channels.units import dbm_to_watt


@dataclass(frozen=True)
class DeviceClass:
    """One kind of device.

    The defaults are a phone-like processor: 2 GHz, 16 FLOP per cycle (1/16 cycle per FLOP) and
    kappa = 1e-27 J·s²/cycle, so 32 GFLOP/s at 0.25 nJ per FLOP, 8 W.

    Attributes:
        name: Name shown in tables.
        share: Relative share of devices of this class, >= 0.
        frequency_hz: Clock f in Hz, > 0.
        cycles_per_flop: Cycles C per floating-point operation, > 0.
        capacitance: Effective switched capacitance kappa in J·s²/cycle, >= 0.
        tx_power_dbm: Transmit power in dBm; None takes the radio settings'.
        battery_j: Battery at the start in J, > 0; inf is mains power.
    """

    name: str = "phone"
    share: float = 1.0
    frequency_hz: float = 2e9
    cycles_per_flop: float = 1 / 16
    capacitance: float = 1e-27
    tx_power_dbm: float | None = None
    battery_j: float = float("inf")

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If one is out of range.
        """
        for name in ("frequency_hz", "cycles_per_flop"):
            require_positive(f"device class {self.name!r}: {name}", getattr(self, name))
        for name in ("share", "capacitance"):
            require_positive(f"device class {self.name!r}: {name}", getattr(self, name), zero_allowed=True)
        if not self.battery_j > 0:
            raise ValueError(
                f"device class {self.name!r}: battery_j is {self.battery_j!r}; expected > 0 or inf"
            )


@dataclass(frozen=True)
class DeviceClasses:
    """The class of every device, as a struct of arrays of length N.

    Attributes:
        names: Names of the classes.
        index: (N,) class of each device.
        frequency_hz: (N,) clock in Hz.
        cycles_per_flop: (N,) cycles per FLOP.
        capacitance: (N,) effective switched capacitance in J·s²/cycle.
        tx_power_dbm: (N,) transmit power in dBm; nan takes the radio settings'.
        battery_j: (N,) battery at the start in J.
    """

    names: tuple[str, ...]
    index: IntArray
    frequency_hz: FloatArray
    cycles_per_flop: FloatArray
    capacitance: FloatArray
    tx_power_dbm: FloatArray
    battery_j: FloatArray

    def __len__(self) -> int:
        """Number of devices."""
        return self.index.shape[0]

    def tx_power_w(self, default_dbm: float) -> FloatArray:
        """(N,) transmit power in W, with a default in dBm for classes that set none."""
        return dbm_to_watt(np.where(np.isnan(self.tx_power_dbm), default_dbm, self.tx_power_dbm))


@dataclass(frozen=True)
class ComputeCost:
    """What local computing costs.

    Attributes:
        seconds: (N,) virtual time in s.
        energy_j: (N,) energy in J.
    """

    seconds: FloatArray = field(repr=False)
    energy_j: FloatArray = field(repr=False)


def draw_classes(classes: Sequence[DeviceClass], devices: int, *, seed: int) -> DeviceClasses:
    """Give every device a class, drawn by the classes' shares.

    Args:
        classes: The classes; an empty sequence gives every device the default class.
        devices: Number of devices N, >= 1.
        seed: Seed of the draw; device i's class does not depend on N.

    Returns:
        The classes of the devices.

    Raises:
        ValueError: If all shares are 0 or there are no devices.
    """
    from channels.draws import keyed_uniform, stream_key

    kinds = tuple(classes) or (DeviceClass(),)
    shares = np.asarray([kind.share for kind in kinds], dtype=np.float64)
    if devices < 1 or shares.sum() <= 0:
        raise ValueError(
            f"{devices} devices with shares {shares.tolist()}; expected >= 1 device and a share > 0"
        )
    edges = np.cumsum(shares / shares.sum())[:-1]
    draws = keyed_uniform(
        stream_key(seed, "device-class"), np.arange(devices), np.zeros(devices, dtype=np.int64)
    )
    index = np.searchsorted(edges, draws, side="right").astype(np.int64)

    def column(name: str) -> FloatArray:
        values = [getattr(kind, name) for kind in kinds]
        return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)[index]

    return DeviceClasses(
        names=tuple(kind.name for kind in kinds),
        index=index,
        frequency_hz=column("frequency_hz"),
        cycles_per_flop=column("cycles_per_flop"),
        capacitance=column("capacitance"),
        tx_power_dbm=column("tx_power_dbm"),
        battery_j=column("battery_j"),
    )


def compute_cost(classes: DeviceClasses, flops: ArrayLike) -> ComputeCost:
    """Time and energy of local training.

    Args:
        classes: The devices' classes.
        flops: Work in floating-point operations, scalar or (N,), >= 0.

    Returns:
        t = C·work/f in s and E = kappa·C·f²·work in J, each (N,).

    Raises:
        ValueError: If the work is negative.

    Source:
        Mao et al., A Survey on Mobile Edge Computing (2017), section II-C (dynamic CMOS power).
    """
    work = np.broadcast_to(np.asarray(flops, dtype=np.float64), (len(classes),))
    if np.any(~(work >= 0)):
        raise ValueError(f"flops holds {float(np.min(work))!r}; expected values >= 0")
    cycles = classes.cycles_per_flop * work
    return ComputeCost(cycles / classes.frequency_hz, classes.capacitance * cycles * classes.frequency_hz**2)


def transmit_energy_j(
    power_w: ArrayLike,
    duration_s: ArrayLike,
    *,
    amplifier_efficiency: float = 0.35,
    circuit_power_w: float = 0.1,
) -> FloatArray:
    """Energy of sending: (P_tx/eta + P_circuit)·t.

    Args:
        power_w: Radiated power in W, any shape.
        duration_s: Time on air in s; broadcasts.
        amplifier_efficiency: eta in (0, 1].
        circuit_power_w: Circuit power in W.

    Returns:
        Energy in J.
    """
    drawn_w = np.asarray(power_w, dtype=np.float64) / amplifier_efficiency + circuit_power_w
    return drawn_w * np.asarray(duration_s, dtype=np.float64)


def receive_energy_j(duration_s: ArrayLike, *, receive_power_w: float = 0.1) -> FloatArray:
    """Energy of receiving: P_rx·t in J, in the shape of `duration_s`."""
    return receive_power_w * np.asarray(duration_s, dtype=np.float64)
