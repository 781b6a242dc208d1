"""The tokenizer read without `transformers` against `transformers`' own, on the embedded and on made folders."""

from __future__ import annotations

import json
import shutil

import pytest

from dfl_ray.models.paths import embedded_path
from dfl_ray.models.tokenizer import PlainTokenizer, load_tokenizer, plain_tokenizer
from dfl_ray.tasks.synthetic import make_tasks

TEXTS = ["", " ", "no such words", "a\nb  c", "<s> marked </s>", "Grüße, 123!", "x" * 300]

WITH_SETTINGS = {
    "__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False,
    "single_word": False,
}  # fmt: skip


def texts():
    tasks = make_tasks(("topic", "agree"), seed=0, train_rows=50, test_rows=5)
    return [*TEXTS, *(f"{row.prompt} {row.answer}" for t in tasks for row in t.train)]


def trained_folder(folder):
    """A byte-level BPE tokenizer as `transformers` saves it, begin token added by its template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<unk>", "<s>", "</s>"])
    backend.train_from_iterator(texts(), trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["embedded", "trained"])
def test_tokens_equal_transformers(kind, tmp_path):
    from transformers import AutoTokenizer

    folder = embedded_path() if kind == "embedded" else trained_folder(tmp_path)
    mine, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert isinstance(mine, PlainTokenizer)
    assert (mine.bos_token_id, mine.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert mine.eos_token_id is not None
    for special in (True, False):
        expected = theirs(texts(), add_special_tokens=special)["input_ids"]
        assert mine(texts(), add_special_tokens=special)["input_ids"] == expected
        assert len({tuple(e) for e in expected}) > 20


@pytest.mark.parametrize(
    "change",
    [{"add_bos_token": True}, {"tokenizer_class": "LlamaTokenizer"}, {"eos_token": "<nowhere>"},
     {"added_tokens_decoder": {}}, {"bos_token": WITH_SETTINGS}],
)  # fmt: skip
def test_what_may_mean_more_is_left_to_transformers(change, tmp_path):
    folder = shutil.copytree(embedded_path(), tmp_path / "model")
    assert plain_tokenizer(folder) is not None
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert plain_tokenizer(folder) is None


@pytest.mark.parametrize("model_type", ["qwen2", "phi3", "gpt2", "nemotron", "mistral"])
def test_a_generic_class_means_what_auto_tokenizer_makes_of_it(model_type, tmp_path):
    """tokenizer_config.json names no class of its own; for some model types AutoTokenizer then takes theirs."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(embedded_path(), tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert plain_tokenizer(folder) is None
    expected = AutoTokenizer.from_pretrained(str(folder))(texts())["input_ids"]
    assert load_tokenizer(folder)(texts())["input_ids"] == expected


def test_special_tokens_that_the_file_does_not_mark(tmp_path):
    """`transformers` adds them, and then cuts them out of a text."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(embedded_path(), tmp_path / "model")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "</s>"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert plain_tokenizer(folder) is None
    expected = AutoTokenizer.from_pretrained(str(folder))(texts())["input_ids"]
    assert load_tokenizer(folder)(texts())["input_ids"] == expected


def test_special_tokens_with_settings_are_read(tmp_path):
    """As older versions of `transformers` wrote them: the token is an `AddedToken` and not its text."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(embedded_path(), tmp_path / "model")
    path = folder / "tokenizer_config.json"
    raw = json.loads(path.read_text())
    ends = WITH_SETTINGS | {"content": raw["eos_token"]}
    path.write_text(json.dumps(raw | {"bos_token": WITH_SETTINGS, "eos_token": ends}))
    mine, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert mine.eos_token_id == theirs.eos_token_id == load_tokenizer(embedded_path()).eos_token_id
    assert mine(texts())["input_ids"] == theirs(texts())["input_ids"]
