"""The final adapters load into PEFT and give the logits the simulator computes itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dfl_ray.engines.batches import collate
from dfl_ray.lora.inject import Binding
from dfl_ray.lora.layout import Layout
from dfl_ray.simulation.checkpoint import load_checkpoint
from tests.conftest import small_config


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("sparse_orthogonal", {"topic", "agree"}),
        ("dlora", {"shared"}),
        ("dlora_per_task", {"topic", "agree"}),
        ("flora", {"shared"}),
    ],
)
def test_final_adapters_give_the_same_logits_in_peft(method, names, adapted, base, token_tasks, tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from dfl_ray.models.paths import embedded_path
    from dfl_ray.simulation.launch import launch

    config = small_config(tmp_path, "name=x", "runtime.backend=local", "rounds=1", f"method={method}")
    run = launch(config, json=True).folder
    assert {p.name for p in (run / "adapters").iterdir()} == names
    batch = collate([(token_tasks[0].train, i) for i in range(3)])
    for name in names:
        settings = json.loads((run / "adapters" / name / "adapter_config.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(embedded_path())
        loaded = peft.PeftModel.from_pretrained(model, run / "adapters" / name)
        from safetensors.numpy import load_file

        raw = load_file(run / "adapters" / name / "adapter_model.safetensors")
        a, b = ([torch.from_numpy(raw[f"base_model.model.{s.name}.lora_{f}.weight"])[None] for s in adapted.layers]
                for f in "AB")  # fmt: skip
        assert any(bool(x.any()) for x in b)
        with torch.no_grad():
            mine = adapted.model.logits(batch, Binding(a, b, None, settings["lora_alpha"] / settings["r"]))
            theirs = loaded(input_ids=batch.input_ids).logits[batch.source[:, 0], batch.source[:, 1]]
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    state = next(iter(load_checkpoint(run / "checkpoints").state.devices))
    stored = np.concatenate([x.ravel() for x in state.arrays["0/state/theta"][:1]])
    layout = Layout(adapted.layers, 8, ("b",) if method == "sparse_orthogonal" else ("a", "b"))
    assert stored.size == layout.size


def test_what_flora_merged_is_exported_whole(adapted, tmp_path):
    """The folder's B A is what the device has merged into its base plus its running module."""
    from safetensors.numpy import load_file

    from dfl_ray.simulation.backend import BackendState
    from dfl_ray.simulation.experiment import build_experiment
    from dfl_ray.simulation.export import save_final_adapters
    from dfl_ray.simulation.launch import launch
    from dfl_ray.tracking.progress import make_progress

    config = small_config(tmp_path, "name=x", "runtime.backend=local", "method=flora", "method.rank=4")
    run = launch(config, json=True).folder
    saved = load_checkpoint(run / "checkpoints").state
    state = BackendState(list(saved.devices), saved.channel)
    layout = Layout(adapted.layers, 4, ("a", "b"))
    arrays = state.devices[0].arrays
    theta = arrays["0/state/theta"] = adapted.theta(layout, 1, 3).numpy()
    experiment = build_experiment(config, make_progress(quiet=True).step)
    folder = save_final_adapters(experiment, state, tmp_path / "adapters") / "shared"
    raw = load_file(folder / "adapter_model.safetensors")
    said = json.loads((folder / "adapter_config.json").read_text())
    own_a, own_b = (layout.views(torch.from_numpy(theta), f) for f in ("a", "b"))
    start = 0
    for layer, a, b in zip(adapted.layers, own_a, own_b, strict=True):
        stop = start + layer.out_features * layer.in_features
        merged = arrays["0/memory/merged"][start:stop].reshape(layer.out_features, -1)
        start = stop
        down, up = (raw[f"base_model.model.{layer.name}.lora_{f}.weight"] for f in "AB")
        assert down.shape[0] == said["r"] > 4
        assert np.abs(merged).max() > 1e-4
        expected = merged + 16 / 4 * (b[0] @ a[0]).numpy()
        np.testing.assert_allclose(said["lora_alpha"] / said["r"] * up @ down, expected, atol=1e-5)
