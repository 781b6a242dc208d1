"""Random BERT and RoBERTa classifiers against `transformers` and PEFT: classes, loss, LoRA gradient, export, a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfl_ray import load_run, plan, run
from dfl_ray.cli import main
from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.training import LocalWork, ScoredModel, backward, train_adapters
from dfl_ray.errors import InputError
from dfl_ray.evaluation.scorer import Adapter, Scorer
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.tasks.class_rows import classify_task
from dfl_ray.tasks.data import Row, Task
from tests.conftest import small_config

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "is", "was", "film", "plot", "good", "bad", "big", "small", "dog",
    "cat",
]  # fmt: skip
LABELS = {"mood": ("bad", "good"), "size": ("small", "big")}


def save_classifier(folder: Path, kind: str, classes: tuple[str, ...]) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    names = dict(enumerate(classes))
    sizes: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "id2label": names, "label2id": {v: k for k, v in names.items()}, "pad_token_id": 0,
        "initializer_range": 0.3,
    }  # fmt: skip
    if kind == "bert":
        config: Any = transformers.BertConfig(max_position_embeddings=40, **sizes)
        model: Any = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.RobertaConfig(max_position_embeddings=41, type_vocab_size=1, **sizes)
        model = transformers.RobertaForSequenceClassification(config)
    model.save_pretrained(folder)
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def sentences(task: str, count: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        label = LABELS[task][int(rng.integers(2))]
        words = [
            str(w) for w in rng.choice(["the", "a", "is", "was", "film", "plot"], int(rng.integers(3, 20)))
        ]
        words.insert(
            int(rng.integers(len(words))), label if task == "mood" else {"big": "dog", "small": "cat"}[label]
        )
        out.append({"prompt": " ".join(words), "answer": label})
    return out


def task_of(name: str) -> Task:
    train, test = (
        tuple(Row(r["prompt"], r["answer"]) for r in sentences(name, n, s)) for n, s in ((12, 1), (9, 2))
    )
    return Task(name, train, test, choices=LABELS[name])


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(
        tmp_path_factory.mktemp(request.param), request.param, ("good", "bad", "big", "small")
    )


def peft_model(folder: Path, layers: Any, a: Any, b: Any, scale: float, place: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    write_peft_folder(place, layers, a, b, scale=scale, base_model="", head=load_base(folder).head)
    base = AutoModelForSequenceClassification.from_pretrained(folder)
    return PeftModel.from_pretrained(base, str(place), is_trainable=True).eval()


def test_loss_gradient_and_answers_are_those_of_transformers_and_peft(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    weights = load_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classes = weights.classes
    assert classes == ("good", "bad", "big", "small")
    mood, size = (classify_task(task_of(n), tokenizer, classes, max_tokens=32) for n in ("mood", "size"))
    text = task_of("mood").train[0].prompt
    assert mood.train.prompt(0).tolist() == tokenizer(text)["input_ids"]
    module = build_model(weights)
    layers = tuple(find_targets(module, "all-linear"))
    assert not any("classifier" in s.name or "pooler" in s.name for s in layers) and len(layers) == 12
    model = ScoredModel(module, inject(module, layers))
    layout = Layout(layers, 3, ("a", "b"))
    theta = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (2, layout.size)).astype(np.float32))
    rows = [[(mood.train, i) for i in range(5)], [(size.train, i) for i in (0, 7, 3)]]
    leaves = Leaves(layout, AdapterState.from_theta(theta), None)
    losses = backward(model, leaves, rows, 0.7)
    for k, mine in enumerate(rows):
        a, b = ([v[k].numpy() for v in layout.views(theta, f)] for f in "ab")
        peft = peft_model(folder, layers, a, b, 0.7, tmp_path / f"{k}")
        loss = torch.stack(
            [
                F.cross_entropy(
                    peft(input_ids=torch.from_numpy(t.row(i)[None, :-1].astype(np.int64))).logits,
                    torch.tensor([int(t.row(i)[-1])]),
                )
                for t, i in mine
            ]
        ).mean()
        assert float(losses[k]) == pytest.approx(float(loss.detach()), abs=1e-6)
        loss.backward()
        found = dict(peft.named_parameters())
        for factor, letter in (("a", "A"), ("b", "B")):
            for layer, view in zip(layers, layout.views(leaves.gradient, factor), strict=True):
                wanted = found[f"base_model.model.{layer.name}.lora_{letter}.default.weight"].grad
                assert torch.allclose(view[k], wanted, atol=1e-6)
    # Answers: the likeliest of the task's own classes.
    a, b = ([v[1] for v in layout.views(theta, f)] for f in "ab")
    scorer = Scorer(model, [mood, size], scale=0.7, seed=0, rows_per_task=None)
    right = scorer.score({"x": {t: np.ones(9, bool) for t in (0, 1)}}, lambda _key: Adapter(a, b))["x"]
    for t, (task, own) in enumerate(((mood, (1, 0)), (size, (3, 2)))):
        for i in range(9):
            ids = torch.from_numpy(task.test.prompt(i)[None].astype(np.int64))
            with torch.no_grad():
                logits = peft(input_ids=ids).logits[0]
            best = own[int(logits[list(own)].argmax())]
            assert bool(right[t][i]) == (best == int(task.test.answer(i)[0]))


def test_twenty_steps_have_the_loss_curve_of_transformers_and_peft(tmp_path: Path) -> None:
    """AdamW with clipping on the same batches: every step's loss, a random encoder and a head that nobody trains."""
    from transformers import AutoTokenizer

    folder = save_classifier(tmp_path / "bert", "bert", ("bad", "good"))
    weights, tokenizer = load_base(folder), AutoTokenizer.from_pretrained(folder)
    rows = classify_task(task_of("mood"), tokenizer, weights.classes or (), max_tokens=32).train
    module = build_model(weights)
    layers = tuple(find_targets(module, "all-linear"))
    model, layout = ScoredModel(module, inject(module, layers)), Layout(layers, 3, ("a", "b"))
    theta = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (1, layout.size)).astype(np.float32))
    a, b = ([v[0].numpy().copy() for v in layout.views(theta, f)] for f in "ab")
    peft = peft_model(folder, layers, a, b, 2.0, tmp_path / "adapter")
    adapters = [p for name, p in peft.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(adapters, lr=0.02, weight_decay=0.0)
    batches = np.random.default_rng(1).integers(len(rows), size=(20, 5))
    state, size = AdapterState.from_theta(theta), StepSize(0.02, 0.0, 1.0)
    ours, theirs = [], []
    for batch in batches:
        work = [LocalWork([[(rows, int(i)) for i in batch]])]
        ours.append(float(train_adapters(model, layout, state, work, size=size, scale=2.0).loss[0]))
        ids = [torch.from_numpy(rows.row(int(i))[None, :-1].astype(np.int64)) for i in batch]
        right = [torch.tensor([int(rows.row(int(i))[-1])]) for i in batch]
        loss = torch.stack(
            [F.cross_entropy(peft(input_ids=x).logits, y) for x, y in zip(ids, right, strict=True)]
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        theirs.append(float(loss.detach()))
    assert theirs[-1] < 0.5 * theirs[0]
    np.testing.assert_allclose(ours, theirs, atol=3e-5)


def write_tasks(folder: Path) -> Path:
    for name in LABELS:
        (folder / name).mkdir(parents=True)
        for split, count, seed in (("train", 60, 3), ("test", 20, 4)):
            lines = [json.dumps(r) for r in sentences(name, count, seed)]
            (folder / name / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


MORE = pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", "sparse_orthogonal"),
        pytest.param("roberta", "dlora", marks=MORE),
        pytest.param("bert", "flora", marks=MORE),
    ],
)
def test_a_run_trains_scores_plans_and_exports(
    kind: str, method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    folder = save_classifier(tmp_path / kind, kind, ("good", "bad", "big", "small"))
    config = small_config(
        tmp_path, "tasks.source=files", f"tasks.path={write_tasks(tmp_path / 'data')}", f"model.name={folder}",
        "tasks.names=null", "runtime.backend=local", "name=one", f"method={method}", "method.rank=2", "rounds=2",
        "model.verify_export=true",
    )  # fmt: skip
    capfd.readouterr()
    planned = plan(config)
    found = run(config)
    assert capfd.readouterr() == ("", "")  # no bars of `transformers` either
    assert planned["run"]["payload_bytes"] == found.rounds.payload_bytes.sum() > 0
    told = [w for w in found.info["warnings"] if "classifier of 4 classes (good, bad, big, small)" in w]
    assert told and found.info["scores"]["mood"]["score"] == "choice"
    assert set(found.evaluation.chance.dropna()) <= {0.5, 0.55, 0.6, 0.65, 0.7}
    assert main(["export", str(found.path), str(tmp_path / "out"), "--device", "1"]) == 0
    said = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert said["task_type"] == "SEQ_CLS"
    said["base_model_name_or_path"] = str(folder)
    (tmp_path / "out/adapter_config.json").write_text(json.dumps(said))
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "out")).eval()
    with torch.no_grad():
        assert loaded(input_ids=torch.tensor([[2, 4, 5, 3]])).logits.shape == (1, 4)
    assert load_run(found.path).info["state"] == "done"


