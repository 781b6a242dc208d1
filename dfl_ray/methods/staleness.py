"""What an old message weighs: s(age), by which its mixing weight is multiplied.

Source: Xie, Koyejo and Gupta 2019, "Asynchronous Federated Optimization" (FedAsync, arXiv 1903.03934), section 5.2:
constant, s = 1; polynomial, s = (1 + age)^-a; hinge, s = 1 for age <= b, else 1 / (a (age - b) + 1).
Departure: there the age counts the server's updates since a worker took its model; without a server it counts the local
rounds of the receiver since the sender began its own (`network.local_rounds.Letter.age`), so that it is 0 where all
wait for each other. What an old message loses in weight the receiver's own values gain: rows of W still sum to one.
"""

from __future__ import annotations

from dfl_ray.config.schema import AsyncConfig


def staleness_factor(section: AsyncConfig, age: int) -> float:
    """Factor s(age) on the mixing weight of a message.

    Args:
        section: The `async` section.
        age: See `network.local_rounds.Letter`, >= 0.

    Returns:
        A number in (0, 1]; 1 for age 0.
    """
    if section.staleness == "polynomial":
        return float((1.0 + age) ** -section.exponent)
    if section.staleness == "hinge" and age > section.grace_rounds:
        return 1.0 / (section.exponent * (age - section.grace_rounds) + 1.0)
    return 1.0
