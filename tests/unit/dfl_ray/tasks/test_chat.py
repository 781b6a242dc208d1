"""Chat templates: prompts through the tokenizer's own, loss on the answer and the end of its turn."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.chat import prompt_form
from dfl_ray.tasks.data import Row, Task
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
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def letters(template: str | None) -> Any:
    """A tokenizer of single bytes with the special tokens of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
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
    assert text_of(tokenizer, tokens.answer(0)) == "hi<|im_end|>"
    ids = tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert tokens.row(0).tolist() == ids


def test_a_conversation_keeps_its_turns_and_its_own_system_message() -> None:
    tokenizer = letters(CHATML)
    said = (("system", "Own."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    form = prompt_form(TasksConfig(chat="auto", system_prompt="Other."), tokenizer)
    (text,) = [form.text(Row("plain", "d", said))]
    assert text == tokenizer.apply_chat_template(
        [{"role": r, "content": c} for r, c in said], tokenize=False, add_generation_prompt=True
    )


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
