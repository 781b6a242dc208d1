"""One W&B run for one experiment, from the driver alone; it never prompts and its failures stop nothing."""

from __future__ import annotations

import os
import secrets
import shlex
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dfl_ray.errors import first_line
from dfl_ray.records import RunFolder, load_run
from dfl_ray.tracking.guard import Guard
from dfl_ray.tracking.metrics import HISTOGRAM_OF_EXTRA, scalar_metrics, summary_metrics
from dfl_ray.tracking.tracker import NullTracker, Tracker

if TYPE_CHECKING:
    from dfl_ray.config.schema import TrackConfig, WandbConfig

Mode = Literal["auto", "online", "offline", "disabled"]

INIT_TIMEOUT_S = 12.0
FINISH_TIMEOUT_S = 60.0
MOST_TABLE_ROWS = 10_000
_BINS = 64


def wandb_tracker(
    track: TrackConfig, *, name: str | None, say: Callable[[str], None], verbose: bool
) -> Tracker:
    """The tracker for the section `track.wandb`: none where its mode, or the environment, says `disabled`.

    Args:
        track: The section `track`; only `wandb` is used.
        name: Name shown for the run; None = that of its folder.
        say: Prints one line to the user.
        verbose: Let the library speak for itself.

    Returns:
        A `WandbTracker`, or a `NullTracker` where W&B is off.
    """
    mode, asked_by = wandb_mode(track.wandb.mode, os.environ)
    if mode == "disabled":
        if asked_by:
            say(f"W&B is off ({asked_by}).")
        return NullTracker()
    return WandbTracker(track.wandb, mode=mode, name=name, say=say, verbose=verbose)


def wandb_mode(mode: Mode, environment: Mapping[str, str]) -> tuple[Mode, str]:
    """The mode in which W&B is used, and the environment variable that decides it, or an empty text.

    `WANDB_DISABLED=true` and `WANDB_MODE=disabled` turn W&B off whatever the configuration says, as they do
    wherever W&B is used; other values of `WANDB_MODE` decide where the configuration says `auto`.

    Args:
        mode: `track.wandb.mode`.
        environment: The environment's variables.

    Returns:
        The mode, and the deciding variable as `NAME=value`.
    """
    if mode == "disabled":
        return mode, ""
    off, asked = environment.get("WANDB_DISABLED", ""), environment.get("WANDB_MODE", "").strip().lower()
    if off.strip().lower() in ("true", "1", "yes", "on", "y", "t"):
        return "disabled", f"WANDB_DISABLED={off}"
    if asked == "disabled":
        return "disabled", f"WANDB_MODE={asked}"
    known: Mapping[str, Mode] = {"online": "online", "offline": "offline", "dryrun": "offline"}
    if mode == "auto" and asked in known:
        return known[asked], f"WANDB_MODE={asked}"
    return mode, ""


