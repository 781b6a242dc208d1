"""Starting or joining Ray, quietly, and asking what it has."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

from actors.forks import ForkServer, take_server
from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import InputError
from dfl_ray.packing.partition import Node


def local_resources() -> dict[str, float]:
    """What a cluster started on this machine will have, known before it is started."""
    import psutil

    return {
        "CPU": float(len(os.sched_getaffinity(0))),
        "GPU": float(_visible_gpus()),
        "memory": float(psutil.virtual_memory().available),
    }


def _visible_gpus() -> int:
    try:
        return len([f for f in os.listdir("/proc/driver/nvidia/gpus")])
    except OSError:
        return 0


def start(
    runtime: RuntimeConfig, *, verbose: bool = False, workers: Mapping[str, Any] | None = None
) -> Mapping[str, float]:
    """Start Ray on this machine, or join a running cluster.

    Args:
        runtime: `address` None starts one here; `auto` or host:port joins one.
        verbose: Let Ray speak for itself.
        workers: Runtime environment of all workers of a cluster started here.

    Returns:
        The cluster's resources.

    Raises:
        InputError: The address cannot be joined.
    """
    import ray

    level = logging.INFO if verbose else logging.ERROR
    common = {"logging_level": level, "log_to_driver": verbose, "namespace": f"dfl-ray-{os.getpid()}"}
    if runtime.address is None:
        ray.init(
            address="local",
            include_dashboard=runtime.ray_dashboard,
            num_cpus=int(local_resources()["CPU"]),
            runtime_env=dict(workers or {}),
            **common,
        )
        return {**ray.cluster_resources(), "memory": local_resources()["memory"]}
    _check_reachable(runtime.address)
    try:
        ray.init(address=runtime.address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _not_joined(runtime.address, reason) from error
    return ray.cluster_resources()


class Starting:
    """Starts or joins Ray in a thread, so that the driver can build its experiment meanwhile; a context manager.

    The thread lives until the end: Ray's own processes are tied to the thread that started them, not to the process.
    BLAS is held to one thread as long: OpenBLAS ends its threads when the process forks, and a product under way in
    another thread, which waits for them, would wait for ever. Beside Ray started here comes the server that its workers
    are forks of (`runtime.fork_actors`).

    Args:
        runtime: See `start`.
        verbose: See `start`.

    Raises:
        InputError: Nobody listens at `runtime.address`.
    """

    def __init__(self, runtime: RuntimeConfig, *, verbose: bool = False) -> None:
        if runtime.address is not None:
            _check_reachable(runtime.address)
        self._runtime, self._verbose = runtime, verbose
        self._began, self._over = threading.Event(), threading.Event()
        self._resources: Mapping[str, float] = {}
        self._error: BaseException | None = None
        self._limits: Any = None
        self._forks: ForkServer | None = None
        self._thread = threading.Thread(target=self._live, daemon=True, name="Ray")

    def _live(self) -> None:
        try:
            workers = {} if self._forks is None else self._forks.runtime_env()
            self._resources = start(self._runtime, verbose=self._verbose, workers=workers)
        except BaseException as error:  # raised where it is asked for
            self._error = error
        self._began.set()
        self._over.wait()

    def prepare(self, config_json: str) -> None:
        """Have what a model needs imported and compiled before actors are made; see `ForkServer.prepare`."""
        if self._forks is not None:
            self._forks.prepare(config_json)

    def resources(self) -> Mapping[str, float]:
        """The cluster's resources, once it is there.

        Raises:
            InputError: It cannot be joined.
        """
        self._began.wait()
        if self._error is not None:
            raise self._error
        return self._resources

    def __enter__(self) -> Starting:
        """Begin."""
        from threadpoolctl import threadpool_limits

        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for what is loaded from now on
        self._limits = threadpool_limits(1, user_api="blas")
        if self._runtime.forks:
            self._forks = take_server(verbose=self._verbose)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; one started here is stopped.

        After an error too Ray is waited for: a second start beside one under way mixes the two up, and a minute later
        Ray ends the process, without an exception, since the control service it knew is gone.
        """
        self._began.wait()
        stop()
        self._over.set()
        if self._forks is not None:
            self._forks.close()
        self._limits.restore_original_limits()


def _check_reachable(address: str) -> None:
    """Refuse a host:port nobody listens at, since Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]") or "localhost", int(port)), timeout=5).close()
    except OSError as error:
        raise _not_joined(address, str(error)) from error


def _not_joined(address: str, reason: str) -> InputError:
    return InputError(
        f"No Ray cluster can be joined at `runtime.address={address}`",
        got=reason,
        expected="`auto` beside a running cluster, or host:port of its head",
        change="Start one with `ray start --head`, or leave `runtime.address` out to start one here. A cluster with "
        "token authentication is joined at host:port with RAY_AUTH_MODE=token set and its token in ~/.ray/auth_token.",
    )


def nodes() -> list[Node]:
    """The cluster's machines; see `actors.nodes.living_nodes`."""
    from actors.nodes import living_nodes

    return living_nodes()


def stop() -> None:
    """Leave the cluster; one started here is stopped."""
    import ray

    ray.shutdown()
