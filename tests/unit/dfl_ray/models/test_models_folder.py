"""What is refused as a model folder, on real safetensors files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dfl_ray.config.check import check_inputs
from dfl_ray.config.load import load_config
from dfl_ray.engines.adapted_layers import RowSizes, planned_targets
from dfl_ray.errors import InputError
from dfl_ray.models.folder import check_model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_file({"w": np.ones((4, 3), np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def shard(folder: Path) -> Path:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").unlink()
    for n, name in enumerate(names):
        save_file({f"w{n}": np.ones(3, np.float32)}, folder / name)
    index = {"metadata": {"total_size": 24}, "weight_map": {"w0": names[0], "w1": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_model_folder(folder)
    return str(caught.value)


def test_a_whole_folder_passes_single_or_sharded(folder: Path) -> None:
    check_model_folder(folder)
    check_model_folder(str(shard(folder)))


@pytest.mark.parametrize("names", [["tokenizer.model"], ["vocab.json", "merges.txt"], ["vocab.txt"]])
def test_other_tokenizers_pass(folder: Path, names: list[str]) -> None:
    (folder / "tokenizer.json").unlink()
    for name in names:
        (folder / name).write_text("", encoding="utf-8")
    check_model_folder(folder)


def test_no_folder(folder: Path) -> None:
    assert "does not exist" in complaint(folder / "none")
    assert "is a file" in complaint(folder / "config.json")


def test_no_config_or_a_broken_one(folder: Path) -> None:
    for text, words in (
        ("{", "is not JSON"),
        ("[]", "names no model_type"),
        ('{"a": 1}', "names no model_type"),
    ):
        (folder / "config.json").write_text(text, encoding="utf-8")
        assert words in complaint(folder)
    (folder / "config.json").unlink()
    assert "has no config.json. Got: model.safetensors, tokenizer.json" in complaint(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in complaint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    text = complaint(folder)
    assert "Got: pytorch_model.bin" in text and "save_pretrained" in text


def test_weights_that_are_not_whole(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content, words in (
        (whole[:-1], f"Got: {len(whole) - 1} bytes. Expected: {len(whole)} bytes"),
        (whole + b"x", "not whole"),
        (whole[:20], "not safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", "large-file pointer"),
        (b"", "not safetensors"),
        ((2).to_bytes(8, "little") + b"{}", "at least one tensor"),
    ):
        path.write_bytes(content)
        assert words in complaint(folder)


def test_missing_shards_and_broken_indexes(folder: Path) -> None:
    shard(folder)
    index = folder / "model.safetensors.index.json"
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 shards missing: model-00002-of-00002.safetensors" in complaint(folder)
    index.write_text("{}", encoding="utf-8")
    assert "is broken" in complaint(folder)
    index.write_text('{"weight_map": {}}', encoding="utf-8")
    assert "no shards" in complaint(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in complaint(folder)


def test_the_configured_model_is_checked_when_it_is_a_path(folder: Path) -> None:
    check_inputs(load_config(None, [f"model.name={folder}"]))
    check_inputs(load_config(None, ["model.name=Qwen/Qwen2.5-1.5B"]))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights"):
        check_inputs(load_config(None, [f"model.name={folder}"]))
    with pytest.raises(InputError, match="does not exist"):
        check_inputs(load_config(None, ["model.name=./nowhere"]))


def test_nothing_heavy_is_imported(folder: Path) -> None:
    program = (
        "import sys; from dfl_ray.models.folder import check_model_folder; check_model_folder(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def described(folder: Path, **config: object) -> Path:
    """A folder outside the Llama family with an embedding of 10 rows, of which a plan reads only the headers."""
    text = {"model_type": "gpt_neox", "num_hidden_layers": 1, "tie_word_embeddings": False, **config}
    (folder / "config.json").write_text(json.dumps(text), encoding="utf-8")
    names = {"gpt_neox.embed_in.weight": (10, 4), "gpt_neox.layers.0.attention.dense.weight": (4, 4)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in names.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_plan_refuses_token_ids_beyond_the_embedding(folder: Path) -> None:
    described(folder)
    assert [s.name for s in planned_targets(folder, "all-linear", RowSizes(8, 9)).layers] == [
        "gpt_neox.layers.0.attention.dense"
    ]
    with pytest.raises(InputError, match=r"larger than the base model's embedding.*token id 10.*of 10 rows"):
        planned_targets(folder, "all-linear", RowSizes(8, 10))


@pytest.mark.parametrize(
    ("rope", "limit"),
    [({"rope_type": "dynamic", "factor": 2.0}, 64),
     ({"type": "dynamic", "original_max_position_embeddings": 32}, 32), ({"type": "longrope"}, 64)],
)  # fmt: skip
def test_a_plan_refuses_rows_whose_rotary_scale_would_grow(folder: Path, rope: dict, limit: int) -> None:
    described(folder, rope_scaling=rope, max_position_embeddings=64)
    assert planned_targets(folder, "all-linear", RowSizes(limit, 9)).layers
    with pytest.raises(InputError, match=rf"rows of up to {limit + 1} tokens.*up to {limit}") as caught:
        planned_targets(folder, "all-linear", RowSizes(limit + 1, 9))
    assert f"`model.max_tokens` to at most {limit}" in str(caught.value)
