"""A method's calendar: which of its rounds a device attends to that passes through several in one local round."""

from __future__ import annotations

from dfl_ray.config.training import TrainingConfig
from dfl_ray.methods.laws import TrafficLaw, exchange_due
from dfl_ray.network.local_rounds import LocalRound


def due_round(law: TrafficLaw, config: TrainingConfig, rounds: int, turn: LocalRound) -> int:
    """Find the round number that a device's messages get at the end of a local round.

    The calendar of a method (exchanges, masks, refreshes) counts windows. A slow device ends a local round in few of
    them, so it makes up for the newest exchange among the windows passed since its last local round, (since, window];
    without one for the newest in which anything is due; else its messages are those of the window itself. A device
    that ends a local round in every window, as all do under `schedule: sync`, attends to each.

    Args:
        law: What the method sends.
        config: The `method` section.
        rounds: Rounds of the run.
        turn: The local round that ends.

    Returns:
        A number in (turn.since, turn.window]; it grows from local round to local round.
    """
    passed = range(turn.window, turn.since, -1)
    for number in passed:
        if exchange_due(config, number, rounds):
            return number
    return next((number for number in passed if law.busy(number)), turn.window)


def exchanged(law: TrafficLaw, config: TrainingConfig, rounds: int, turn: LocalRound) -> bool:
    """Say whether a device's adapter has been exchanged at the end of a local round, by the calendar of its messages.

    Args:
        law: See `due_round`.
        config: See `due_round`.
        rounds: See `due_round`.
        turn: See `due_round`.

    Returns:
        Whether an exchange was due; of methods with a server, whether anything was sent up or down.
    """
    number = due_round(law, config, rounds, turn)
    return exchange_due(config, number, rounds) if config.hub is None else law.busy(number)


def rests(config: TrainingConfig, round_index: int) -> bool:
    """Say whether nobody trains in a round by the method's calendar, since a server answers.

    Args:
        config: The `method` section.
        round_index: The round, from 1.

    Returns:
        True in the last round of each cycle of `exchange_every` + 1; False for methods without a server.
    """
    return config.hub is not None and round_index % (config.exchange_every + 1) == 0
