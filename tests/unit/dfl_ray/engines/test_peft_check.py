"""An adapter folder read back with PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfl_ray.engines.peft_check import verify_folder
from dfl_ray.engines.training import ScoredModel
from dfl_ray.errors import InputError
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.peft_folder import write_peft_folder


def test_an_untrained_adapter_may_differ_by_rounding_alone(tmp_path: Path, monkeypatch) -> None:
    from dfl_ray.engines import peft_check

    weights = load_base(embedded_path())
    module = build_model(weights)
    layers = find_targets(module, "all-linear")
    model = ScoredModel(module, inject(module, layers))
    a = [np.ones((1, s.in_features), np.float32) for s in layers]
    b = [np.zeros((s.out_features, 1), np.float32) for s in layers]
    folder = write_peft_folder(tmp_path / "adapter", layers, a, b, scale=1.0, base_model="")
    off, loads = [3e-6], peft_check._load

    def load(*given):
        loaded = loads(*given)
        loaded.get_output_embeddings().register_forward_hook(lambda _m, _x, out: out * (1 + off[0]))
        return loaded

    monkeypatch.setattr(peft_check, "_load", load)
    assert 0 < verify_folder(weights, model, layers, folder) < 1e-3
    off[0] = 1e-3
    with pytest.raises(InputError, match="logits differ"):
        verify_folder(weights, model, layers, folder)
