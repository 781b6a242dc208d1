"""How large the object store of a run's own Ray is made."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.models.folder import stored_values
from dfl_ray.models.paths import embedded_path
from dfl_ray.packing import machine
from dfl_ray.packing.store import base_mb, object_store_mb


@pytest.fixture(autouse=True)
def two_cpus_and_much_memory(monkeypatch):
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2)
    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(machine, "total_memory_bytes", lambda: 64 * 2**30)


def model(*words):
    return load_config(None, list(words))


def saved(folder, name, dtype, values):
    save_file({"w": np.zeros((2, values // 2), dtype)}, folder / name)


def test_the_store_has_room_for_the_base_for_parts_of_checkpoints_and_for_messages():
    base = 4 * stored_values(embedded_path()) / 2**20
    assert object_store_mb(model()) == pytest.approx(256 + 2 * base + 64 * 10 + 0.02 * 10)
    assert object_store_mb(model("devices.count=1000")) == pytest.approx(256 + 2 * base + 64 * 2 + 20)


def test_the_base_counts_as_it_is_read_not_as_it_is_stored(tmp_path):
    saved(tmp_path, "model.safetensors", np.float16, 2**20)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(2**20))  # the same weights once more, never read
    for dtype, each in (("float32", 4), ("auto", 4), ("bfloat16", 2)):
        assert base_mb(model(f"model.name={tmp_path}", f"model.dtype={dtype}").model) == each
    (tmp_path / "model.safetensors").unlink()
    for number in (1, 2):
        saved(tmp_path, f"model-{number}.safetensors", np.float32, 2**20)
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    assert base_mb(model(f"model.name={tmp_path}").model) == 8


def test_a_gguf_file_counts_as_it_is_dequantised(tmp_path):
    def text(word):
        return struct.pack("<Q", len(word)) + word

    key = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    four_bits = text(b"w") + struct.pack("<IQQIQ", 2, 64, 2**14, 2, 0)  # Q4_0, 18 bytes for 32 values
    path = tmp_path / "base.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + key + four_bits + bytes(2**20))
    assert base_mb(model(f"model.name={path}").model) == 4 * 64 * 2**14 / 2**20


def test_actors_on_gpus_are_counted():
    less = object_store_mb(model("devices.count=100"))
    more = object_store_mb(model("devices.count=100", "runtime.gpus_per_actor=1"))
    assert more - less == pytest.approx(64 * (8 - 2))


def test_a_size_that_is_asked_for_is_taken_and_an_unknown_base_leaves_rays_own():
    assert object_store_mb(model("runtime.object_store_mb=50000")) == 50000
    assert object_store_mb(model("model.name=somebody/on-a-hub")) is None


def test_what_suits_is_at_most_what_ray_takes_by_itself(monkeypatch):
    monkeypatch.setattr(machine, "total_memory_bytes", lambda: 2**30)
    assert object_store_mb(model()) == pytest.approx(0.3 * 1024)


def test_a_store_larger_than_the_memory_is_refused():
    from actors.cluster import session_settings

    assert session_settings(50000.0)[0]["object_store_memory"] == 50000 * 2**20
    with pytest.raises(InputError, match=r"larger than this machine's memory.*runtime.object_store_mb=70000"):
        session_settings(70000.0)
