"""Starting or joining Ray, quietly, and asking what it has."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from actors.forks import ForkServer
from actors.joining import join, prepare_token, services_joined
from actors.own_ray import handler_kept, own_ray
from actors.session import hide_token, job_config, listen_only_here, private_folder
from actors.starting import check_handles, ended_silently, explained, lost_service
from actors.watching import ServiceWatch
from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import InputError, tell
from dfl_ray.packing import machine
from dfl_ray.packing.actors import most_lone_actors
from dfl_ray.packing.partition import Node
from dfl_ray.packing.store import rays_own_mb
from dfl_ray.packing.workers import why_no_forks

SESSION_SOCKET = "dfl-12345678/r/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store"
"""A socket of Ray's below the temporary folder, as long as it can get (process numbers have up to 7 digits)."""
SHARED_MEMORY = "/dev/shm"
"""Where Ray keeps its object store on Linux if it is large enough."""
WATCH_EVERY_S = 0.5
"""Seconds between two looks at whether Ray's services live."""
START_ENDS_S = 15.0
"""Longest wait for the error of a start of Ray whose services have ended."""
SYSTEM = {"free_objects_period_milliseconds": 50, "max_io_workers": 1, "prestart_worker_first_driver": False}
"""Ray gives back the memory of objects that nobody uses once a second: parts of a checkpoint pile up in that time. Of
the processes that write to disk what does not fit the object store, and read it back, 45 MB each, it starts four. It
would start as many workers as there are CPUs at once, and `ray.init` waits for them without letting any other thread of
this process run, for ever if they end as they start; the workers of actors are started for them as it is."""
NO_TASK_EVENTS = {"task_events_report_interval_ms": 0}
"""Ray keeps the history of calls for its dashboard only, 40 to 60 MB a thousand rounds: off where that is off."""

CALLERS = "the caller's Ray"
"""In place of an address: the Ray that this process had initialised before the run."""


