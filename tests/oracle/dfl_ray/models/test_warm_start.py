"""Adapters made and saved by PEFT as the start of a run: before round 1 every device computes what PEFT computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfl_ray import plan
from dfl_ray.config.check import check_inputs
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.engines.batches import prompt_batch
from dfl_ray.errors import InputError
from dfl_ray.lora.inject import Binding
from dfl_ray.models.build import build_transformer
from dfl_ray.models.warm_start import TENSORS
from dfl_ray.simulation.common_start import warm_start
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.export import _static_a
from dfl_ray.simulation.fingerprint import fingerprint, refuse_changed_inputs
from dfl_ray.wire.message import SHARED_TASK
from tests.conftest import small_config

ROW = np.random.default_rng(3).integers(0, 100, 20)


def save_adapter(base: Any, folder: Path, **settings: Any) -> torch.Tensor:
    """A random adapter as PEFT saves it; returns the logits that PEFT computes from the saved folder."""
    from peft import LoraConfig, PeftModel, get_peft_model

    chosen = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    made = get_peft_model(build_transformer(base), LoraConfig(task_type="CAUSAL_LM", **chosen))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, values in made.named_parameters():
            if "lora_" in name:
                values.normal_(0, 0.2)
    made.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(build_transformer(base), str(folder)).eval()
    with torch.no_grad():
        return loaded(input_ids=torch.from_numpy(ROW)[None]).logits[0]


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "patterns": {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 9}},
    "rslora": {"use_rslora": True},
}


@pytest.fixture(scope="module")
def saved(base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("adapters")
    return {kind: (folder / kind, save_adapter(base, folder / kind, **more)) for kind, more in KINDS.items()}


METHODS = (
    "dlora", "ffa", "rolora", "fedsa", "choco", "flora", "flexlora", "hetlora", "local", "centralized",
    "dlora_per_task", "ffa_per_task", "local_per_task",
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "kind"), [*((m, "plain") for m in METHODS), ("dlora", "patterns"), ("ffa", "rslora")]
)
def test_every_device_starts_with_what_peft_computes(
    saved: Any, tmp_path: Path, method: str, kind: str
) -> None:
    folder, wanted = saved[kind]
    words = [f"method={method}", f"model.warm_start={folder}"]
    if method in ("hetlora", "flexlora"):
        words.append("method.ranks=[4,8]")
    experiment = build_experiment(small_config(tmp_path, *words))
    group = DeviceGroup(experiment.setup, [0, 1])
    batch, _ = prompt_batch([ROW], most=None, every=True)
    layout = group.method.layout
    for device in group.devices.values():
        group.method.begin(device, 1)
        for row, task in enumerate(device.adapter_tasks):
            theta = device.state.theta[row : row + 1]
            static = group.method.static_a([(device.index, task)])
            a = layout.views(theta, "a") if static is None else list(static)
            binding = Binding(a, layout.views(theta, "b"), None, group.scale)
            with torch.no_grad():
                assert torch.allclose(group.model.logits(batch, binding), wanted, atol=1e-4)
                assert not torch.allclose(group.model.logits(batch, None), wanted, atol=1e-2)
            if static is not None:  # what is exported is what is computed with
                exported = _static_a(experiment, device.index, SHARED_TASK)
                assert all(
                    np.array_equal(x[0].numpy(), np.float32(y)) for x, y in zip(a, exported, strict=True)
                )
        if method == "choco":  # or the neighbours would be sent the adapter once more as a difference
            assert torch.equal(torch.from_numpy(device.memory.own), device.state.theta[0])


def test_another_adapter_is_another_run(base: Any, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "one")
    config = small_config(tmp_path, "method=dlora", f"model.warm_start={tmp_path / 'one'}")
    experiment = build_experiment(config)
    before = fingerprint(experiment)
    said = f"starts from the adapter {tmp_path / 'one'}: rank 4, in "
    assert any(said in note for note in experiment.notes) and any(said in n for n in plan(config)["notes"])
    refuse_changed_inputs(tmp_path, {"fingerprint": before}, before)
    save_adapter(base, tmp_path / "one", lora_alpha=7)
    with pytest.raises(InputError, match=r"the adapter of `model.warm_start` is another"):
        refuse_changed_inputs(tmp_path, {"fingerprint": before}, fingerprint(build_experiment(config)))
    cold = fingerprint(build_experiment(small_config(tmp_path, "method=dlora")))
    assert "warm_start" not in cold


def test_what_cannot_be_started_from(base: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sparse_orthogonal(?s:.)*merge_and_unload"):
        small_config(tmp_path, f"model.warm_start={tmp_path}")
    with pytest.raises(InputError, match=r"fed_sb(?s:.)*a core between two bases"):
        small_config(tmp_path, "method=fed_sb", f"model.warm_start={tmp_path}")
    with pytest.raises(InputError, match="no adapter folder"):
        check_inputs(small_config(tmp_path, "method=dlora", f"model.warm_start={tmp_path / 'none'}"))
    folder = tmp_path / "adapter"
    save_adapter(base, folder)
    config = small_config(tmp_path, "method=dlora", f"model.warm_start={folder}")
    layers = build_experiment(config).setup.layers

    def refused(said: str, *words: str) -> None:
        with pytest.raises(InputError, match=said):
            warm_start(small_config(tmp_path, "method=dlora", f"model.warm_start={folder}", *words), layers)

    refused("of a higher rank", "method.rank=2")
    for key, value in (
        ("use_dora", True), ("modules_to_save", ["lm_head"]), ("init_lora_weights", "pissa"), ("bias", "all"),
    ):  # fmt: skip
        said = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**said, key: value}))
        refused(f"not plain LoRA(?s:.)*{key}")
        (folder / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="does not adapt"):
        plan(
            small_config(
                tmp_path, "method=dlora", f"model.warm_start={folder}", "model.target_modules=q_proj"
            )
        )
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    refused("pickled")


def test_a_method_with_an_a_of_its_own_is_refused(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a method of an installed package might have, which the configuration cannot know."""
    from dfl_ray.methods.ffa import Ffa

    folder, _ = saved["plain"]
    experiment = build_experiment(small_config(tmp_path, "method=ffa", f"model.warm_start={folder}"))
    own = [torch.zeros(1, 8, layer.in_features) for layer in experiment.setup.layers]
    monkeypatch.setattr(Ffa, "static_a", lambda _self, owners: [a.expand(len(owners), -1, -1) for a in own])
    with pytest.raises(InputError, match=r"ffa cannot start from `model.warm_start`"):
        DeviceGroup(experiment.setup, [0])
