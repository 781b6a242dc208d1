"""What privacy a run has spent: epsilon of each device."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from dfl_ray.devices.records import GroupSetup
from dfl_ray.methods.laws import exchange_due
from dfl_ray.records import RunFolder, load_run
from dfl_ray.records.faults import privacy_line
from dfl_ray.simulation.accountant import epsilon
from dfl_ray.tasks.local_rows import sampling_rates

if TYPE_CHECKING:
    from dfl_ray.tracking.progress import Progress


MOST_RATES = 128
"""Different sampling rates up to which each has an epsilon of its own; one takes up to 1 s."""


def spent(setup: GroupSetup, rounds: int, ends: Sequence[int] = ()) -> dict[int, float]:
    """Epsilon of each device after some rounds.

    Under `updates` a device's whole data are hidden, and each exchange is one use; all neighbours get the same bytes,
    so their number does not matter. Under `examples` one training row is hidden, each local step is one use, and the
    rate is that of the task whose rows come in most often. Losses, batteries and faults are not looked at: what was
    not sent counts as sent.

    Args:
        setup: The run.
        rounds: Rounds done.
        ends: Rounds that were the last before the run was lengthened: an exchange was due in each.

    Returns:
        Device -> epsilon; 0 for one that has no neighbours in a graph that does not change.
    """
    privacy, method = setup.config.privacy, setup.config.method
    lasts = (*ends, setup.config.rounds)
    exchanges = sum(any(exchange_due(method, r, last) for last in lasts) for r in range(1, rounds + 1))
    alone = {d for d in setup.rows if not setup.graph.weights.get(d) and setup.config.devices.keep_graph}
    if privacy.mechanism == "updates":
        of_all = epsilon(privacy.noise_multiplier, exchanges, privacy.delta)
        return {device: 0.0 if device in alone else of_all for device in setup.rows}
    rates = _few(
        {
            d: float(sampling_rates(setup.shares[d], [len(r) for r in rows], method.batch_rows).max())
            for d, rows in setup.rows.items()
            if d not in alone
        }
    )
    uses = rounds * method.local_steps
    return {
        d: 0.0 if d in alone else epsilon(privacy.noise_multiplier, uses, privacy.delta, rates[d])
        for d in setup.rows
    }


def _few(rates: dict[int, float]) -> dict[int, float]:
    """Sampling rates of which not too many differ: more than `MOST_RATES` are rounded up to three digits.

    A larger rate gives a larger epsilon, so what is told stays an upper bound.
    """
    if len(set(rates.values())) <= MOST_RATES:
        return rates
    return {device: _rounded_up(rate) for device, rate in rates.items()}


def _rounded_up(rate: float) -> float:
    if rate <= 0:
        return rate
    step = 10.0 ** (floor(log10(rate)) - 2)
    return min(1.0, max(rate, ceil(rate / step) * step))


def record_privacy(folder: RunFolder, setup: GroupSetup, progress: Progress) -> None:
    """Say and record what a private run has spent; nothing for others. A run that has trained never fails here.

    Args:
        folder: The run folder; `privacy` of its `run.json` is written: `epsilon` by device, or null and `why`.
        setup: The run.
        progress: Prints the line.
    """
    privacy = setup.config.privacy
    if privacy.mechanism == "none":
        return
    hidden = "device" if privacy.mechanism == "updates" else "row"
    record = {"mechanism": privacy.mechanism, "hidden": hidden, "delta": privacy.delta}
    try:
        done = int(load_run(folder.path).rounds["round"].max())
        found = spent(setup, done, folder.info.get("ended_after", ()))
    except Exception as error:  # of a library, at the end of training
        why = str(error) or repr(error)
        folder.update_info(privacy={**record, "epsilon": None, "why": why})
        progress.say(f"Privacy: epsilon is not known: {why}")
        return
    folder.update_info(privacy={**record, "epsilon": {str(d): round(e, 4) for d, e in found.items()}})
    progress.say(privacy_line(found, hidden, privacy.delta))