class WandbTracker:
    """Follows a run with Weights & Biases; see `Tracker`.

    `mode` is what `wandb_mode` decided; None takes that of the settings. `auto` and `online` are online
    when a key is found (environment, settings or netrc, as W&B looks for it) and the server answers within 12 s;
    otherwise the run is written to `<run folder>/wandb` and the line that uploads it later is printed at the end.
    """

    def __init__(
        self,
        settings: WandbConfig,
        *,
        mode: Mode | None = None,
        name: str | None = None,
        say: Callable[[str], None] = print,
        verbose: bool = False,
    ) -> None:
        self._settings = settings
        self._mode: Mode = settings.mode if mode is None else mode
        self._name = name
        self._say = say
        self._verbose = verbose
        self._run: Any = None
        self._folder: RunFolder | None = None
        self._guard = Guard("W&B", say)

    @property
    def run(self) -> Any:
        """The `wandb.Run`, or None when W&B could not be started."""
        return self._run

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Begin a W&B run, or continue one; see `Tracker.start`. Its id is kept in `run.json`."""
        self._folder = run_folder
        with self._guard("could not be started"):
            import wandb

            self._quiet_setup(wandb)
            online = self._mode != "offline" and self._has_key(wandb)
            run_id = resume_id or new_id()
            if online:
                try:
                    self._run = self._init(wandb, "online", run_id, config)
                except Exception as error:  # whatever W&B raises: no server, a refused key, a full quota
                    self._guard.warn(
                        f"is not reachable ({first_line(error, 200)}); it is written to disk instead."
                    )
                    wandb.teardown()  # its service holds the failed run's id and would refuse it
                    self._quiet_setup(wandb)
            if self._run is None:
                self._run = self._init(wandb, "offline", run_id, config)
            self._run.define_metric("round")
            self._run.define_metric("time/simulated_s", step_metric="round")
            self._run.define_metric("*", step_metric="round")
            mode = "offline" if self._run.offline else "online"
            run_folder.update_info(
                wandb={"id": run_id, "mode": mode, "url": self._run.url if online else None}
            )

    def _quiet_setup(self, wandb: Any) -> None:
        wandb.setup(settings=wandb.Settings(silent=not self._verbose, quiet=not self._verbose, console="off"))

    def _has_key(self, wandb: Any) -> bool:
        try:
            found = bool(wandb.login(prompt=False, verify=False))
        except Exception as error:  # a malformed key must not stop a run
            self._guard.warn(
                f"key is not usable ({first_line(error, 200)}); the run is written to disk instead."
            )
            return False
        if not found and self._mode == "online":
            self._guard.warn("has no key (`wandb login`); the run is written to disk instead.")
        return found

    def _init(self, wandb: Any, mode: str, run_id: str, config: Mapping[str, Any]) -> Any:
        assert self._folder is not None
        return wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            group=self._settings.group,
            tags=list(self._settings.tags) or None,
            name=self._name or self._folder.path.name,
            id=run_id,
            resume="allow" if mode == "online" else None,
            dir=str(self._folder.path.absolute()),
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(
                mode=mode,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
                silent=not self._verbose,
                quiet=not self._verbose,
                console="off",
                save_code=False,
                disable_code=True,
                disable_git=True,
            ),
        )

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Log a round's numbers and histograms at step `round`; see `Tracker.log_round`."""
        if self._run is None:
            return
        with self._guard("did not take a round's numbers"):
            extras = extras or {}
            metrics: dict[str, Any] = dict(scalar_metrics(row, extras))
            for name, metric in HISTOGRAM_OF_EXTRA.items():
                histogram = _histogram(extras.get(name))
                if histogram is not None:
                    metrics[metric] = histogram
            self._run.log(metrics, step=int(row["round"]))

    def save_adapters(self, path: Path) -> None:
        """Log the final adapters as an artifact of type `model`, unless `save_adapters` is off."""
        if self._run is None or not self._settings.save_adapters:
            return
        with self._guard("did not take the adapters"):
            import wandb

            artifact = wandb.Artifact(f"adapters-{self._run.id}", type="model")
            artifact.add_dir(str(path)) if Path(path).is_dir() else artifact.add_file(str(path))
            self._run.log_artifact(artifact)

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Log the device table and the map, set the summary, end; offline, say how to upload."""
        if self._run is None:
            return
        with self._guard("did not take the closing tables"):
            self._log_closing(summary or {})
        with self._guard("did not end in time"):
            self._run.finish(exit_code=1 if failed else 0)
        if self._run.offline:
            for line in self._offline_lines():
                self._say(line)

    def _log_closing(self, summary: Mapping[str, Any]) -> None:
        import wandb

        from dfl_ray.views import device_map

        assert self._folder is not None
        run = load_run(self._folder.path)
        for name, value in summary_metrics(summary).items():
            self._run.summary[name] = value
        if run.last_round == 0:
            return
        table = device_table(run)
        closing: dict[str, Any] = {
            "devices": wandb.Table(columns=list(table.columns), data=table.values.tolist())
        }
        if len(run.nodes_at(run.last_round)):
            closing["topology"] = wandb.Plotly(device_map(run))
        self._run.log(closing, step=run.last_round)

    def _offline_lines(self) -> list[str]:
        assert self._folder is not None
        folder = self._folder.path / "wandb"
        runs = sorted(folder.glob("offline-run-*"))
        here = [_shown(run) for run in runs]
        return [
            f"W&B, to upload: wandb sync {' '.join(here)}",
            f"W&B, to read here: wandb beta leet {_shown(folder)}",
        ]


def _shown(path: Path) -> str:
    """A path as one would type it here: relative if it lies below, else absolute."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path.absolute()) if relative.startswith("..") else relative)


def new_id() -> str:
    """A W&B run id: eight random letters and digits, from the system and not from any seed."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def _histogram(values: Any) -> Any:
    """W&B histogram of the finite values, None when there are none."""
    import wandb

    if values is None:
        return None
    array = np.asarray(values, dtype=float).ravel()
    array = array[np.isfinite(array)]
    return wandb.Histogram(np_histogram=np.histogram(array, bins=_BINS)) if array.size else None


def device_table(run: Any) -> Any:
    """One row a device at the run's end: tasks, actor, loss, totals on air, mean accuracy over all tasks.

    Args:
        run: A `dfl_ray.records.Run`.

    Returns:
        DataFrame of at most 10,000 rows; missing numbers are None.
    """
    from dfl_ray.records.results import last_evaluation

    last, summed = run.last_round, ["energy_j", "sent_bytes", "received_bytes"]
    shown = ["tasks", "actor", "loss", "x_m", "y_m"]
    final = run.table("devices", columns=["device", *shown], rounds=(last, last)).set_index("device")
    totals = run.table("devices", columns=["device", *summed]).groupby("device")[summed].sum()
    table = final.join(totals)
    evaluation = last_evaluation(run)
    table["accuracy_mean"] = evaluation.groupby("device")["accuracy"].mean()
    table = table.reset_index().head(MOST_TABLE_ROWS).astype(object)
    return table.where(table.notna(), None)
