"""Exported folders, loaded by `peft` and `transformers`, against the simulator's own evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfl_ray import run
from dfl_ray.cli import main
from dfl_ray.models.build import build_transformer
from dfl_ray.records import Run, load_run
from dfl_ray.records.words import share
from dfl_ray.simulation.export_device import open_saved
from tests.conftest import small_config


@pytest.fixture(scope="module", params=["sparse_orthogonal", "flora"])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("exported")
    words = [f"method={request.param}", "rounds=2", "name=one", "runtime.backend=local", "evaluate.every=2"]
    path = run(small_config(folder, *words)).path
    return path, open_saved(path)


def logits(saved: Any, adapter: Any, row: np.ndarray) -> torch.Tensor:
    """W x + s B A x in every adapted layer of a model of `transformers`, by hooks that know nothing of PEFT."""
    model = build_transformer(saved.experiment.setup.weights)
    modules = dict(model.named_modules())
    scale = saved.config.method.alpha / saved.config.method.rank
    for layer, a, b in zip(saved.experiment.setup.layers, adapter.a, adapter.b, strict=True):
        modules[layer.name].register_forward_hook(
            lambda _m, x, y, a=a, b=b: y + scale * (x[0] @ a.float().T) @ b.float().T
        )
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(row)[None]).logits[0]


def test_peft_and_transformers_give_the_simulators_logits(made: Any, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    path, saved = made
    row = np.random.default_rng(0).integers(0, 100, 20)
    whole = saved.group.answers(2)[0]
    wanted = logits(saved, whole, row)
    bare = build_transformer(saved.experiment.setup.weights)
    assert main(["export", str(path), str(tmp_path / "adapter"), "--device", "2"]) == 0
    assert main(["export", str(path), str(tmp_path / "model"), "--device", "2", "--merged"]) == 0
    with torch.no_grad():
        before = bare(input_ids=torch.from_numpy(row)[None]).logits[0]
        peft = PeftModel.from_pretrained(bare, str(tmp_path / "adapter")).eval()
        from_peft = peft(input_ids=torch.from_numpy(row)[None]).logits[0]
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
        from_model = model(input_ids=torch.from_numpy(row)[None]).logits[0]
    assert float((wanted - before).abs().max()) > 1e-3
    assert torch.allclose(from_peft, wanted, atol=1e-4)
    assert torch.allclose(from_model, wanted, atol=1e-4)
    tasks = 2 if saved.config.method.name == "sparse_orthogonal" else 1
    said = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert said["r"] >= tasks * saved.config.method.rank
    card = (tmp_path / "adapter/README.md").read_text()
    assert "device 2" in card and "seed 0" in card and "library_name: peft" in card
    assert ("those by rule `filter` are its own" in card) == (saved.config.method.name == "sparse_orthogonal")
    assert (tmp_path / "model/tokenizer.json").is_file()


def test_experts_of_all_devices_with_their_loader(made: Any, tmp_path: Path, capsys: Any) -> None:
    path, saved = made
    out = tmp_path / "all"
    if saved.config.method.name != "sparse_orthogonal":
        assert main(["export", str(path), str(out), "--experts"]) == 2
        assert "has no experts" in capsys.readouterr().err
        return
    assert main(["export", str(path), str(out), "--all", "--experts"]) == 0
    assert sorted(f.name for f in out.iterdir()) == [f"device-{d:04d}" for d in range(4)]
    scope: dict[str, Any] = {"__file__": str(out / "device-0001/load.py")}
    exec((out / "device-0001/load.py").read_text(), scope)
    model = scope["load"](build_transformer(saved.experiment.setup.weights))
    row = np.random.default_rng(1).integers(0, 100, 12)
    for task, adapter in saved.group.answers(1)[1].items():
        model.set_adapter(saved.experiment.setup.tasks[task].name)
        with torch.no_grad():
            found = model(input_ids=torch.from_numpy(row)[None]).logits[0]
        assert torch.allclose(found, logits(saved, adapter, row), atol=1e-4)


def test_the_evaluation_is_read_once_for_the_cards_of_all_devices(
    made: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    path, _ = made
    read: list[str] = []
    table = Run.table
    monkeypatch.setattr(
        Run, "table", lambda self, name, **wanted: read.append(name) or table(self, name, **wanted)
    )
    assert main(["export", str(path), str(tmp_path / "all"), "--all"]) == 0
    assert read.count("evaluation") == 1
    own = load_run(path).evaluation
    for device in range(4):
        card = (tmp_path / f"all/device-{device:04d}/README.md").read_text()
        wanted = own.query(f"device == {device} and round == 2")
        assert "accuracy on held-out rows after round 2" in card
        assert [row.split(" | ")[2] for row in card.splitlines()[-len(wanted) :]] == [
            share(value) for value in wanted["accuracy"]
        ]


def test_what_cannot_be_exported(made: Any, tmp_path: Path, capsys: Any) -> None:
    path, _ = made
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    for words, said in (
        ([str(tmp_path / "full")], "not empty"),
        ([str(tmp_path / "n"), "--device", "9"], "0 to 3"),
    ):
        assert main(["export", str(path), *words]) == 2
        assert said in capsys.readouterr().err


CONVERTER = """
import pathlib, sys
folder, out = pathlib.Path(sys.argv[1]), sys.argv[sys.argv.index("--outfile") + 1]
assert (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()
if {fails}:
    sys.exit("the tokenizer is not known")
pathlib.Path(out).write_bytes(b"GGUF" + (folder / "model.safetensors").read_bytes()[:8])
"""


@pytest.mark.parametrize("fails", [False, True])
def test_gguf_is_made_by_the_converter_of_llama_cpp(
    made: Any, tmp_path: Path, capsys: Any, fails: bool
) -> None:
    path, _ = made
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(CONVERTER.format(fails=fails))
    code = main(["export", str(path), str(tmp_path / "out"), "--gguf", str(converter)])
    said = capsys.readouterr().err
    if fails:
        assert code == 2 and "Got: the tokenizer is not known" in said
    else:
        assert code == 0 and (tmp_path / "out/model.gguf").read_bytes().startswith(b"GGUF")
        assert main(["export", str(path), str(tmp_path / "no"), "--gguf", "absent.py"]) == 2
        assert "needs llama.cpp's converter" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
