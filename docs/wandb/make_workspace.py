"""Saves a W&B workspace with the panels of dfl-ray's metrics, so that they appear at once.

    pip install wandb-workspaces
    wandb login
    python docs/wandb/make_workspace.py ENTITY [PROJECT]

It prints the address of the saved view, which is then offered in the project to all its members. Panels of metrics
that no run has logged stay empty.
"""

from __future__ import annotations

import sys
from typing import Any

SECTIONS: dict[str, list[tuple[str, str, list[str]]]] = {
    "Learning": [
        ("Mean accuracy over rounds", "round", ["accuracy/mean"]),
        ("Mean accuracy over simulated time (s)", "time/simulated_s", ["accuracy/mean"]),
        ("Worst task", "round", ["accuracy/worst_task"]),
        ("Training loss (nats a token)", "round", ["train/loss"]),
        ("Forgetting", "round", ["forgetting/mean"]),
        ("Gap to the oracle's routing", "round", ["interference_gap"]),
    ],
    "Air": [
        ("Bytes on air a round", "round", ["comm/bytes"]),
        ("Airtime a round (s)", "round", ["comm/airtime_s"]),
        ("Energy a round (J)", "round", ["comm/energy_j"]),
        ("Delivered share", "round", ["comm/delivered_fraction"]),
        (
            "SINR (dB): 5th, 50th, 95th percentile",
            "round",
            ["comm/sinr_db/p05", "comm/sinr_db/p50", "comm/sinr_db/p95"],
        ),
    ],
    "Adapters": [
        ("Consensus distance", "round", ["consensus/distance"]),
        ("Collisions in B and in BA", "round", ["collision/b", "collision/delta_w"]),
    ],
    "Machine": [
        ("Real time of a round (s)", "round", ["time/round_wall_s"]),
        ("Share outside training and evaluation", "round", ["time/overhead_fraction"]),
        ("Object store, bytes a round", "round", ["ray/object_store_bytes"]),
    ],
}
"""Section -> panels: title, metric of the x axis, metrics of the y axis."""


def workspace(entity: str, project: str) -> Any:
    """Build the workspace without saving it.

    Args:
        entity: W&B user or team.
        project: Name of the project.

    Returns:
        A `wandb_workspaces.workspaces.Workspace`.
    """
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=name,
            is_open=True,
            panels=[panels.LinePlot(title=title, x=x, y=y) for title, x, y in lines],
        )
        for name, lines in SECTIONS.items()
    ]
    return ws.Workspace(entity=entity, project=project, name="dfl-ray", sections=sections)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit("usage: python docs/wandb/make_workspace.py ENTITY [PROJECT]")
    print(workspace(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "dfl-ray").save().url)
