"""What a Ray of the run's own is told to start; none is started."""

from __future__ import annotations

import pytest
from ray._private import parameter, services, utils

from actors.own_ray import own_ray


def test_a_run_starts_no_process_that_it_does_not_use():
    usual = parameter.RayParams()
    assert usual.include_log_monitor is None and usual.no_monitor is False  # what Ray starts by itself
    with own_ray(launcher="/there/launch.py", dashboard=False, logs=False):
        given = parameter.RayParams(num_cpus=2, include_dashboard=False)
        assert services.start_api_server(False, False, "127.0.0.1") == ("", None)
        assert utils.get_dashboard_dependency_error() is None
    assert (given.no_monitor, given.include_log_monitor) == (True, False)
    assert (given.setup_worker_path, given.num_cpus) == ("/there/launch.py", 2)


def test_what_is_asked_for_is_started():
    usual = services.start_api_server
    with own_ray(launcher=None, dashboard=True, logs=True):
        given = parameter.RayParams()
        assert services.start_api_server is usual
    assert (given.no_monitor, given.include_log_monitor) == (False, True)
    assert given.setup_worker_path is None  # Ray's own


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_rays_own_names_are_put_back(error):
    before = (parameter.RayParams, services.start_api_server, utils.get_dashboard_dependency_error)
    try:
        with own_ray(launcher="x", dashboard=False, logs=False):
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert (parameter.RayParams, services.start_api_server, utils.get_dashboard_dependency_error) == before
