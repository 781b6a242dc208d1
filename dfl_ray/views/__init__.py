"""Pictures of runs as plotly figures, one builder each; the report, the dashboard and W&B share them."""

from dfl_ray.views.accuracy import accuracy_by_task, accuracy_heatmap, accuracy_of_runs
from dfl_ray.views.costs import cost_bars, loss_and_delivery, wall_split
from dfl_ray.views.maps import device_map
from dfl_ray.views.radio import rate_distribution, schedule, sinr_distribution
from dfl_ray.views.report import write_report

__all__ = [
    "accuracy_by_task",
    "accuracy_heatmap",
    "accuracy_of_runs",
    "cost_bars",
    "device_map",
    "loss_and_delivery",
    "rate_distribution",
    "schedule",
    "sinr_distribution",
    "wall_split",
    "write_report",
]
