"""The name of a run that its configuration does not name."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from dfl_ray.config.schema import Config


def automatic_name(config: Config) -> str:
    """Run name from what sets the run apart: method, model, graph, devices, rounds, seed and time.

    What is at its default is left out but for the method and the seed.
    """
    parts = [config.method.name]
    if config.model.name != "embedded":
        parts.append(re.sub(r"[^A-Za-z0-9._+-]+", "_", Path(config.model.name).name)[:40])
    if config.topology.type != Config().topology.type:
        parts.append(config.topology.type)
    if config.devices.count != Config().devices.count:
        parts.append(f"d{config.devices.count}")
    if config.rounds != Config().rounds:
        parts.append(f"r{config.rounds}")
    return "-".join([*parts, f"s{config.seed}", f"{datetime.now():%Y%m%d-%H%M%S}"])
