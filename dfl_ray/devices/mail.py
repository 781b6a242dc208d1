"""What devices of a group take in at the end of a round, or of their own local rounds where nobody waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dfl_ray.config.schema import AsyncConfig
from dfl_ray.devices.records import Payloads
from dfl_ray.methods.base import Delivery, Device
from dfl_ray.methods.laws import Planned
from dfl_ray.methods.staleness import staleness_factor
from dfl_ray.methods.waiting import Fate
from dfl_ray.network.traffic import TimedOutcomes, TransferOutcomes


@dataclass
class Mail:
    """What one device takes in.

    Attributes:
        received: Messages that arrived, as bytes.
        sent: What became of its own messages: of this round, or of its last local round where nobody waits.
        ages: Age in local rounds of each message that arrived; 0 where all devices wait for each other.
        trust: Sender -> factor on the mixing weight of its newest message.
    """

    received: list[bytes] = field(default_factory=list)
    sent: list[Delivery] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)
    trust: dict[int, float] = field(default_factory=dict)


def mail_of(
    devices: Mapping[int, Device], outcomes: TransferOutcomes, payloads: Payloads,
    made: Mapping[tuple[int, int], Planned], section: AsyncConfig | None,
) -> dict[int, Mail]:  # fmt: skip
    """Hand out what has come: in a round, or by the ends of a window's local rounds where nobody waits.

    Args:
        devices: See `round_mail`.
        outcomes: See `round_mail`.
        payloads: See `round_mail`.
        made: See `round_mail`.
        section: Says what an old message weighs, where nobody waits.

    Returns:
        Device -> what it takes in.
    """
    if isinstance(outcomes, TimedOutcomes) and section is not None:
        return window_mail(devices, outcomes, payloads, made, section)
    return round_mail(devices, outcomes, payloads, made)


def round_mail(
    devices: Mapping[int, Device], outcomes: TransferOutcomes, payloads: Payloads,
    made: Mapping[tuple[int, int], Planned],
) -> dict[int, Mail]:  # fmt: skip
    """Hand out what arrived in a round in which all devices wait.

    Args:
        devices: The devices of a group.
        outcomes: Outcomes of all transfers that start or end here.
        payloads: (source, message) -> bytes, of all that arrive here.
        made: (source, message) -> message, of all that was made here.

    Returns:
        Device -> what it takes in, for all of them.
    """
    found = {index: Mail() for index in devices}
    for key, destinations in outcomes.reached().items():
        here = [found[to] for to in destinations if to in found]
        # A copy: a view of the object store would hold all that it lies in.
        content = bytes(payloads[key]) if here else b""
        for mail in here:
            mail.received.append(content)
            mail.ages.append(0)
        if key in made:
            found[key[0]].sent.append(Delivery(made[key], tuple(destinations)))
    return found


def window_mail(
    devices: Mapping[int, Device], outcomes: TimedOutcomes, payloads: Payloads,
    made: Mapping[tuple[int, int], Planned], section: AsyncConfig,
) -> dict[int, Mail]:  # fmt: skip
    """Hand out what has come by the ends of a window's local rounds; the rest waits in the devices' own state.

    Args:
        devices: The devices of a group; what is under way to and from them changes.
        outcomes: See `round_mail`.
        payloads: See `round_mail`.
        made: See `round_mail`.
        section: Says what an old message weighs.

    Returns:
        Device -> what it takes in, for those that end a local round.
    """
    reached, fates = outcomes.reached(), dict[int, dict[int, Fate]]()
    here = (key for key, destinations in reached.items() if any(to in devices for to in destinations))
    content = {key: np.frombuffer(bytes(payloads[key]), np.uint8) for key in here}
    outcomes.post({index: device.waiting for index, device in devices.items()}, content)
    for key, planned in made.items():
        fates.setdefault(key[0], {})[key[1]] = Fate.of(planned, reached.get(key, ()))
    found: dict[int, Mail] = {}
    for index, turn in outcomes.ended:
        if index not in devices:
            continue
        waiting = devices[index].waiting
        letters = waiting.take(turn.end_s)
        found[index] = Mail(
            [letter.content.tobytes() for letter in letters],
            [Delivery(f.planned, tuple(f.reached.tolist())) for _, f in sorted(waiting.fates.items())],
            [letter.age for letter in letters],
            {letter.sender: staleness_factor(section, letter.age) for letter in letters},
        )
        waiting.fates = fates.get(index, {})
    return found
