"""Every knob of the radio, as one flat frozen record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from channels.adaptation import CSI_KINDS
from channels.antennas import ANTENNAS
from channels.blockage import BLOCKAGES
from channels.fading import KINDS
from channels.harq import HARQ_KINDS
from channels.link import (
    CHEN_WATERFALL_DB,
    CQI_MODES,
    ERROR_MODELS,
    RATES,
    Modes,
    check_rate_names,
    lowest_rate_bps,
)
from channels.nr import MCS_TABLES, OVERHEADS, nr_modes
from channels.pathloss import get_model
from channels.power_states import ENERGY_KINDS, PowerDraw, state_powers
from channels.registry import check_options, unknown_name
from channels.settings_checks import check_drawn_heights, check_heights, check_named_once, check_ranges
from channels.tables import PATH_LOSS, SCHEDULERS
from channels.units import db_to_linear
from channels.walls import WALLS

CHOICES: Mapping[str, Collection[str]] = MappingProxyType(
    {
        "path_loss": PATH_LOSS,
        "line_of_sight": ("draw", "always", "never"),
        "fading": KINDS,
        "scheduler": SCHEDULERS,
        "power_control": ("fixed", "foschini_miljanic"),
        "far_field": ("grid", "mean", "none"),
        "csi": CSI_KINDS,
        "rate": RATES,
        "nr_table": MCS_TABLES,
        "nr_overhead": OVERHEADS,
        "errors": ERROR_MODELS,
        "harq": HARQ_KINDS,
        "energy": ENERGY_KINDS,
        "doppler": ("speed", "velocity"),
        "device_heights": ("fixed", "drawn"),
        "walls": WALLS,
        "blockage": BLOCKAGES,
        "antenna": ANTENNAS,
        "priority": ("waiting", "age", "deadline", "information"),
        "control": ("free", "charged"),
    }
)
"""The names that a field of `RadioSettings` takes."""

PAIRWISE_SCHEDULERS: tuple[str, ...] = ("coloring", "fplinq", "max_weight", "proportional_fair")
"""Schedulers that compare all pairs of waiting links."""

ORDERED_SCHEDULERS: tuple[str, ...] = ("tdma", "csma")
"""Schedulers that take transfers in an order."""


@dataclass(frozen=True)
class RadioSettings:
    """Settings of the radio; the defaults suit ten devices in a square of 200-500 m.

    Attributes:
        path_loss: Path-loss model.
        path_loss_options: Options of the path-loss model, by name; log_distance takes reference_loss_db.
        path_loss_exponent: Exponent of log_distance, > 0.
        path_loss_reference_m: Reference distance of log_distance in m, > 0.
        line_of_sight: draw (per link, by the model's probability), always or never.
        los_decorrelation_m: Distance in m over which a link's line-of-sight state is redrawn, > 0.
        tx_height_m: Transmitter height in m, > 0; None takes the model's own.
        rx_height_m: Receiver height in m, > 0; None takes the model's own.
        device_heights: fixed (the two heights above on every link) or drawn (TR 38.901, table 7.2-1: 1.5 m outdoors, a
            drawn floor in the buildings of indoor_share and building_m; under umi and uma).
        min_distance_m: Shorter distances count as this one, in m, > 0 (the models end there).
        carrier_hz: Carrier frequency in Hz, > 0.
        bandwidth_hz: Bandwidth of the whole band in Hz, > 0.
        subchannels: Orthogonal parts the band is split into, >= 1; a device uses one at a time.
        tx_power_dbm: Transmit power in dBm, unless a device class sets its own.
        antenna_gain_db: Antenna gains of both ends together, in dB.
        noise_figure_db: Receiver noise figure in dB.
        shadowing: Whether links are shadowed.
        shadowing_sigma_db: Shadowing standard deviation in dB, >= 0; None takes the model's own.
        shadowing_decorrelation_m: Decorrelation distance in m, > 0; None takes the model's own.
        fading: Block fading per link and slot: none, rayleigh, rician or nakagami.
        rician_k_db: K-factor of rician in dB.
        nakagami_m: Shape of nakagami, >= 0.5.
        speed_mps: Relative speed in m/s for fading in time: a number correlates it by J0(2·pi·f_D·tau) at
            every lag tau; None draws every attempt afresh, however soon it follows.
        doppler: Whose Doppler shift fading in time has: speed (speed_mps for every link), or velocity (of each end,
            from its velocity in the last move, with scattering around both, and speed_mps for what moves around them).
        delay_spread_s: Delay spread of an exponential profile in s, >= 0: fading differs over the band, and a
            transmission averages over its sub-channel; 0 is flat fading, alike on all sub-channels.
        walls: What devices may be inside of (TR 38.901, clause 7.4.3): none, low_loss or high_loss buildings, car or
            metallised_car.
        indoor_share: Share of buildings among places, or of devices in cars, in [0, 1].
        building_m: Size of buildings in m, > 0: two places r apart are in one with chance exp(-r/building_m).
        blockage: What stands in a device's way (TR 38.901, clause 7.6.4, model A): none, others, or others and the
            holder of the device in portrait or landscape.
        blockers: Others in a device's way, >= 0.
        antenna: isotropic or panel (TR 38.901, table 7.3-1: 8 dBi over 65 degrees, at a random heading).
        antenna_panels: Panels of a device, evenly spaced, >= 1; it uses the one that faces the other end.
        slot_s: Length of an empty slot of random access, and of every slot of sidelink_mode2, in s, > 0.
        rate: shannon (with the gap), cqi (15 modes) or nr (modulation, coding and transport blocks of TS 38.214).
        nr_table: MCS table of nr: qam64 (5.1.3.1-1), qam256 (-2) or low_efficiency (-3).
        nr_spacing_hz: Sub-carrier spacing of nr in Hz: 15e3, 30e3 or 60e3, and from 24.25 GHz on 60e3 or 120e3; with
            bandwidth_hz it gives the resource blocks.
        nr_overhead: What of a slot of nr carries no data: pilots (DM-RS alone) or sidelink (control, second-stage
            control, DM-RS, AGC, guard, synchronisation and feedback; see `channels.nr.sidelink_overhead`).
        nr_feedback_slots: Period of the sidelink's feedback channel in slots: 1, 2 or 4; 0 = it has none.
        snr_gap_db: Gap to capacity of shannon in dB, >= 0.
        sinr_min_db: Decoding threshold beta in dB: its rate is the lowest; below it a transmission is in outage (under
            errors outage).
        csi: What a sender knows when it chooses its rate: mean (mean gains and the fading law), delayed (the
            SINR csi_delay_s ago; needs speed_mps), estimated (its own link's fading from csi_pilots pilots), perfect
            (its own link's fading as it is), or genie (the outcome itself: an upper bound, not a system).
        csi_delay_s: Age of the SINR that csi delayed knows, in s, > 0.
        csi_pilots: Pilot symbols of an estimate under csi estimated, > 0.
        rate_margin_db: Margin in dB between the known SINR and the one the rate needs, >= 0; None takes the
            margin of the largest expected goodput, 3 dB under csi delayed and estimated, 0 dB under perfect.
        outer_loop_target: Share of attempts, in (0, 1), that an outer loop lets each link lose: the SINR that its
            sender reckons with falls by a step after a lost attempt and rises after a decoded one; None = no loop.
        outer_loop_step_db: That step in dB, > 0; decoded attempts move it by target/(1 - target) of it.
        fade_margin_db: Added to beta by schedulers that put links into one slot by a threshold on mean gains
            (broadcast, local_greedy, coloring, fplinq, max_weight, proportional_fair) and by power control, in dB,
            >= 0.
        errors: outage (threshold), chen (packet errors exp(-m/SINR), where the SINR carries the rate),
            finite_blocklength (normal approximation for a code as long as the message, snr_gap_db worse than the best)
            or none (every transmission is decoded, no faster than its SINR carries).
        waterfall_db: Waterfall threshold m of chen in dB.
        scheduler: Which transfers share a slot.
        scheduler_options: Options of a scheduler that has some of its own, by name.
        priority: Which links count more: waiting (rounds in a row without a turn), age (rounds since their last
            delivery, lost and unwanted ones too), deadline (the shortest transmissions first, with what waits for
            them; under tdma and csma, which go by an order), or information (messages that carry the larger change of
            what their receiver has first, under aloha alone not; see `Transfers.change`).
        aloha_probability: Chance that a waiting transfer is tried in a slot under aloha, in (0, 1].
        conflict_factor: Interference range over link length under coloring, > 0.
        multicast: Whether greedy_sinr, local_greedy, tdma and sidelink_mode2 send what several neighbours get with one
            transmission.
        control: What schedulers know: free (the gains of all pairs, and who may send when, cost nothing) or charged
            (beacons, reports and grants go over the radio first; see `channels.control`).
        control_every_rounds: Rounds after which beacons and gains are sent again, >= 1; in between schedulers go by the
            gains of the last report, however far devices have moved.
        control_gain_bits: Bits of a reported gain, 1 to 16: 2^b levels over 127 dB of received power.
        control_header_bytes: Header of a control message in bytes, >= 1; a beacon is nothing else.
        power_control: fixed, or foschini_miljanic (lowest powers that keep beta plus the margin).
        max_attempts: Attempts per transfer and round, >= 1; what goes in parts (sidelink_mode2) is given up once the
            parts lost are together as long as this many messages.
        harq: What a receiver keeps of attempts that it could not decode: none, chase (attempts repeat the first one's
            rate and their SINRs add up) or incremental (their mutual information adds up).
        feedback_s: Time in s after each slot (at its end under sidelink_mode2) in which all its receivers answer at
            once, >= 0; it is on air, takes the receivers' transmit power, and counts whatever harq is.
        feedback_delay_s: Time in s from there to the earliest next attempt of what was not decoded, >= 0; other
            transmissions may fill it.
        deadline_s: Length limit of a round in s, > 0; None waits for all.
        energy: components (the five powers below) or states (TR 38.840: transmit, receive, awake, and three sleeps
            with the energy of going to each and back; recorded state by state).
        energy_options: Options of states: unit_w (1e-3 W for a unit of the report's relative powers), or watts and
            joules of single states (see `channels.power_states.state_powers`).
        amplifier_efficiency: Radiated over drawn power of the amplifier, in (0, 1].
        circuit_power_w: Extra power of a transmitting device in W, >= 0.
        receive_power_w: Power of a receiving device in W, >= 0.
        listen_power_w: Power of a device that waits for something sent to it, in W, >= 0.
        idle_power_w: Power of a device that waits for nothing, training or not, in W, >= 0.
        dense_devices: Up to this many devices every pair's interference is exact.
        near_neighbours: Above that, exact interference comes from about this many nearest devices, > 0.
        far_field: Interference from beyond: grid (FFT of the transmitters on a grid), mean (uniform
            density), none.
        external_per_km2: Transmitters a km² that do not belong to the run, in a Poisson field, >= 0; 0 = none.
        external_power_dbm: Their transmit power in dBm, over the whole band.
        external_duty: Chance that one of them sends in a slot, in (0, 1].
    """

    path_loss: str = "d2d_outdoor"
    path_loss_options: dict[str, Any] = field(default_factory=dict[str, Any])
    path_loss_exponent: float = 3.5
    path_loss_reference_m: float = 1.0
    line_of_sight: str = "draw"
    los_decorrelation_m: float = 50.0
    tx_height_m: float | None = None
    rx_height_m: float | None = None
    device_heights: str = "fixed"
    min_distance_m: float = 1.0
    carrier_hz: float = 2e9
    bandwidth_hz: float = 5e6
    subchannels: int = 1
    tx_power_dbm: float = 23.0
    antenna_gain_db: float = 0.0
    noise_figure_db: float = 9.0
    shadowing: bool = True
    shadowing_sigma_db: float | None = None
    shadowing_decorrelation_m: float | None = None
    fading: str = "rayleigh"
    rician_k_db: float = 7.0
    nakagami_m: float = 2.0
    speed_mps: float | None = None
    doppler: str = "speed"
    delay_spread_s: float = 0.0
    walls: str = "none"
    indoor_share: float = 0.8
    building_m: float = 30.0
    blockage: str = "none"
    blockers: int = 4
    antenna: str = "isotropic"
    antenna_panels: int = 1
    slot_s: float = 1e-3
    rate: str = "shannon"
    nr_table: str = "qam64"
    nr_spacing_hz: float = 15e3
    nr_overhead: str = "pilots"
    nr_feedback_slots: int = 0
    snr_gap_db: float = 3.0
    sinr_min_db: float = 0.0
    csi: str = "mean"
    csi_delay_s: float = 5e-3
    csi_pilots: float = 8.0
    rate_margin_db: float | None = None
    outer_loop_target: float | None = None
    outer_loop_step_db: float = 0.5
    fade_margin_db: float = 10.0
    errors: str = "outage"
    waterfall_db: float = CHEN_WATERFALL_DB
    scheduler: str = "greedy_sinr"
    scheduler_options: dict[str, Any] = field(default_factory=dict[str, Any])
    priority: str = "waiting"
    aloha_probability: float = 0.1
    conflict_factor: float = 2.0
    multicast: bool = True
    control: str = "free"
    control_every_rounds: int = 1
    control_gain_bits: int = 7
    control_header_bytes: int = 16
    power_control: str = "fixed"
    max_attempts: int = 4
    harq: str = "none"
    feedback_s: float = 0.0
    feedback_delay_s: float = 0.0
    deadline_s: float | None = None
    energy: str = "components"
    energy_options: dict[str, Any] = field(default_factory=dict[str, Any])
    amplifier_efficiency: float = 0.35
    circuit_power_w: float = 0.1
    receive_power_w: float = 0.1
    listen_power_w: float = 0.033
    idle_power_w: float = 0.0067
    dense_devices: int = 5000
    near_neighbours: int = 600
    far_field: str = "grid"
    external_per_km2: float = 0.0
    external_power_dbm: float = 23.0
    external_duty: float = 1.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, its value, what is expected and, for names, the nearest known one.
        """
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)
        check_rate_names(self.rate, self.errors, self.snr_gap_db)
        self.modes()
        check_ranges(vars(self))
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.csi == "delayed" and self.speed_mps is None:
            raise ValueError(
                "csi is 'delayed' but speed_mps is None, which draws every attempt's fading afresh, so that an"
                " old SINR tells nothing; set speed_mps in m/s, or csi to 'mean'"
            )
        if self.doppler == "velocity" and self.speed_mps is None:
            raise ValueError(
                "doppler is 'velocity' but speed_mps is None, which draws every attempt's fading afresh; set speed_mps"
                " to the speed of what moves around the devices in m/s (0 for nothing), or doppler to 'speed'"
            )
        if self.scheduler == "csma" and self.subchannels > 1:
            raise ValueError(
                f"scheduler is 'csma' with {self.subchannels} subchannels; expected 1, which it senses"
            )
        if self.device_heights == "drawn":
            check_drawn_heights(self.path_loss, self.walls)
        # Only where there are options: a model or scheduler without any need not be imported to be checked.
        if self.path_loss_options:
            get_model(self.path_loss, self.all_path_loss_options())
        if (self.tx_height_m, self.rx_height_m) != (None, None) and self.device_heights == "fixed":
            model = get_model(self.path_loss, self.all_path_loss_options())
            check_heights(model, self.carrier_hz, self.tx_height_m, self.rx_height_m)
        if self.scheduler_options:
            from channels.scheduling.table import get_scheduler

            get_scheduler(self.scheduler, self.scheduler_options)
        if self.scheduler == "sidelink_mode2":
            self._check_fixed_slots()
        if self.energy_options:
            if self.energy != "states":
                raise ValueError(
                    f"energy {self.energy!r} has no options of its own; got {', '.join(self.energy_options)};"
                    " set energy to 'states', or its powers by the settings *_power_w"
                )
            check_options("energy 'states'", state_powers, (), self.energy_options)
            self.power_draw()

    def _check_fixed_slots(self) -> None:
        from channels.scheduling.fixed_slots import PERIOD_S, check_slot, period_slots

        lowest = lowest_rate_bps(
            self.rate, float(db_to_linear(self.sinr_min_db)), self.bandwidth_hz / self.subchannels, self.snr_gap_db,
            self.modes(),
        )  # fmt: skip
        check_slot(self.slot_s, self.feedback_s, lowest)
        period_slots(self.scheduler_options.get("period_s", PERIOD_S), self.slot_s)

    def power_draw(self) -> PowerDraw:
        """What a radio draws in each state."""
        if self.energy == "states":
            return state_powers(**self.energy_options)
        return PowerDraw(
            amplifier_efficiency=self.amplifier_efficiency,
            circuit_power_w=self.circuit_power_w,
            receive_power_w=self.receive_power_w,
            listen_power_w=self.listen_power_w,
            idle_power_w=self.idle_power_w,
        )

    def all_path_loss_options(self) -> dict[str, Any]:
        """`path_loss_options` with the fields that set options of `log_distance`."""
        if self.path_loss != "log_distance":
            return self.path_loss_options
        named = {
            "exponent": ("path_loss_exponent", self.path_loss_exponent, RadioSettings.path_loss_exponent),
            "reference_m": (
                "path_loss_reference_m",
                self.path_loss_reference_m,
                RadioSettings.path_loss_reference_m,
            ),
        }
        check_named_once(named, self.path_loss_options)
        return {option: value for option, (_, value, _) in named.items()} | self.path_loss_options

    def check_size(self, devices: int) -> None:
        """Refuse what a run of this many devices could not do.

        Args:
            devices: Number of devices.

        Raises:
            ValueError: If the scheduler or the power control compares all pairs of links and there are more
                than `dense_devices` devices, whose far pairs are not listed one by one.
        """
        if devices <= self.dense_devices:
            return
        if self.scheduler in PAIRWISE_SCHEDULERS:
            raise ValueError(
                f"scheduler {self.scheduler!r} compares all pairs of links and {devices} devices are more than"
                f" dense_devices ({self.dense_devices}); use greedy_sinr, broadcast, tdma or aloha"
            )
        if self.power_control != "fixed":
            raise ValueError(
                f"power_control {self.power_control!r} needs the gain of every pair and {devices} devices are"
                f" more than dense_devices ({self.dense_devices}); use fixed, or raise dense_devices"
            )

    def shortest_first(self) -> bool:
        """Whether transfers are taken by how much they have left to send, shortest first."""
        return self.priority == "deadline" and self.scheduler in ORDERED_SCHEDULERS

    def by_change(self) -> bool:
        """Whether transfers are taken and weighed by the size of the change that they carry."""
        return self.priority == "information" and self.scheduler != "aloha"

    def modes(self) -> Modes:
        """The modes that rates are chosen from; those of cqi where the rate has none of its own.

        Raises:
            ValueError: If rate is nr and its standard has no such bandwidth, or too few resource blocks.
        """
        if self.rate != "nr":
            return CQI_MODES
        return nr_modes(
            self.nr_table, self.bandwidth_hz, self.subchannels, self.nr_spacing_hz, self.snr_gap_db,
            self.nr_overhead, self.nr_feedback_slots, self.carrier_hz,
        )  # fmt: skip

    def fading_shape(self) -> dict[str, float]:
        """Shape keyword of `channels.fading` for the chosen kind: `k_db`, `m` or nothing."""
        if self.fading == "rician":
            return {"k_db": self.rician_k_db}
        if self.fading == "nakagami":
            return {"m": self.nakagami_m}
        return {}