def test_labels_and_scores_that_a_head_cannot_answer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = save_classifier(tmp_path / "two", "bert", ("LABEL_0", "LABEL_1"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = task_of("mood")
    nameless = classify_task(task, tokenizer, ("LABEL_0", "LABEL_1"), max_tokens=32)
    assert nameless.choices is not None and [int(c[0]) for c in nameless.choices] == [0, 1]
    named = classify_task(task, tokenizer, ("Good", "Bad"), max_tokens=32)
    assert named.choices is not None and [int(c[0]) for c in named.choices] == [1, 0]
    with pytest.raises(InputError, match="are not classes of the base model"):
        classify_task(task, tokenizer, ("yes", "no"), max_tokens=32)
    with pytest.raises(InputError, match="needs a model that writes"):
        classify_task(task, tokenizer, ("good", "bad"), max_tokens=32, score="exact_match")
    short = classify_task(task, tokenizer, ("good", "bad"), max_tokens=8)
    assert int(short.train.lengths.max()) == 8 and any("lose their end" in note for note in short.notes)
    assert all(short.train.row(i)[-2] == 3 for i in range(len(short.train)))


@pytest.mark.exhaustive
def test_a_random_encoder_learns_through_its_frozen_head(tmp_path: Path) -> None:
    """Two kinds of sentences told apart by one word: far above chance after sixty steps."""
    folder = save_classifier(tmp_path / "bert", "bert", ("good", "bad"))
    config = small_config(
        tmp_path, "tasks.source=files", f"tasks.path={write_tasks(tmp_path / 'data')}", f"model.name={folder}",
        "tasks.names=[mood]", "devices.partition.tasks_per_device=1", "runtime.backend=local", "name=learns",
        "method=centralized", "method.rank=8", "rounds=3", "method.local_steps=20", "method.batch_rows=16",
        "method.learning_rate=0.01", "evaluate.every=3", "evaluate.rows_per_task=20", "runtime.report=false",
    )  # fmt: skip
    found = run(config).evaluation
    last = found[(found["round"] == 3) & (found["device"] >= 0)]
    assert last.accuracy.mean() > last.chance.max() + 0.2
