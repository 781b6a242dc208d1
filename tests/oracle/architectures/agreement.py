"""One architecture against `transformers` and PEFT: base, label scores, loss, gradients and the exported folder.

The reference is the saved folder loaded by `AutoModelForCausalLM`, the exported adapter by `PeftModel`, each row run
alone and unpadded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfl_ray.engines.adapted_layers import row_sizes, targets_of
from dfl_ray.engines.batches import collate
from dfl_ray.engines.training import ScoredModel
from dfl_ray.errors import InputError
from dfl_ray.evaluation.eval_batches import make_eval_batch
from dfl_ray.evaluation.scorer import Scorer
from dfl_ray.lora.inject import Binding, inject
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model
from dfl_ray.models.merged import merged_model, save_model
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.models.weights import BaseWeights
from dfl_ray.tasks.tokens import TokenRows, TokenTask
from tests.oracle.architectures.tiny import VOCABULARY, tiny_model

SCALE = 2.0
RANK = 2
LABELS = ([5, 6, 2], [7, 2], [8, 9, 10, 2])
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}


@dataclass(frozen=True)
class Verdict:
    """What came of one model type.

    Attributes:
        model_type: Its name in the registry.
        outcome: "supported", "refused", or "not tried" where no small model could be made of it.
        why: Which layers are adapted if not all linear ones, or the reason.
    """

    model_type: str
    outcome: str
    why: str


def judge(model_type: str, folder: Path) -> Verdict:
    """Try one model type; a disagreement raises AssertionError."""
    try:
        model = tiny_model(model_type)
    except Exception as error:
        return Verdict(model_type, "not tried", _short(f"{type(error).__name__}: {error}"))
    model.save_pretrained(folder)
    try:
        weights = load_base(folder)
        targets, notes = _targets(weights)
    except InputError as error:
        return Verdict(model_type, "refused", reason(error))
    compare(weights, folder, targets)
    return Verdict(model_type, "supported", notes)


def _targets(weights: BaseWeights) -> tuple[Any, str]:
    """The adapted layers: all linear ones, or those that the refusal of some names instead."""
    wanted: Any = "all-linear"
    for _ in range(4):
        try:
            found = targets_of(weights, wanted, row_sizes([task()]))
        except InputError as error:
            named = re.search(r"model\.target_modules=\[([^\]]+)\]", error.change)
            if named is None:
                raise
            wanted = named[1].split(",")
        else:
            return found.layers, "" if wanted == "all-linear" else ", ".join(wanted)
    raise AssertionError("refusals that never end")


def task() -> TokenTask:
    """Rows longer than every window of the small models, three labels of one to three tokens."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, VOCABULARY, n) for n in (41, 12, 23)]
    labels = np.array([0, 1, 2], np.int32)
    rows = [np.concatenate([p, LABELS[k]]).astype(np.int32) for p, k in zip(prompts, labels, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    table = TokenRows(np.concatenate(rows), offsets, np.array([len(p) for p in prompts], np.int32))
    return TokenTask("t", table, table, tuple(np.array(label) for label in LABELS), labels, 1 / 3)


def compare(weights: BaseWeights, folder: Path, layers: Any) -> None:
    """All that must agree."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    module = build_model(weights)
    mine = ScoredModel(module, inject(module, layers))
    scorer = Scorer(mine, [task()], scale=SCALE, seed=0, rows_per_task=None)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    same("base label scores", label_scores(mine, scorer, None), label_scores_alone(theirs))
    a, b = adapter(layers)
    exported = write_peft_folder(
        folder / "adapter", layers, [x.numpy() for x in a], [x.numpy() for x in b], scale=SCALE, base_model=""
    )
    peft: Any = PeftModel.from_pretrained(theirs, str(exported), is_trainable=True).eval()
    leaves = [x[None].clone().requires_grad_() for x in (*a, *b)]
    binding = Binding(leaves[: len(a)], leaves[len(a) :], None, SCALE)
    scores = label_scores(mine, scorer, binding)
    same("adapter label scores", scores, label_scores_alone(peft))
    assert np.abs(scores - label_scores(mine, scorer, None)).max() > 1e-2, "the adapter does nothing"
    same_logits(mine, binding, peft, folder, layers)
    loss, gradients = own_gradients(mine, binding, leaves)
    expected, references = peft_gradients(peft, layers)
    same("loss", np.array(loss), np.array(expected))
    for name, gradient, reference in zip([s.name for s in layers] * 2, gradients, references, strict=True):
        same(f"gradient of {name}", gradient, reference)


def same_logits(mine: ScoredModel, binding: Binding, peft: Any, folder: Path, layers: Any) -> None:
    """What `export` and `export --merged` write gives the simulator's logits to 1e-4 of the largest one."""
    from transformers import AutoModelForCausalLM

    table = task().test
    batch = collate([(table, i) for i in range(len(table))])
    with torch.no_grad():
        wanted = mine.logits(batch, binding).float()
    weights = load_base(folder)
    save_model(merged_model(weights, layers, *adapter(layers), SCALE), folder / "absent", folder / "merged")
    plain = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
    for name, model in (("PEFT", peft), ("merged", plain)):
        rows = []
        for i in range(len(table)):
            row = torch.from_numpy(table.row(i).astype(np.int64))[None, :-1]
            with torch.no_grad():
                out = model(input_ids=row, use_cache=False).logits[0, int(table.answer_start[i]) - 1 :]
            rows.append(out.float())
        difference = float((torch.cat(rows) - wanted).abs().max() / max(1.0, float(wanted.abs().max())))
        assert difference <= 1e-4, f"{name}: logits differ by {difference:.3g}"


def adapter(layers: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Random factors, large enough to move every logit."""
    generator = torch.Generator().manual_seed(3)
    a = [torch.randn((RANK, s.in_features), generator=generator) * s.in_features**-0.5 for s in layers]
    b = [torch.randn((s.out_features, RANK), generator=generator) * 0.05 for s in layers]
    return a, b


def label_scores(model: ScoredModel, scorer: Scorer, binding: Binding | None) -> np.ndarray:
    """(rows, labels) log-likelihoods as the scorer's own batches give them."""
    batch = make_eval_batch(model, [scorer.packs[0]], merged=model.most_adapters > 0)
    with torch.no_grad():
        logits = model.logits(batch.batch, binding, batch.plan)
    each = torch.log_softmax(logits, 1).gather(1, batch.batch.targets[:, None])[:, 0].numpy()
    sums = np.bincount(batch.answer_key.candidate, weights=each)
    return sums.reshape(len(scorer.packs[0]), len(LABELS))


def label_scores_alone(model: Any) -> np.ndarray:
    """The same, every prompt with every label a row of its own."""
    table = task().test
    return np.array(
        [
            [_likelihood(model, table.prompt(i), np.array(label)) for label in LABELS]
            for i in range(len(table))
        ]
    )


def _likelihood(model: Any, prompt: np.ndarray, answer: np.ndarray) -> float:
    row = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=row[None, :-1], use_cache=False).logits[0, len(prompt) - 1 :].float()
    return float(torch.log_softmax(logits, 1).gather(1, row[len(prompt) :, None]).sum())


def own_gradients(
    model: ScoredModel, binding: Binding, leaves: list[torch.Tensor]
) -> tuple[float, list[np.ndarray]]:
    """Mean token loss of all training rows in one batch, and its gradients."""
    table = task().train
    batch = collate([(table, i) for i in range(len(table))])
    loss = torch.nn.functional.cross_entropy(model.logits(batch, binding), batch.targets)
    return float(loss.detach()), [g[0].numpy() for g in torch.autograd.grad(loss, leaves)]


def peft_gradients(model: Any, layers: Any) -> tuple[float, list[np.ndarray]]:
    """The same with PEFT, row by row."""
    table = task().train
    rows = [table.row(i).astype(np.int64) for i in range(len(table))]
    count = sum(len(table.answer(i)) for i in range(len(table)))
    total = 0.0
    for i, row in enumerate(rows):
        start = int(table.answer_start[i])
        logits = model(input_ids=torch.from_numpy(row)[None, :-1], use_cache=False).logits[0, start - 1 :]
        loss = torch.nn.functional.cross_entropy(
            logits.float(), torch.from_numpy(row[start:]), reduction="sum"
        )
        (loss / count).backward()
        total += float(loss.detach()) / count
    held = [model.get_submodule(f"base_model.model.{s.name}") for s in layers]
    gradients = [getattr(m, f"lora_{f}")["default"].weight.grad for f in "AB" for m in held]
    return total, [g.numpy() for g in gradients]


def same(what: str, mine: np.ndarray, theirs: np.ndarray) -> None:
    """Equal up to rounding, a gradient's size taken into account."""
    size = max(1e-3, float(np.abs(theirs).max()))
    np.testing.assert_allclose(mine / size, theirs / size, err_msg=what, **TOLERANCE)


def reason(error: InputError) -> str:
    """Why a model is refused, in one line."""
    return _short(f"{error.what}: {error.got}")


def _short(text: str) -> str:
    plain = re.sub(r"/\S+/(tmp\w+)?", "", " ".join(text.split()))
    return " ".join(plain.replace("|", "/").replace("`", "").split())[:160]
