"""How large the object store of a run's own Ray is made."""

from __future__ import annotations

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.models.paths import embedded_path
from dfl_ray.packing import store
from dfl_ray.packing.store import base_file_mb, object_store_mb


def test_the_store_has_room_for_the_base_for_parts_of_checkpoints_and_for_messages(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "usable_cpus", lambda: 2)
    base = sum(f.stat().st_size for f in embedded_path().glob("*.safetensors")) / 2**20
    assert object_store_mb(load_config(None, [])) == pytest.approx(256 + 2 * base + 64 * 10 + 0.02 * 10)
    (tmp_path / "model-00001.safetensors").write_bytes(bytes(3 * 2**20))
    (tmp_path / "model-00002.safetensors").write_bytes(bytes(2**20))
    (tmp_path / "config.json").write_text("{}")
    words = [f"model.name={tmp_path}", "devices.count=1000"]
    assert object_store_mb(load_config(None, words)) == pytest.approx(256 + 8 + 64 * 2 + 20)


def test_a_size_that_is_asked_for_is_taken_and_an_unknown_base_leaves_rays_own():
    assert object_store_mb(load_config(None, ["runtime.object_store_mb=200"])) == 200
    assert object_store_mb(load_config(None, ["model.name=somebody/on-a-hub"])) is None


def test_a_single_file_is_its_size(tmp_path):
    (tmp_path / "base.gguf").write_bytes(bytes(2**20))
    assert base_file_mb(str(tmp_path / "base.gguf")) == 1.0
    assert base_file_mb(str(tmp_path)) == 1.0
