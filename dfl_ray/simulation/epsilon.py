"""What privacy a run has spent: epsilon of each device, by the accountant of Gopi, Lee and Wutschitz."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from dfl_ray.devices.records import GroupSetup
from dfl_ray.methods.laws import exchange_due
from dfl_ray.records import RunFolder, load_run
from dfl_ray.records.faults import privacy_line
from dfl_ray.tasks.local_rows import sampling_rates

if TYPE_CHECKING:
    from dfl_ray.tracking.progress import Progress


@lru_cache(maxsize=4096)
def epsilon(noise_multiplier: float, uses: int, delta: float, rate: float = 1.0) -> float:
    """Upper bound of epsilon after some uses of one mechanism, exact to 0.05.

    Source: Gopi, Lee and Wutschitz 2021 (arXiv 2106.02848), package `prv-accountant`.

    Args:
        noise_multiplier: s > 0, standard deviation of the noise over the sensitivity.
        uses: How often the mechanism was used, >= 0.
        delta: delta in (0, 1).
        rate: Probability with which the hidden row comes into a use (Poisson sampling); 1 = always.

    Returns:
        epsilon >= 0 at which all uses together are (epsilon, delta)-private under adding or removing what is hidden.
    """
    if uses == 0 or rate == 0:
        return 0.0
    from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism, PRVAccountant

    if rate >= 1:  # many Gaussian mechanisms are one with less noise
        prv, uses = GaussianMechanism(noise_multiplier / uses**0.5), 1
    else:
        prv = PoissonSubsampledGaussianMechanism(noise_multiplier=noise_multiplier, sampling_probability=rate)
    accountant = PRVAccountant(
        prvs=[prv], max_self_compositions=[uses], eps_error=0.05, delta_error=delta / 1000
    )
    return max(0.0, float(accountant.compute_epsilon(delta, [uses])[2]))


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
    found: dict[int, float] = {}
    for device, rows in setup.rows.items():
        if not setup.graph.weights.get(device) and setup.config.devices.keep_graph:
            found[device] = 0.0
        elif privacy.mechanism == "updates":
            found[device] = epsilon(privacy.noise_multiplier, exchanges, privacy.delta)
        else:
            rates = sampling_rates(setup.shares[device], [len(r) for r in rows], method.batch_rows)
            uses = rounds * method.local_steps
            found[device] = epsilon(privacy.noise_multiplier, uses, privacy.delta, float(rates.max()))
    return found


def record_privacy(folder: RunFolder, setup: GroupSetup, progress: Progress) -> None:
    """Say and record what a private run has spent; nothing for others.

    Args:
        folder: The run folder; `privacy` of its `run.json` is written.
        setup: The run.
        progress: Prints the line.
    """
    privacy = setup.config.privacy
    if privacy.mechanism == "none":
        return
    found = spent(setup, int(load_run(folder.path).rounds["round"].max()), folder.info.get("ended_after", ()))
    hidden = "device" if privacy.mechanism == "updates" else "row"
    folder.update_info(
        privacy={
            "mechanism": privacy.mechanism, "hidden": hidden, "delta": privacy.delta,
            "epsilon": {str(d): round(e, 4) for d, e in found.items()},
        }
    )  # fmt: skip
    progress.say(privacy_line(found, hidden, privacy.delta))
