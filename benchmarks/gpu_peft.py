"""What `gpu_training` compares with: PEFT on `transformers`' own model, one adapter's step after the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.gpu_sides import SCALE, SIZE
from benchmarks.gpu_work import Work, draw_ids

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Layer name -> (A, B)."""


@dataclass(frozen=True)
class Manner:
    """One way to train with PEFT.

    Attributes:
        name: What it is called in the table.
        wide: Adapters in float32, PEFT's default over a base of lower precision; else in the base's precision.
        autocast: Products in bfloat16 by torch's autocast.
        every: Logits and softmax of all positions, as `model(input_ids, labels=labels)` computes them; else only of
            those at the rows' ends that are scored, which needs answers of one length.
        switched: Every device has an adapter of its own and `set_adapter` goes from one to the next; else one
            adapter module serves all, so that changing adapters is not charged.
    """

    name: str
    wide: bool = False
    autocast: bool = False
    every: bool = False
    switched: bool = False


def manners(work: Work, *, trains_a: bool) -> tuple[Manner, ...]:
    """The manners worth timing: precisions differ only below float32."""
    same = Manner("adapters in the base's precision")
    named = (Manner("the same, with set_adapter", switched=True),) if trains_a else ()
    if work.dtype != torch.bfloat16 or not work.device.startswith("cuda"):
        return same, *named
    return (
        same, *named, Manner("float32 adapters, autocast", wide=True, autocast=True),
        Manner("float32 adapters, PEFT's default", wide=True),
    )  # fmt: skip


class InTurn:
    """A usual loop: forward, loss of the scored tokens, backward, clipping, fused AdamW, device after device.

    Args:
        work: The same step as ours.
        base: Our base's weights; they are shared, not copied.
        factors: What each device's adapter starts from.
        manner: How.
        trains_a: Whether A is trained.
    """

    def __init__(
        self, work: Work, base: Mapping[str, torch.Tensor], factors: Sequence[Factors], manner: Manner,
        *, trains_a: bool,
    ) -> None:  # fmt: skip
        self.work, self.manner = work, manner
        self.names = [f"device{k}" for k in range(work.devices if manner.switched else 1)]
        self.model = _peft_model(work, base, self.names, manner)
        for name, own in zip(self.names, factors, strict=False):
            self._start(name, own, trains_a)
        self.trained = [self._use(k) for k in range(len(self.names))]
        self.optimizers = [
            torch.optim.AdamW(
                p, lr=SIZE.learning_rate, weight_decay=SIZE.weight_decay, fused=work.device.startswith("cuda")
            )
            for p in self.trained
        ]
        ids = torch.from_numpy(draw_ids(work, work.devices * work.batch).astype(np.int64))
        self.ids = ids.view(work.devices, work.batch, -1).to(work.device)

    def _start(self, name: str, own: Factors, trains_a: bool) -> None:
        for path, module in self.model.named_modules():
            if name in getattr(module, "lora_A", {}):
                a, b = own[path.removeprefix("base_model.model.")]
                module.lora_A[name].weight.data.copy_(a)
                module.lora_B[name].weight.data.copy_(b)
                module.lora_A[name].weight.requires_grad_(trains_a)

    def _use(self, device: int) -> list[torch.nn.Parameter]:
        """Make a device's adapter the active one; what it trains."""
        if self.manner.switched:
            self.model.set_adapter(self.names[device])
        return [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, device: int) -> torch.Tensor:
        """Mean loss of one device's scored tokens under the active adapter."""
        ids, scored = self.ids[device], self.work.scored
        with torch.autocast("cuda", torch.bfloat16) if self.manner.autocast else nullcontext():
            kept = 0 if self.manner.every else scored
            logits = self.model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=kept).logits
        if self.manner.every:
            labels = ids[:, 1:].clone()
            labels[:, :-scored] = -100
            return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, -scored:].flatten())

    def step(self, device: int) -> torch.Tensor:
        """One device's step; its loss."""
        own = device if self.manner.switched else 0
        if self.manner.switched:
            self.model.set_adapter(self.names[own])
        self.optimizers[own].zero_grad(set_to_none=True)
        loss = self.loss(device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained[own], SIZE.clip_norm)
        self.optimizers[own].step()
        return loss.detach()

    def all_devices(self) -> list[torch.Tensor]:
        """One step of every device in turn; the losses."""
        return [self.step(device) for device in range(self.work.devices)]


def _peft_model(work: Work, base: Mapping[str, torch.Tensor], names: Sequence[str], manner: Manner) -> Any:
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
    wrapped: Any = peft.get_peft_model(
        model.to(work.device), lora, adapter_name=names[0], autocast_adapter_dtype=manner.wide
    )
    for name in names[1:]:
        wrapped.add_adapter(name, lora, autocast_adapter_dtype=manner.wide)
    return wrapped.train()
