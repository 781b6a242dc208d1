"""Energy, computing time and device classes.

Computing: time t = C·work/f and energy E = kappa·C·f²·work, where C is the processor's cycles per
FLOP, f its clock and kappa its effective switched capacitance. Radio:
E = (P_tx/eta + P_circuit)·t_tx + P_rx·t_rx. All time is virtual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray, IntArray
from channels.checks import require_positive, require_range
from channels.registry import unknown_name
from channels.units import dbm_to_watt

HARDWARE_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"flops_per_s": (1.0, 1e24), "joules_per_flop": (0.0, 1e6), "watts": (0.0, 1e12)}
)
"""The processor's figures as tables of hardware give them, with least and largest value; see `DeviceClass.at`."""

HARDWARE_FIGURES = tuple(HARDWARE_RANGES)


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
        tx_power_dbm: Transmit power in dBm, -200 to 100; None takes the radio settings'.
        battery_j: Battery at the start in J, > 0; inf is mains power.
        step_overhead_s: Time that each local step takes beyond its operations in s, >= 0, at the same power.
    """

    name: str = "phone"
    share: float = 1.0
    frequency_hz: float = 2e9
    cycles_per_flop: float = 1 / 16
    capacitance: float = 1e-27
    tx_power_dbm: float | None = None
    battery_j: float = float("inf")
    step_overhead_s: float = 0.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If one is out of range.
        """
        for name in ("frequency_hz", "cycles_per_flop"):
            require_positive(f"device class {self.name!r}: {name}", getattr(self, name))
        for name in ("share", "capacitance", "step_overhead_s"):
            require_positive(f"device class {self.name!r}: {name}", getattr(self, name), zero_allowed=True)
        if self.tx_power_dbm is not None:
            require_range(f"device class {self.name!r}: tx_power_dbm", self.tx_power_dbm, -200.0, 100.0)
        if not self.battery_j > 0:
            raise ValueError(
                f"device class {self.name!r}: battery_j is {self.battery_j!r}; expected > 0 or inf"
            )

    def at(self, figures: Mapping[str, float]) -> DeviceClass:
        """The class with other figures.

        Args:
            figures: Field -> value, or the processor as tables of hardware give it: `flops_per_s` in FLOP/s and its
                energy as `joules_per_flop` or `watts`. These set C = 1, f = FLOP/s and kappa = J per FLOP / f²; an
                energy that is not given stays the class's own J per FLOP.

        Returns:
            The new class.

        Raises:
            ValueError: If a figure is unknown or out of range, or the processor is described in both ways.
        """
        known = tuple(f.name for f in fields(DeviceClass) if f.name != "name")
        for one in figures:
            if one not in (*known, *HARDWARE_FIGURES):
                raise unknown_name(f"figure of device class {self.name!r}", one, (*known, *HARDWARE_FIGURES))
        hardware = {name: figures[name] for name in HARDWARE_FIGURES if name in figures}
        plain = {name: value for name, value in figures.items() if name in known}
        both = sorted(set(plain) & {"frequency_hz", "cycles_per_flop", "capacitance"})
        if hardware and (both or len(hardware.keys() & {"joules_per_flop", "watts"}) > 1):
            raise ValueError(
                f"device class {self.name!r} gives {', '.join([*hardware, *both])}; expected flops_per_s with one of "
                "joules_per_flop and watts, or frequency_hz, cycles_per_flop and capacitance"
            )
        for name, value in hardware.items():
            require_range(f"device class {self.name!r}: {name}", value, *HARDWARE_RANGES[name])
        return replace(self, **plain, **(self._processor(hardware) if hardware else {}))

    def _processor(self, hardware: Mapping[str, float]) -> dict[str, float]:
        """Clock, cycles and capacitance of a processor given by FLOP/s and J per FLOP or W."""
        rate = hardware.get("flops_per_s", self.frequency_hz / self.cycles_per_flop)
        own_j = self.capacitance * self.cycles_per_flop * self.frequency_hz**2
        energy_j = hardware["watts"] / rate if "watts" in hardware else hardware.get("joules_per_flop", own_j)
        return {"frequency_hz": rate, "cycles_per_flop": 1.0, "capacitance": energy_j / rate**2}


def with_figures(
    classes: Sequence[DeviceClass], figures: Mapping[str, Mapping[str, float]]
) -> tuple[DeviceClass, ...]:
    """Set figures of device classes.

    Args:
        classes: The classes of a mix.
        figures: Class name -> figure -> value, see `DeviceClass.at`. A class that the mix does not have is added
            and must state its share.

    Returns:
        The classes, the added ones last.

    Raises:
        ValueError: If a field is unknown or out of range, or a class that the mix lacks states no share.
    """
    made = {kind.name: kind for kind in classes}
    for name, given in figures.items():
        if name not in made and "share" not in given:
            error = unknown_name("device class", name, made)
            raise ValueError(f"{error} A new class must state its share")
        made[name] = made.get(name, DeviceClass(name)).at(given)
    return tuple(made.values())


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
        step_overhead_s: (N,) time of a local step beyond its operations in s.
    """

    names: tuple[str, ...]
    index: IntArray
    frequency_hz: FloatArray
    cycles_per_flop: FloatArray
    capacitance: FloatArray
    tx_power_dbm: FloatArray
    battery_j: FloatArray
    step_overhead_s: FloatArray

    def __len__(self) -> int:
        """Number of devices."""
        return self.index.shape[0]

    @property
    def compute_power_w(self) -> FloatArray:
        """(N,) power that training takes in W, kappa f³."""
        return self.capacitance * self.frequency_hz**3

    def tx_power_w(self, default_dbm: float) -> FloatArray:
        """Transmit power of each device.

        Args:
            default_dbm: Power in dBm for classes that set none.

        Returns:
            (N,) power in W.
        """
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
        step_overhead_s=column("step_overhead_s"),
    )


def compute_cost(classes: DeviceClasses, flops: ArrayLike, steps: ArrayLike = 0) -> ComputeCost:
    """Time and energy of local training.

    Args:
        classes: The devices' classes.
        flops: Work in floating-point operations, scalar or (N,), >= 0.
        steps: Local steps that the work is done in, scalar or (N,); a device without work makes none.

    Returns:
        t = C·work/f + steps·overhead in s and E = kappa·C·f²·work + kappa·f³·steps·overhead in J, each (N,).

    Raises:
        ValueError: If the work is negative.

    Source:
        Mao et al., A Survey on Mobile Edge Computing (2017), section II-C (dynamic CMOS power).
    """
    work = np.broadcast_to(np.asarray(flops, dtype=np.float64), (len(classes),))
    if np.any(~(work >= 0)):
        raise ValueError(f"flops holds {float(np.min(work))!r}; expected values >= 0")
    cycles = classes.cycles_per_flop * work
    seconds = cycles / classes.frequency_hz
    energy_j = classes.capacitance * cycles * classes.frequency_hz**2
    if classes.step_overhead_s.any():
        more_s = np.where(work > 0, np.asarray(steps) * classes.step_overhead_s, 0.0)
        return ComputeCost(
            seconds + more_s, energy_j + classes.capacitance * classes.frequency_hz**3 * more_s
        )
    return ComputeCost(seconds, energy_j)


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
    """Energy of receiving: P_rx·t.

    Args:
        duration_s: Time of reception in s, >= 0, any shape.
        receive_power_w: Power of a receiving device P_rx in W, >= 0.

    Returns:
        Energy in J, in the shape of `duration_s`.
    """
    return receive_power_w * np.asarray(duration_s, dtype=np.float64)
