"""One base per node: actors map the base weights from the object store; private memory is what they own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.numpy import save_file

from actors import cluster
from actors.memory import own_memory
from actors.pool import RayBackend
from channels.transfers import Transfers
from dfl_ray.models.decoder import read_decoder
from dfl_ray.models.paths import embedded_path
from dfl_ray.simulation.chosen_packing import choose_packing
from dfl_ray.simulation.experiment import Experiment, build_experiment
from tests.conftest import small_config

pytestmark = pytest.mark.ray

MB = 2**20
ALLOWED_MB = 60


@pytest.fixture
def large_folder(tmp_path: Path) -> Path:
    """A Llama folder of 64 MB with random weights and the embedded model's tokenizer."""
    folder = tmp_path / "model"
    shutil.copytree(embedded_path(), folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 5, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    shape = read_decoder(json.dumps(settings))
    assert shape is not None
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(0, 0.02, s).astype(np.float32) for n, s in shape.parameter_shapes().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@ray.remote(num_cpus=0)
class Bare:
    """An actor that has torch and nothing else."""

    def memory(self) -> dict[str, int]:
        torch.set_num_threads(1)
        (torch.ones(64, 64) @ torch.ones(64, 64)).sum()
        return own_memory()


def work(backend: RayBackend, devices: int) -> None:
    """A round with training, mixing and answering, so that every lazy copy has been made."""
    reports = backend.train(1)
    nothing = Transfers.build(*(np.zeros(0, np.int64) for _ in range(4)))
    backend.plan(1, nothing, np.zeros(devices), np.zeros(devices))
    assert sum(len(report.devices) for report in reports) == devices
    backend.evaluate(1, ("oracle",), None)


@pytest.mark.exhaustive  # a measurement
def test_actors_cost_one_base_and_sixty_megabytes_each(large_folder, tmp_path):
    overrides = (f"model.name={large_folder}", "runtime.devices_per_actor=2", "evaluate.rows_per_task=4")
    config = small_config(tmp_path, *overrides)
    experiment: Experiment = build_experiment(config)
    assert experiment.setup.weights.size_bytes > 60 * MB
    resources = cluster.start(config.runtime)
    try:
        backend = RayBackend(experiment.setup, experiment.channel, choose_packing(experiment, resources))
        backend.await_ready()
        bare = Bare.remote()
        work(backend, 4)
        own = [m["private_bytes"] for m in backend.memory()]
        plain = ray.get(bare.memory.remote())["private_bytes"]
        assert len(own) == 2
        assert max(own) - plain <= ALLOWED_MB * MB, [(m - plain) // MB for m in own]
        print([round((m - plain) / MB, 1) for m in own], plain / MB)
        backend.close()
    finally:
        cluster.stop()
