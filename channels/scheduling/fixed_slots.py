"""Numbers of slots of one length, which settings are checked by before anything is planned."""

from __future__ import annotations

from channels.units import BITS_PER_BYTE

PERIOD_S = 0.02
"""Period of `sidelink_mode2` where none is set, in s."""

MOST_SLOTS = 10_000
"""Its longest period in slots."""


def period_slots(period_s: float, slot_s: float) -> int:
    """Slots of a period.

    Args:
        period_s: Period of a reservation in s.
        slot_s: Length of a slot in s.

    Raises:
        ValueError: If that is not a whole number from 1 to `MOST_SLOTS`.
    """
    slots = round(period_s / slot_s)
    if not 1 <= slots <= MOST_SLOTS or abs(slots * slot_s - period_s) > 1e-6 * period_s:
        raise ValueError(
            f"scheduler is 'sidelink_mode2' with period_s {period_s:g} and slot_s {slot_s:g}; expected a period of 1"
            f" to {MOST_SLOTS} whole slots; set scheduler_options.period_s to a multiple of slot_s"
        )
    return slots


def check_slot(slot_s: float, feedback_s: float, lowest_bps: float) -> None:
    """Refuse slots of fixed length that carry nothing.

    Args:
        slot_s: Length of a slot in s.
        feedback_s: Time in it that the receivers' answers take, in s.
        lowest_bps: Lowest rate in bit/s.

    Raises:
        ValueError: If there is no room for the answers and one byte at the lowest rate.
    """
    if (slot_s - feedback_s) * lowest_bps < BITS_PER_BYTE:
        raise ValueError(
            f"slot_s is {slot_s:g}, of which feedback_s takes {feedback_s:g} for the receivers' answers: no byte fits"
            f" into a slot at the lowest rate, {lowest_bps:g} bit/s; raise slot_s, or lower feedback_s"
        )
