"""`dfl-ray evaluate --harness`: EleutherAI's lm-evaluation-harness over the models of a run's devices.

The harness is given the base model once, as `transformers` computes it, and the adapters of one device after the other
in its linear layers: no merged copy is made, and equal adapters are asked once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dfl_ray.errors import InputError, nearest
from dfl_ray.lora.inject import Binding, BindingCell, inject
from dfl_ray.methods.spec import method_spec
from dfl_ray.models.build import build_transformer
from dfl_ray.simulation.experiment import model_path
from dfl_ray.tracking.progress import Progress

if TYPE_CHECKING:
    from dfl_ray.evaluation.scorer import Adapter
    from dfl_ray.simulation.export_device import SavedRun

COLUMNS = ("device", "expert", "task", "metric", "filter", "value", "stderr", "samples")


@dataclass(frozen=True)
class HarnessSettings:
    """What the harness is asked, under its own names.

    Attributes:
        tasks: Names of the harness's tasks, groups or tags, or paths of task files.
        include: Folder with further task files (its `include_path`); None = none.
        num_fewshot: Examples before each question; None = the task's own number.
        limit: Documents of each task, or their share if below 1; None = all.
        batch_size: Rows of one forward pass.
    """

    tasks: tuple[str, ...] = ()
    include: Path | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    batch_size: int = 8


def harness_settings(words: Sequence[str]) -> HarnessSettings:
    """Read the words behind `--harness`.

    Args:
        words: `tasks=a,b`, and any of `include=DIR`, `num_fewshot=N`, `limit=N`, `batch_size=N`.

    Returns:
        The settings.

    Raises:
        InputError: An unknown word, a value that cannot be read, no tasks, no such folder, or the harness is not
            installed.
    """
    given = {name: text for name, _, text in (word.partition("=") for word in words)}
    readers: Mapping[str, Any] = {
        "tasks": lambda text: tuple(part for part in text.split(",") if part),
        "include": lambda text: Path(text).expanduser(),
        "num_fewshot": int,
        "limit": float,
        "batch_size": int,
    }
    read: dict[str, Any] = {}
    for name, text in given.items():
        if name not in readers:
            raise InputError(f"--harness knows no `{name}`", expected=nearest(name, list(readers)))
        try:
            read[name] = readers[name](text)
        except ValueError:
            raise InputError(f"`{name}` of --harness is no number", got=text) from None
    settings = HarnessSettings(**read)
    if not settings.tasks:
        raise InputError("--harness names no task", expected="tasks=NAME,NAME")
    low = {"num_fewshot": (settings.num_fewshot, 0), "batch_size": (settings.batch_size, 1)}
    for name, (value, least) in low.items():
        if value is not None and value < least:
            raise InputError(
                f"`{name}` of --harness is too low", got=str(value), expected=f"at least {least}"
            )
    if settings.limit is not None and not settings.limit > 0:
        raise InputError("`limit` of --harness is too low", got=f"{settings.limit:g}", expected="above 0")
    if settings.include is not None and not settings.include.is_dir():
        raise InputError("`include` of --harness is no folder", got=str(settings.include))
    if find_spec("lm_eval") is None:
        raise InputError(
            "--harness needs EleutherAI's lm-evaluation-harness",
            got="no package lm-eval",
            change="Run: pip install 'dfl-ray[harness]'",
        )
    return settings


def evaluate_with_harness(
    run: SavedRun,
    settings: HarnessSettings,
    progress: Progress,
    *,
    devices: Sequence[int],
    experts: bool = False,
) -> pd.DataFrame:
    """Ask the harness's tasks of devices' models.

    Args:
        run: The run.
        settings: What is asked.
        progress: Shows the steps.
        devices: Some of its devices.
        experts: Ask each task's expert alone, instead of the one model that `dfl-ray export` writes.

    Returns:
        Columns device, expert (the expert's task; empty for the whole model), task, metric, filter, value, stderr
        (NaN where the harness gives none), samples.

    Raises:
        InputError: No such device, no experts, an unknown task, or documents that cannot be had.
    """
    if run.experiment.setup.weights.classes is not None:
        raise InputError("lm-eval asks language models", got="a classifier, which answers with a class")
    held = run.experiment.setup.held
    for device in devices:
        if device not in held:
            raise InputError(f"The run has no device {device}", expected=f"0 to {len(held) - 1}")
    if experts and not method_spec(run.config.method).per_task:
        raise InputError(f"`{run.config.method.name}` has no experts", change="Leave --experts out.")
    with progress.step("lm-evaluation-harness"):
        asked = _Asked(run, settings)
    rows: list[dict[str, Any]] = []
    for device in devices:
        with progress.step(f"device {device}"):
            for expert, adapter in _models(run, device, experts):
                rows += [{"device": device, "expert": expert, **row} for row in asked.figures(adapter)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _models(run: SavedRun, device: int, experts: bool) -> Iterator[tuple[str, Adapter]]:
    whole, parts = run.group.answers(device)
    if not experts:
        yield "", whole
        return
    for task, adapter in parts.items():
        if adapter is not None:
            yield run.experiment.setup.tasks[task].name, adapter


class _Asked:
    """The harness around one model, and what it has answered for each distinct adapter.

    Args:
        run: The run.
        settings: What is asked.
    """

    def __init__(self, run: SavedRun, settings: HarnessSettings) -> None:
        hugging_face: Any = import_module("lm_eval.models.huggingface")
        manager: Any = import_module("lm_eval.tasks").TaskManager
        setup, method = run.experiment.setup, run.config.method
        model = build_transformer(setup.weights, str(run.group.torch_device))
        self._cell: BindingCell = inject(model, setup.layers)
        self._scale = method.alpha / method.rank
        self._settings = settings
        self._lm = hugging_face.HFLM(
            pretrained=model,
            tokenizer=model_path(run.config),
            batch_size=settings.batch_size,
            trust_remote_code=run.config.model.trust_remote_code,
        )
        self._tasks = manager(include_path=None if settings.include is None else str(settings.include))
        self._known: dict[bytes, list[dict[str, Any]]] = {}

    def figures(self, adapter: Adapter) -> list[dict[str, Any]]:
        """Every figure of every task under one adapter."""
        digest = hashlib.blake2b()
        for factor in (*adapter.a, *adapter.b):
            digest.update(factor.float().cpu().contiguous().numpy().tobytes())
        key = digest.digest()
        if key not in self._known:
            device = self._lm.model.device
            a, b = ([f.to(device)[None] for f in factors] for factors in (adapter.a, adapter.b))
            self._cell.current = Binding(a, b, None, self._scale)
            self._known[key] = _rows(self._evaluate())
        return self._known[key]

    def _evaluate(self) -> Mapping[str, Any]:
        simple_evaluate: Any = import_module("lm_eval").simple_evaluate
        chosen = self._settings
        try:
            found = simple_evaluate(
                model=self._lm,
                tasks=list(chosen.tasks),
                num_fewshot=chosen.num_fewshot,
                limit=chosen.limit,
                task_manager=self._tasks,
                log_samples=False,
            )
        except (KeyError, ValueError, OSError) as error:  # unknown task, no such data set, no network
            raise InputError(
                f"The lm-evaluation-harness cannot ask {', '.join(chosen.tasks)}",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                expected="names of `lm-eval ls tasks`, or of task files in include=DIR, whose data can be read here",
            ) from error
        assert found is not None, "only other ranks of a distributed evaluation get nothing"
        return found


def _rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The harness's results as rows: its keys are `metric,filter` and `metric_stderr,filter`."""
    rows: list[dict[str, Any]] = []
    for task, figures in found["results"].items():
        samples = found.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in figures.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, str):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "filter": kind,
                    "value": float(value),
                    "stderr": float(error) if isinstance(error, int | float) else float("nan"),
                    "samples": samples,
                }
            )
    return rows
