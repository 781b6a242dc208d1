"""The choice of `model.dtype: auto`, with processors and measurements that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.models.precision import (
    LEAST_GAIN,
    Rates,
    bfloat16_units,
    measured_rates,
    model_width,
    with_dtype,
)


def rates(gain: float) -> Rates:
    return Rates(80e9, gain * 80e9)


def never() -> Rates:
    raise AssertionError("measured a processor that has no such instructions")


@pytest.mark.parametrize(
    ("gain", "chosen"), [(6.0, "bfloat16"), (LEAST_GAIN, "bfloat16"), (1.1, "float32"), (0.1, "float32")]
)
def test_a_measurement_confirms_what_the_processor_says(gain: float, chosen: str) -> None:
    config, said = with_dtype(
        load_config("default", ["model.dtype=auto"]), lambda: ("AMX",), lambda: rates(gain), lambda _: 128
    )
    assert config.model.dtype == chosen
    assert len(said) == 1 and f"auto is {chosen}" in said[0]
    assert "AMX" in said[0] and f"{gain * 80:,.0f} GFLOP/s" in said[0] and "80 in float32" in said[0]


def test_without_the_instructions_nothing_is_measured() -> None:
    config, said = with_dtype(load_config("default", ["model.dtype=auto"]), lambda: (), never, lambda _: None)
    assert config.model.dtype == "float32"
    assert "no instructions" in said[0]


def test_a_narrow_model_stays_in_float32_whatever_the_processor_has(tmp_path: Path) -> None:
    """The width is read from config.json by any of its names; what cannot be read is left to who reads the model."""
    (tmp_path / "config.json").write_text('{"n_layer": 2, "n_embd": 96}', encoding="utf-8")
    for name, width in (("embedded", 64), (str(tmp_path), 96)):
        config, said = with_dtype(
            load_config("default", ["model.dtype=auto", f"model.name={name}"]), lambda: ("AMX",), never
        )
        assert config.model.dtype == "float32" and f"width {width}" in said[0]
    for text, width in (
        ('{"d_model": 128, "n_layers": 1}', 128),
        ("no json", None),
        ("[]", None),
        ("{}", None),
    ):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        wanted = load_config("default", ["model.dtype=auto", f"model.name={tmp_path}"])
        assert model_width(wanted) == width
        assert with_dtype(wanted, lambda: ("AMX",), lambda: rates(6.0))[0].model.dtype == "bfloat16"
    assert model_width(load_config("default", ["model.name=some/hub-id"])) is None


def test_the_width_of_a_gguf_file_is_in_its_header(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    wanted = load_config("default", ["model.dtype=auto", f"model.name={tmp_path / 'a.gguf'}"])
    assert model_width(wanted) is None  # whoever reads the model says that it is not there
    for width, dtype in ((96, "float32"), (128, "bfloat16")):
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
        writer.add_embedding_length(width)
        writer.add_tensor("token_embd.weight", np.zeros((2, width), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert model_width(wanted) == width
        assert with_dtype(wanted, lambda: ("AMX",), lambda: rates(6.0))[0].model.dtype == dtype
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert model_width(wanted) is None


@pytest.mark.parametrize(
    ("backend", "there", "dtype"),
    [("ray", False, "bfloat16"), ("local", True, "bfloat16"), ("local", False, "float32")],
)
def test_actors_with_gpus_take_bfloat16(
    backend: str, there: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local backend computes on this machine's CPU where it has no GPU, whatever is asked for."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    settings = ["model.dtype=auto", "runtime.gpus_per_actor=0.5", f"runtime.backend={backend}"]
    config, said = with_dtype(load_config("default", settings), lambda: ("AMX",), never)
    assert config.model.dtype == dtype
    assert ("have GPUs" in said[0]) == (dtype == "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_named_precision_stays(dtype: str) -> None:
    config = load_config("default", [f"model.dtype={dtype}"])
    assert with_dtype(config, lambda: ("AMX",), never) == (config, ())


def test_units_are_read_from_the_processors_flags(tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("model name\t: with avx512_bf16\nflags\t\t: fpu avx2 fma\n", encoding="utf-8")
    assert bfloat16_units(facts) == ()
    facts.write_text("flags\t\t: fpu amx_tile amx_bf16 avx512_bf16\n", encoding="utf-8")
    assert bfloat16_units(facts) == ("AMX", "AVX512-BF16")
    facts.write_text("Features\t: fp asimd bf16\n", encoding="utf-8")
    assert bfloat16_units(facts) == ("Arm BF16",)
    assert bfloat16_units(tmp_path / "none") == ()


def test_rates_are_those_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr("dfl_ray.models.precision.SIZES", (32, 64, 64))
    measured = measured_rates(1)
    assert 0 < measured.float32 < 1e14 and 0 < measured.bfloat16 < 1e14
    assert torch.get_num_threads() == threads


def test_a_runs_own_configuration_names_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed must not choose again: the measurement might come out differently."""
    from dfl_ray.simulation import launch as launched

    seen: list[tuple[Any, Any]] = []
    monkeypatch.setattr(launched, "_carry_out", lambda run, folder, *_: seen.append((run, folder)))
    config = load_config(
        "default", ["runtime.backend=local", "model.dtype=auto", f"runtime.runs_dir={tmp_path}"]
    )
    launched.launch(config, quiet=True)
    ((experiment, folder),) = seen
    again = load_config(str(folder.path / "config.yaml"), [])
    assert again.model.dtype in ("float32", "bfloat16")
    assert again.model.dtype == experiment.setup.weights.dtype
    assert any("auto is" in note for note in experiment.notes)