def of_the_caller(runtime: RuntimeConfig) -> RuntimeConfig:
    """Have a run join the Ray that this process has initialised already, if there is one: a notebook's, a trial's.

    Args:
        runtime: The run's settings.

    Returns:
        The settings with `CALLERS` as their address, or as they are. A Ray that was joined so is left up.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return runtime
    return runtime.model_copy(update={"address": CALLERS})


def session_settings(store_mb: float | None = None) -> tuple[dict[str, Any], list[str]]:
    """Settings of Ray's session where the machine is not as Ray expects it, and what the user is told of it.

    Ray puts Unix sockets below its temporary folder (RAY_TMPDIR, on Linux TMPDIR, else /tmp), whose path may be too
    long for that; its session then goes to a shorter folder. Its object store lies in `/dev/shm` on Linux; where that
    does not exist or is too small, it lies in the session's folder.

    Args:
        store_mb: Wanted size of the object store in 2^20 bytes; None leaves Ray's own default.

    Returns:
        Arguments of `ray.init`, with the folder for Ray's folder as `_temp_dir`, and sentences for the user.

    Raises:
        InputError: No folder has a path that is short enough, or the store is larger than the memory.
    """
    settings: dict[str, Any] = {}
    notes: list[str] = []
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    wanted = os.environ.get(name, "/tmp") if name == "RAY_TMPDIR" or sys.platform == "linux" else "/tmp"
    folder: str | None = wanted
    if not machine.fits_a_socket(wanted, SESSION_SOCKET):
        folder = machine.socket_folder(SESSION_SOCKET)
        if folder is None:
            raise _no_short_folder(name, wanted)
        notes.append(f"{name}={wanted} is too long a path for Ray's sockets; its session is in {folder}")
    settings["_temp_dir"] = folder
    least = (rays_own_mb() if store_mb is None else _within_memory(store_mb)) * 2**20
    if store_mb is not None:
        settings["object_store_memory"] = int(least)
    shared = _shared_memory_bytes()
    if sys.platform == "linux" and shared < least:
        settings |= {"object_store_memory": int(least), "_plasma_directory": folder}
        state = f"has only {shared / 2**20:.0f} MB free" if shared else "does not exist"
        notes.append(f"{SHARED_MEMORY} {state}; Ray's object store is a file in {folder}, which is slower")
    return settings, notes


def _within_memory(store_mb: float) -> float:
    memory_mb = machine.total_memory_bytes() / 2**20
    if store_mb > memory_mb:
        raise InputError(
            "The object store would be larger than this machine's memory",
            got=f"runtime.object_store_mb={store_mb:g}",
            expected=f"at most {memory_mb:,.0f} (2^20 bytes)",
            change="Lower `runtime.object_store_mb`, or leave it out.",
        )
    return store_mb


def _no_short_folder(name: str, folder: str) -> InputError:
    room = machine.SOCKET_PATH_BYTES - len(SESSION_SOCKET) - 1
    return InputError(
        f"The temporary folder {name} has too long a path for Ray's sockets, and no shorter one can be written to",
        got=f"{name}={folder}, {len(os.fsencode(folder))} bytes",
        expected=f"a folder whose path has at most {room} bytes; {', '.join(machine.SHORT_FOLDERS)} were tried too",
        change=f"Set {name} to a shorter path, or `runtime.backend=local` to run without Ray.",
    )


def _shared_memory_bytes() -> int:
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def start(
    runtime: RuntimeConfig,
    *,
    verbose: bool = False,
    launcher: str | None = None,
    session: Mapping[str, Any] | None = None,
    environments: bool = False,
) -> Mapping[str, float]:
    """Start Ray on this machine, or join a running cluster.

    Args:
        runtime: `address` None starts one here; `auto` or host:port joins one.
        verbose: Let Ray speak for itself.
        launcher: The script that starts the workers of a cluster started here; None leaves that to Ray.
        session: Settings of a session started here; None takes those of `session_settings`.
        environments: See `own_ray`.

    Returns:
        The cluster's resources; of one started here, CPUs and memory as they are open to this process.

    Raises:
        InputError: The address cannot be joined, or no folder serves for a session here.
    """
    if runtime.address is None:
        listen_only_here(True)
    import ray

    if runtime.address == CALLERS:
        return ray.cluster_resources()
    level = logging.INFO if verbose else logging.ERROR
    common = {"logging_level": level, "log_to_driver": verbose, "namespace": f"dfl-ray-{os.getpid()}"}
    if runtime.address is None:
        settings = _usual_settings() if session is None else session
        dashboard = runtime.ray_dashboard
        started = own_ray(launcher=launcher, dashboard=dashboard, logs=verbose, environments=environments)
        with explained(), started, handler_kept():
            ray.init(
                address="local",
                include_dashboard=dashboard,
                num_cpus=machine.usable_cpus(),
                job_config=job_config(),
                _system_config=SYSTEM | _concurrency() | ({} if dashboard else NO_TASK_EVENTS),
                **settings,
                **common,
            )
            _prepare_to_send()
        hide_token()
        return {**ray.cluster_resources(), "memory": float(machine.available_memory_bytes())}
    join(runtime.address, common)
    return ray.cluster_resources()


def _concurrency() -> dict[str, int]:
    """Let so many workers start at once that Ray, which warns at four times as many in all, passes over usual runs."""
    return {"worker_maximum_startup_concurrency": most_lone_actors(machine.usable_cpus()) // 4 + 1}


def _prepare_to_send() -> None:
    """Have Ray make what it sends objects with, as at its first `put`, while `own_ray` lasts."""
    from ray._private.worker import global_worker

    global_worker.get_serialization_context()


def _usual_settings() -> dict[str, Any]:
    """Settings with Ray's folder where Ray itself would have it."""
    settings = session_settings()[0]
    # Not the temporary folder itself: Ray lets everybody write to the folder it is given.
    return {**settings, "_temp_dir": os.path.join(str(settings["_temp_dir"]), "ray")}


