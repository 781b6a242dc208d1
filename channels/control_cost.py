"""What control cost in a round: the records of `channels.control`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from channels.arrays import FloatArray


@dataclass(frozen=True)
class ControlPart:
    """One kind of control in one round.

    Attributes:
        sent_bytes: Bytes put on air.
        span_s: How long it takes in s.
        airtime_s: Time on air times the share of the band, in s.
        transmit_s: (N,) seconds in which each device sends.
        receive_s: (N,) seconds in which each device hears.
    """

    sent_bytes: int
    span_s: float
    airtime_s: float
    transmit_s: FloatArray
    receive_s: FloatArray

    def until(self, left_s: float) -> ControlPart:
        """What of it comes before a deadline: every message by the share of the part's time that is left for it.

        Args:
            left_s: Time left for it in s; 0 or less leaves nothing.
        """
        left_s = max(left_s, 0.0)
        if self.span_s <= left_s:
            return self
        share = left_s / self.span_s
        return replace(
            self,
            sent_bytes=int(self.sent_bytes * share),
            span_s=self.span_s * share,
            airtime_s=self.airtime_s * share,
            transmit_s=self.transmit_s * share,
            receive_s=self.receive_s * share,
        )


@dataclass(frozen=True)
class ControlCost:
    """All control of one round.

    Attributes:
        discovery: Beacons.
        reports: Reports of gains and wanted transfers.
        grants: Grants, or the announcements of slots.
        transmit_j: (N,) energy of sending it in J, as far as batteries lasted.
        receive_j: (N,) energy of hearing it in J, likewise.
        charged: Whether control costs anything under the settings.
        cut: Whether the round's deadline came before all of it was sent.
    """

    discovery: ControlPart
    reports: ControlPart
    grants: ControlPart
    transmit_j: FloatArray
    receive_j: FloatArray
    charged: bool = True
    cut: bool = False

    @property
    def parts(self) -> tuple[ControlPart, ControlPart, ControlPart]:
        """Discovery, reports and grants."""
        return self.discovery, self.reports, self.grants

    @property
    def sent_bytes(self) -> int:
        """Bytes put on air."""
        return sum(part.sent_bytes for part in self.parts)

    @property
    def span_s(self) -> float:
        """Time that it takes before the first transfer, in s."""
        return sum(part.span_s for part in self.parts)

    @property
    def airtime_s(self) -> float:
        """Time on air times the share of the band, in s."""
        return sum(part.airtime_s for part in self.parts)

    @property
    def energy_j(self) -> FloatArray:
        """(N,) energy of each device in J."""
        return self.transmit_j + self.receive_j
