"""Shared fixtures: the embedded model, small token tasks, and small runs of both backends."""

from __future__ import annotations

import os

# One thread for each process, as in actors; read by BLAS and OpenMP when they are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Coverage is that of the tests' own processes: the fifteen of a Ray take twice as long under a tracer.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing of the code: a first call imports or compiles.
settings.register_profile("dfl-ray", deadline=None)
settings.register_profile(
    "mutants", deadline=None, derandomize=True, max_examples=30, suppress_health_check=list(HealthCheck)
)
settings.load_profile("dfl-ray")

SMALL_RUN = [
    "rounds=4",
    "devices.count=4",
    "devices.partition.tasks_per_device=1",
    "devices.partition.min_holders=2",
    "tasks.names=[topic,agree]",
    "tasks.train_rows=200",
    "tasks.test_rows=40",
    "method.local_steps=2",
    "method.batch_rows=4",
    "evaluate.every=2",
    "evaluate.rows_per_task=12",
    "track.wandb.mode=disabled",
    "runtime.report=false",
]
"""Overrides that make a run of a few seconds."""


def small_config(tmp_path: Path, *overrides: str) -> Any:
    """The configuration of a small run inside `tmp_path`."""
    from dfl_ray.config.load import load_config

    partitioned = any(text.startswith("devices.partition=") for text in overrides)
    own = [text for text in SMALL_RUN if not (partitioned and text.startswith("devices.partition."))]
    return load_config(None, [*own, f"runtime.runs_dir={tmp_path}", *overrides])


MEASURED = (
    "tests/ray/", "tests/unit/actors/", "tests/unit/channels/", "tests/unit/dfl_ray/", "tests/unit/topology/",
    "tests/oracle/dfl_ray/", "tests/oracle/channels/test_exact_schedules.py", "tests/oracle/channels/test_control.py",
    "tests/oracle/channels/test_local_greedy.py", "tests/oracle/topology/test_mixing_spectra.py",
)  # fmt: skip
"""Where the tests are whose coverage is measured; a tracer doubles their time, so the others run without."""

NOTHING_NEW = (
    "tests/oracle/dfl_ray/devices/test_group_evaluation.py", "tests/oracle/dfl_ray/engines/test_attention_rows.py",
    "tests/oracle/dfl_ray/engines/test_batched_training.py", "tests/oracle/dfl_ray/engines/test_passes.py",
    "tests/oracle/dfl_ray/models/test_embedded_model.py", "tests/oracle/dfl_ray/models/test_llama.py",
    "tests/oracle/dfl_ray/models/test_peft_folder.py", "tests/oracle/dfl_ray/simulation/test_dry_run.py",
    "tests/ray/test_backends.py", "tests/ray/test_methods_on_ray.py",
    "tests/unit/dfl_ray/config/test_config_load.py", "tests/unit/dfl_ray/config/test_options.py",
    "tests/unit/dfl_ray/network/test_comm_graph.py", "tests/unit/dfl_ray/simulation/test_estimate.py",
    "tests/unit/dfl_ray/simulation/test_local_run.py", "tests/unit/dfl_ray/simulation/test_replay_room.py",
    "tests/unit/dfl_ray/tasks/test_synthetic.py", "tests/unit/dfl_ray/test_safety.py",
)  # fmt: skip
"""Of those, long ones that take hardly a branch which others don't take (one in a hundred together): not measured."""


def is_measured(item: pytest.Item) -> bool:
    """Whether a test's coverage counts."""
    return item.nodeid.startswith(MEASURED) and not item.nodeid.startswith(NOTHING_NEW)


@contextmanager
def without_tracer() -> Iterator[None]:
    """Pause the tracer, where there is one."""
    from coverage import Coverage

    tracer = Coverage.current()
    if tracer is not None:
        tracer.stop()
    try:
        yield
    finally:
        if tracer is not None:
            tracer.start()


if "PYTEST_XDIST_WORKER" in os.environ:
    with without_tracer():  # what all workers import and nobody measures
        for library in ("torch", "transformers", "peft", "ray", "pandas", "scipy.stats", "networkx", "numba"):
            import_module(library)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that start Ray first, since they take longest; of them those first that share one.

    Those that are measured come before the others, so that modules are imported under the tracer.
    """
    items.sort(
        key=lambda item: (
            item.get_closest_marker("ray") is None,
            "shared_ray" not in getattr(item, "fixturenames", ()),
            not is_measured(item),
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Pause the tracer for a test that isn't measured."""
    with nullcontext() if is_measured(item) else without_tracer():
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all that starts Ray to one worker, and to the other whole files, whose tests share fixtures.

    Two clusters at a time on two cores only wait for each other.
    """
    from xdist.scheduler import LoadScopeScheduling

    class RayInOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "ray" if file.startswith("tests/ray/") or "_on_ray" in nodeid else file

    return RayInOneWorker(config, log)


@pytest.fixture(scope="session")
def base() -> Any:
    """Weights of the embedded model."""
    from dfl_ray.models.base import load_base
    from dfl_ray.models.paths import embedded_path

    return load_base(embedded_path())


@pytest.fixture(scope="session")
def token_tasks() -> Any:
    """Two small embedded tasks as tokens."""
    from dfl_ray.models.paths import embedded_path
    from dfl_ray.models.tokenizer import load_tokenizer
    from dfl_ray.tasks.synthetic import make_tasks
    from dfl_ray.tasks.tokens import tokenize_task

    tokenizer = load_tokenizer(embedded_path())
    tasks = make_tasks(("topic", "agree"), seed=0, train_rows=120, test_rows=30)
    return [tokenize_task(t, tokenizer, max_tokens=64, score="exact_match") for t in tasks]


class Adapted:
    """A model with adapted layers, its layer list and a seeded way to draw factors."""

    def __init__(self, weights: Any) -> None:
        import torch

        from dfl_ray.engines.training import ScoredModel
        from dfl_ray.lora.inject import find_targets, inject
        from dfl_ray.models.build import build_model

        torch.set_num_threads(1)
        module = build_model(weights)
        self.layers = tuple(find_targets(module, "all-linear"))
        self.model = ScoredModel(module, inject(module, self.layers))

    def theta(self, layout: Any, adapters: int, seed: int = 0) -> Any:
        """(adapters, size) random adapters, small."""
        import torch

        rng = np.random.default_rng(seed)
        return torch.from_numpy(rng.normal(0, 0.05, (adapters, layout.size)).astype(np.float32))

    def static_a(self, adapters: int, rank: int, seed: int = 1) -> Any:
        """One (adapters, rank, d) stack a layer."""
        import torch

        rng = np.random.default_rng(seed)
        shapes = [(adapters, rank, s.in_features) for s in self.layers]
        return [torch.from_numpy(rng.normal(0, s[2] ** -0.5, s).astype(np.float32)) for s in shapes]


@pytest.fixture(scope="session")
def adapted(base: Any) -> Adapted:
    """The embedded model with adapted layers."""
    return Adapted(base)