class Starting:
    """Starts or joins Ray in a thread, so that the driver can build its experiment meanwhile; a context manager.

    The thread runs until the end: Ray's own processes are tied to the thread that started them, not to the process.
    BLAS is held to one thread for as long: OpenBLAS ends its threads when the process forks, and a product under way in
    another thread, which waits for them, would wait for ever. Beside Ray started here runs the fork server that its
    workers are forks of, where `why_no_forks` finds nothing against it.

    Args:
        runtime: See `start`.
        verbose: See `start`.
        store_mb: Size of the object store of a Ray started here, in 2^20 bytes; None leaves Ray's own default.
        server: A fork server that was started earlier; it is closed here. None starts one where it is of use.
        ends_process: Whether Ctrl-C while Ray starts ends this process, at once and with all that it has started.

    Attributes:
        notes: Sentences for the user about how Ray is started.

    Raises:
        InputError: Nobody listens at `runtime.address`, or no folder serves for a session here.
    """

    def __init__(
        self,
        runtime: RuntimeConfig,
        *,
        verbose: bool = False,
        store_mb: float | None = None,
        server: ForkServer | None = None,
        ends_process: bool = False,
    ) -> None:
        self._session: Mapping[str, Any] = {}
        self.notes: list[str] = []
        if runtime.address is not None:
            prepare_token(runtime.address)
        else:
            check_handles()
            self._session, self.notes = session_settings(store_mb)
        self._ends_process = ends_process
        self._private = ExitStack()
        self._run_folder: Path | None = None
        self._runtime, self._verbose = runtime, verbose
        self._began, self._over, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._resources: Mapping[str, float] = {}
        self._error: BaseException | None = None
        self._limits: Any = None
        self._server = server
        self._refusal = why_no_forks(runtime)
        self._services = ServiceWatch()
        self._thread = threading.Thread(target=self._hold, daemon=True, name="Ray")

    def _hold(self) -> None:
        """Start Ray, then keep the thread until the end."""
        try:
            launcher = None if self._server is None else self._server.launcher()
            self._resources = start(
                self._runtime, verbose=self._verbose, launcher=launcher, session=self._session
            )
            if self._runtime.address not in (None, CALLERS):
                self._services.join(*services_joined())
        except BaseException as error:  # raised where it is asked for
            self._error = error
        self._began.set()
        self._over.wait()

    def _watch(self) -> None:
        """Wait for the end, and say so if one of Ray's two services dies before: Ray then ends this process itself."""
        while not self._ending.wait(WATCH_EVERY_S):
            if self._services.lost() and not self._ending.is_set():
                if self._began.wait(START_ENDS_S) and self._error is not None:
                    return  # a start that fails ends them itself; its error tells more
                self._lose_services()
                return

    def note_run(self, folder: Path) -> None:
        """Take down the run's folder once it is made, for what is said if Ray dies."""
        self._run_folder = folder
        if self._server is not None:
            self._server.note_last_words(ended_silently(folder))

    def services_lost(self) -> bool:
        """Whether a service of Ray that was there is gone."""
        return self._services.lost()

    def _lose_services(self) -> None:
        tell(lost_service(self._run_folder, joined=self._runtime.address is not None))
        if self._ends_process:
            self._abandon(1)

    def prepare(self, config_json: str, longest: int | None = None) -> None:
        """Have what a model needs imported and compiled before actors are made; see `ForkServer.prepare`.

        Args:
            config_json: The model's `transformers` configuration.
            longest: Most tokens that a row may have, as `BaseWeights.longest`.
        """
        if self._server is not None:
            self._server.prepare(config_json, longest)

    def resources(self) -> Mapping[str, float]:
        """The cluster's resources, once it is there.

        Raises:
            InputError: It cannot be joined.
        """
        self._began.wait()
        if self._error is not None:
            raise self._error
        return self._resources

    def why_no_forks(self) -> str | None:
        """Why actors made now are ordinary workers, in words for the user; None if they are forks.

        Waits until the fork server has imported what actors need and has answered that it can fork.
        """
        return self._refusal if self._server is None else self._server.check()

    def __enter__(self) -> Starting:
        """Begin."""
        from threadpoolctl import threadpool_limits

        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for what is loaded from now on
        self._limits = threadpool_limits(1, user_api="blas")
        if self._refusal is None:
            self._server = self._server or ForkServer(verbose=self._verbose)
        elif self._server is not None:
            self._server.close(self._refusal)
        if self._runtime.address is None:
            folder = self._private.enter_context(private_folder(str(self._session["_temp_dir"])))
            self._session = {**self._session, "_temp_dir": folder}
            if self._server is not None:
                self._server.note_session(os.path.dirname(folder))
            import ray  # noqa: F401 - before its services, which take their time while the experiment is built
        self._thread.start()
        threading.Thread(target=self._watch, daemon=True, name="Ray's services").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the cluster; one started here is stopped.

        After an error too Ray is waited for: a second start beside one under way mixes the two up, and a minute later
        Ray ends the process, without an exception, since the control service it knew is gone.
        """
        if kind is not None and issubclass(kind, KeyboardInterrupt) and not self._began.is_set():
            tell("dfl-ray: Interrupted while Ray was starting; it is ended. Nothing is lost.")
            if self._ends_process:
                self._abandon(130)
        self._began.wait()
        if kind is not None and self._error is None and self._services.lost():
            self._lose_services()  # which is why there is an error
        self._ending.set()
        if self._runtime.address != CALLERS:
            stop()
        self._private.close()
        self._over.set()
        if self._server is not None:
            self._server.close()
        self._limits.restore_original_limits()

    def _abandon(self, code: int) -> NoReturn:
        """End this process with all its children, without waiting for Ray; what was saved stays."""
        import psutil

        if self._server is not None:
            self._server.close()
        for _ in range(2):  # Ray may be starting one more meanwhile
            children = psutil.Process().children(recursive=True)
            for child in children:
                with suppress(psutil.Error):
                    child.kill()
            psutil.wait_procs(children, timeout=5)
        self._private.close()
        os._exit(code)


def nodes() -> list[Node]:
    """The cluster's machines; see `actors.nodes.alive_nodes`."""
    from actors.nodes import alive_nodes

    return alive_nodes()


def stop() -> None:
    """Leave the cluster; one started here is stopped."""
    import ray

    ray.shutdown()
    listen_only_here(False)
