"""The two sides that `gpu_training` compares: all devices in one batched step, and PEFT device after device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.gpu_work import Work, draw_ids
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.lora.training import LocalWork, ScoredModel, train_adapters
from dfl_ray.models.llama import CausalDecoder, empty_decoder
from dfl_ray.tasks.tokens import TokenRows

SIZE = StepSize(learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0)
SCALE = 2.0


def wait(device: str) -> None:
    """Return when the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: str, *, warm: int, repeats: int) -> list[float]:
    """Wall-clock seconds of each of `repeats` calls, after `warm` calls that do not count."""
    out: list[float] = []
    for number in range(warm + repeats):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        if number >= warm:
            out.append(time.perf_counter() - began)
    return out


def random_base(work: Work, seed: int = 0) -> CausalDecoder:
    """A base with random weights, drawn where it is to live."""
    model = empty_decoder(work.shape).to(work.dtype).to_empty(device=work.device)
    generator = torch.Generator(work.device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    frequencies = work.shape.inverse_frequencies().to(work.device)
    model.register_buffer("frequencies", frequencies, persistent=False)
    return model.eval().requires_grad_(False)


class Batched:
    """Ours: the path a run takes, `train_adapters` on a `ScoredModel`."""

    def __init__(self, work: Work, model: CausalDecoder, *, trains_a: bool, compile: str) -> None:
        self.layers = tuple(find_targets(model, "all-linear"))
        chosen = "on" if work.device == "cpu" else "auto"
        self.model = ScoredModel(model, inject(model, self.layers), large=chosen, compile=compile)  # type: ignore[arg-type]
        if self.model.large is None:
            raise ValueError("the large path was not taken; it needs the project's own decoder")
        self.layout = Layout(self.layers, work.rank, ("a", "b") if trains_a else ("b",))
        generator = torch.Generator(work.device).manual_seed(1)
        theta = torch.empty(work.devices, self.layout.size, device=work.device)
        self.state = AdapterState.from_theta(theta.normal_(0.0, 0.01, generator=generator))
        self.static_a = None if trains_a else _static(self.layers, work, generator)
        self.work = _local_work(work)

    def step(self) -> np.ndarray:
        """One step of all devices; their losses."""
        result = train_adapters(
            self.model, self.layout, self.state, self.work, size=SIZE, scale=SCALE, static_a=self.static_a
        )
        return result.loss

    def factors(self, device: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Copies of one device's A and B of every layer."""
        b = self.layout.views(self.state.theta, "b")
        a = self.static_a or self.layout.views(self.state.theta, "a")
        return {
            s.name: (x[device].clone(), y[device].clone()) for s, x, y in zip(self.layers, a, b, strict=True)
        }


def _static(layers: tuple[Any, ...], work: Work, generator: torch.Generator) -> list[torch.Tensor]:
    return [
        torch.empty(work.devices, work.rank, s.in_features, device=work.device).normal_(
            0.0, s.in_features**-0.5, generator=generator
        )
        for s in layers
    ]


def _local_work(work: Work) -> list[LocalWork]:
    ids = draw_ids(work, work.devices * work.batch)
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
    starts = np.full(len(ids), work.length - work.scored + 1, np.int32)
    table = TokenRows(ids.ravel(), offsets, starts)
    return [
        LocalWork([[(table, k * work.batch + i) for i in range(work.batch)]]) for k in range(work.devices)
    ]


class InTurn:
    """PEFT on `transformers`' own model, one adapter's step after the other's.

    One adapter module serves all devices: changing adapters, which PEFT would add, is not charged. Everything else
    is a usual loop: forward, loss of the scored tokens, backward, clipping, fused AdamW.

    Args:
        work: The same step.
        base: Our base; its weights are shared, not copied.
        factors: Name -> (A, B) that the adapter starts from.
        trains_a: Whether A is trained.
        mixed: Adapters in float32 under autocast, PEFT's default, instead of all in the base's precision.
    """

    def __init__(
        self, work: Work, base: Mapping[str, torch.Tensor], factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        *, trains_a: bool, mixed: bool,
    ) -> None:  # fmt: skip
        self.work, self.mixed = work, mixed
        self.model = _peft_model(work, base, mixed)
        with torch.no_grad():
            for name, module in self.model.named_modules():
                if hasattr(module, "lora_A") and "default" in module.lora_A:
                    a, b = factors[name.removeprefix("base_model.model.")]
                    module.lora_A["default"].weight.copy_(a)
                    module.lora_B["default"].weight.copy_(b)
        if not trains_a:
            for name, parameter in self.model.named_parameters():
                if "lora_A" in name:
                    parameter.requires_grad_(False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=SIZE.learning_rate, weight_decay=SIZE.weight_decay,
            fused=work.device.startswith("cuda"),
        )  # fmt: skip
        ids = torch.from_numpy(draw_ids(work, work.devices * work.batch).astype(np.int64))
        self.ids = ids.view(work.devices, work.batch, -1).to(work.device)

    def loss(self, device: int) -> torch.Tensor:
        """Mean loss of one device's scored tokens."""
        ids, scored = self.ids[device], self.work.scored
        autocast = torch.autocast("cuda", torch.bfloat16) if self.mixed else nullcontext()
        with autocast:
            logits = self.model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=scored).logits
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, -scored:].flatten())

    def step(self, device: int) -> None:
        """One device's step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(device).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, SIZE.clip_norm)
        self.optimizer.step()

    def all_devices(self) -> None:
        """One step of every device in turn."""
        for device in range(self.work.devices):
            self.step(device)


def _peft_model(work: Work, base: Mapping[str, torch.Tensor], mixed: bool) -> Any:
    import peft
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, Qwen2Config

    shape = work.shape
    config = Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        rms_norm_eps=shape.eps, tie_word_embeddings=shape.tied, use_cache=False,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )  # fmt: skip
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=work.dtype, attn_implementation="sdpa")
    named = model.load_state_dict(dict(base), strict=False, assign=True)
    if named.unexpected_keys or set(named.missing_keys) - {"lm_head.weight"}:
        raise ValueError(f"`transformers` names the weights differently: {named}")
    model.tie_weights()
    lora = peft.LoraConfig(
        r=work.rank, lora_alpha=int(SCALE * work.rank), target_modules="all-linear", lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    wrapped: Any = peft.get_peft_model(model.to(work.device), lora, autocast_adapter_dtype=mixed)
    return wrapped.train()
