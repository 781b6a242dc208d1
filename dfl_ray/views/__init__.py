"""Pictures of runs as plotly figures, one builder each; the report, the dashboard, `plot` and W&B share them."""

from dfl_ray.views.accuracy import accuracy_by_task, accuracy_heatmap
from dfl_ray.views.catalog import FIGURES, draw
from dfl_ray.views.compare import accuracy_of_runs, cost_bars
from dfl_ray.views.costs import loss_and_delivery, wall_split
from dfl_ray.views.learning import energy_of_devices, learning_state, routing, task_matrices
from dfl_ray.views.maps import device_map
from dfl_ray.views.radio import rate_distribution, schedule, sinr_distribution
from dfl_ray.views.report import write_report

__all__ = [
    "FIGURES",
    "accuracy_by_task",
    "accuracy_heatmap",
    "accuracy_of_runs",
    "cost_bars",
    "device_map",
    "draw",
    "energy_of_devices",
    "learning_state",
    "loss_and_delivery",
    "rate_distribution",
    "routing",
    "schedule",
    "sinr_distribution",
    "task_matrices",
    "wall_split",
    "write_report",
]
