"""Chat templates: prompts through the tokenizer's own, loss on the answer and the end of its turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.models.tokenizer import load_tokenizer
from dfl_ray.tasks.chat import prompt_form
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.encoding import TextEncoder
from dfl_ray.tasks.tokens import tokenize_task

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = THINKING.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
SILENT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
LINES = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FIRST_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' or loop.first %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def letters(template: str | None) -> Any:
    """A tokenizer of single bytes, of a blank before `h`, of two line breaks, and of the special tokens of ChatML."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġh", "ĊĊ"]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(alphabet)}, [("Ġ", "h"), ("Ċ", "Ċ")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def pieces(template: str) -> Any:
    """A tokenizer in the manner of SentencePiece: letters, a blank before every text, one token for a blank and `h`."""
    signs = ["<unk>", "<s>", "</s>", "\u2581", "\u2581h", "\n", *map(chr, range(33, 127))]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(signs)}, [("\u2581", "h")], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def marked_pieces(template: str) -> Any:
    """The same with special tokens of its own, behind which a text begins anew, as Mistral's tokenizers have them."""
    tokenizer = pieces(template)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["[INST]", "[/INST]", "<|im_start|>", "<|im_end|>"]}
    )
    return tokenizer


def task(*rows: Row) -> Task:
    return Task("t", rows, rows, None)


def text_of(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)


@pytest.mark.parametrize("template", [CHATML, THINKING, NO_SYSTEM])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_row_is_what_the_template_gives(template: str, system: str | None) -> None:
    tokenizer = letters(template)
    form = prompt_form(TasksConfig(chat="auto", system_prompt=system), tokenizer)
    tokens = tokenize_task(task(Row("Say hi", "hi")), tokenizer, max_tokens=200, form=form).train
    messages = [{"role": "user", "content": "Say hi"}]
    if system is not None and template is not NO_SYSTEM:
        messages.insert(0, {"role": "system", "content": system})
    elif system is not None:
        messages[0]["content"] = f"{system}\n\nSay hi"
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "hi"}], tokenize=False)
    assert text_of(tokenizer, tokens.row(0)) + "\n" == whole
    blank = "\n\n" if template is THINKING else ""
    assert text_of(tokenizer, tokens.answer(0)) == f"{blank}hi<|im_end|>"
    ids = tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert tokens.row(0).tolist() == ids


@pytest.mark.parametrize("make", [letters, pieces, marked_pieces])
@pytest.mark.parametrize("template", [LLAMA2, SILENT, LINES, CHATML, THINKING])
def test_a_row_has_the_tokens_of_the_whole_conversation(make: Any, template: str) -> None:
    tokenizer = make(template)
    form = prompt_form(TasksConfig(chat="auto"), tokenizer)
    made = tokenize_task(task(Row("Say hi", "hi")), tokenizer, max_tokens=200, form=form)
    asked = [{"role": "user", "content": "Say hi"}]
    texts = [
        tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True),
        tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "hi"}], tokenize=False),
    ]
    opened, whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    row = made.train.row(0).tolist()
    assert row == whole[: len(row)]
    assert text_of(tokenizer, whole[len(row) :]).strip(" \u2581\n") == ""
    if template is not THINKING:
        assert made.train.prompt(0).tolist() == opened
    assert not any("conversation" in note for note in made.notes)


@pytest.mark.parametrize("make", [letters, pieces, marked_pieces])
def test_a_prompt_is_what_is_served_without_thinking(make: Any) -> None:
    tokenizer = make(QWEN3)
    made = tokenize_task(
        task(Row("Say hi", "hi")),
        tokenizer,
        max_tokens=200,
        form=prompt_form(TasksConfig(chat="auto"), tokenizer),
    )
    served = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say hi"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert made.train.prompt(0).tolist() == tokenizer(served, add_special_tokens=False)["input_ids"]
    assert text_of(tokenizer, made.train.answer(0)).replace(" ", "").startswith("hi")


def test_the_end_of_the_turn_gains_no_blank() -> None:
    for template, end in ((LLAMA2, [3, 2]), (SILENT, [2]), (LINES, [2])):
        tokenizer = pieces(template)
        assert list(TextEncoder(tokenizer, prompt_form(TasksConfig(chat="auto"), tokenizer)).end) == end
    tokenizer = pieces(CHATML)
    end = TextEncoder(tokenizer, prompt_form(TasksConfig(chat="auto"), tokenizer)).end
    assert tokenizer.convert_ids_to_tokens(end) == [*"<|im_end|>\n"]


PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end"), [(PHI3, "<|end|>"), (CHATML, "<|im_end|>"), (GEMMA, "<end_of_turn>")]
)
def test_a_turn_ends_with_the_token_that_the_tokenizer_marks_special(
    template: str, end: str, tmp_path: Path
) -> None:
    """In the form of Phi-3's own files: tokenizer.json marks the token, tokenizer_config.json names another end."""
    made = letters(template)
    special = [AddedToken(text, special=True) for text in ("<|user|>", "<|assistant|>", end)]
    made.backend_tokenizer.add_special_tokens(special)
    plain = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, eos_token="</s>")
    plain.chat_template = template
    plain.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert end not in tokenizer.all_special_tokens
    form = prompt_form(TasksConfig(chat="auto"), tokenizer)
    rows = tokenize_task(task(Row("Say hi", "hi")), tokenizer, max_tokens=200, form=form).train
    assert text_of(tokenizer, rows.answer(0)) == f"hi{end}"


def test_rows_unlike_the_whole_conversation_are_told() -> None:
    tokenizer = letters(
        "{% for m in messages %}{{ m['content'] }}{% if loop.first %} A: {% endif %}{% endfor %}"
    )
    form = prompt_form(TasksConfig(chat="auto"), tokenizer)
    rows = [Row("Say hi", "hi"), Row("Say ho", "ho"), Row("Say no", "no")]
    made = tokenize_task(task(*rows), tokenizer, max_tokens=200, form=form)
    assert made.notes[0] == (
        "task t: 4 of 6 rows looked at have other tokens than the chat template's whole conversation; "
        "they differ first in the prompt (4)"
    )
    many = tokenize_task(task(*rows * 30), tokenizer, max_tokens=200, form=form)
    assert "of 30 rows looked at" in many.notes[0]


def test_a_conversation_keeps_its_turns_and_its_own_system_message() -> None:
    tokenizer = letters(CHATML)
    said = (("system", "Own."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    form = prompt_form(TasksConfig(chat="auto", system_prompt="Other."), tokenizer)
    (text,) = [form.text(Row("plain", "d", said))]
    assert text == tokenizer.apply_chat_template(
        [{"role": r, "content": c} for r, c in said], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("template", [LLAMA2, SILENT])
@pytest.mark.parametrize("asked", ["c", "Own. Other. c"])
def test_a_system_message_that_a_template_leaves_out_stands_before_the_user(
    template: str, asked: str
) -> None:
    tokenizer = letters(template)
    form = prompt_form(TasksConfig(chat="auto", system_prompt="Other."), tokenizer)
    plain = prompt_form(TasksConfig(chat="auto"), tokenizer)
    assert form.text(Row(asked, "d")) == plain.text(Row(f"Other.\n\n{asked}", "d"))
    said = (("user", asked), ("assistant", "b"), ("user", "e"))
    moved = (("user", f"Own.\n\n{asked}"), *said[1:])
    assert form.text(Row("plain", "d", (("system", "Own."), *said))) == plain.text(Row("plain", "d", moved))
    whole = form.whole(Row(asked, "d"))
    assert whole is not None and whole.startswith(form.text(Row(asked, "d")))


def test_no_system_message_is_lost() -> None:
    tokenizer = letters(FIRST_SYSTEM)
    form = prompt_form(TasksConfig(chat="auto"), tokenizer)
    first = form.text(Row("plain", "d", (("system", "One."), ("user", "c"))))
    assert "system\nOne.<|im_end|>" in first
    both = form.text(Row("plain", "d", (("system", "One."), ("system", "Two."), ("user", "c"))))
    assert both == form.text(Row("One.\n\nTwo.\n\nc", "d"))
    with pytest.raises(InputError, match=r"refuses a conversation.*leaves out a system message"):
        prompt_form(TasksConfig(chat="auto"), letters(SILENT)).text(Row("plain", "d", (("system", "One."),)))


def test_without_a_template_prompts_are_plain_and_that_is_said() -> None:
    tokenizer = letters(None)
    form = prompt_form(TasksConfig(chat="auto", system_prompt="Be brief."), tokenizer)
    made = tokenize_task(task(Row("Say hi", "hi")), tokenizer, max_tokens=64, form=form)
    assert text_of(tokenizer, made.train.row(0)) == "Be brief.\n\nSay hi hi</s>"
    assert any("no chat template" in note for note in made.notes)
    off = prompt_form(TasksConfig(), letters(CHATML))
    assert off.text(Row("Say hi", "hi")) == "Say hi" and not off.remark


def test_a_template_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match="another place"):
        prompt_form(TasksConfig(chat="auto"), letters("{{ messages|length }}"))
    with pytest.raises(InputError, match=r"refuses a conversation.*no way"):
        prompt_form(TasksConfig(chat="auto"), letters("{{ raise_exception('no way') }}"))
