"""The processes of a Ray that a run starts for itself: only those that it uses; see docs/runtime.md.

`ray.init` starts, beside the services of a node, a dashboard without pages whose only work is Ray's usage statistics,
a monitor for the autoscaler and a reader of all workers' logs. Each is a Python process that imports Ray, and
`ray.init` waits for the first. Ray has names for what is to be started, which `ray.init` does not pass on. It also
imports in this process all that the dashboard needs, to see whether it is installed; `ray[default]`, which this project
asks for, has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def own_ray(*, launcher: str | None, dashboard: bool, logs: bool) -> Iterator[None]:
    """Have `ray.init` start the processes that a run uses, while the context lasts.

    Args:
        launcher: The script that starts each worker in place of Ray's own, which imports Ray to read a line; it gets
            the path and the arguments of the worker. None leaves Ray's.
        dashboard: Start Ray's dashboard, and the autoscaler's monitor that it asks.
        logs: Start the reader of the workers' logs, which shows them to the driver.

    Yields:
        Nothing.
    """
    from ray._private import parameter, services, utils

    names: Any = parameter
    starters: Any = services
    given: dict[str, Any] = {"include_log_monitor": logs, "no_monitor": not dashboard}
    if launcher is not None:
        given["setup_worker_path"] = launcher
    usual, usual_dashboard = parameter.RayParams, services.start_api_server
    usual_check = utils.get_dashboard_dependency_error
    utils.get_dashboard_dependency_error = lambda: None
    names.RayParams = partial(usual, **given)
    if not dashboard:
        starters.start_api_server = _no_dashboard
    try:
        yield
    finally:
        names.RayParams, starters.start_api_server = usual, usual_dashboard
        utils.get_dashboard_dependency_error = usual_check


def _no_dashboard(*_arguments: Any, **_named: Any) -> tuple[str, None]:
    """In place of what starts the dashboard: no address, no process."""
    return "", None
