"""How a row's prompt stands before the model: as it is, behind a system prompt, or in the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dfl_ray.config.tasks import TasksConfig

_ASKED, _ANSWERED = "\u2042question\u2042", "\u2042answer\u2042"
"""Stand for what is said while a template is looked at; no template has them."""


@dataclass(frozen=True)
class PromptForm:
    """The text that stands before an answer, and what ends an answer.

    With a template, the prompt is what `apply_chat_template` gives of the messages with `add_generation_prompt`, and
    what it sets between that and an answer of the assistant (an empty thinking block, for example) up to the white
    space right before the answer, which is the answer's unless the generation prompt without thinking
    (`enable_thinking=False`, Qwen3) has it; the end is what it sets behind the answer.

    Attributes:
        system: The system prompt, or None.
        template: The tokenizer whose chat template is used; None = plain text.
        lead: What the template sets between its generation prompt and an answer, without the blank.
        blank: White space right before an answer.
        before: What the template sets between a user's message and an answer, without the blank; empty = plain text.
        end: What the template sets behind an answer.
        remark: What the user should be told; empty = nothing.
    """

    system: str | None = None
    template: PreTrainedTokenizerBase | None = None
    lead: str = ""
    blank: str = " "
    before: str = ""
    end: str = ""
    remark: str = ""

    def text(self, row: Row) -> str:
        """Write a row's prompt.

        Args:
            row: The row; its own system message wins over `system`.

        Returns:
            The text before the answer.

        Raises:
            InputError: The template refuses the messages.
        """
        if self.template is None:
            alone = self.system is None or _has_system(row)
            return row.prompt if alone else f"{self.system}\n\n{row.prompt}"
        return rendered(self.template, self._messages(row), opened=True) + self.lead

    def whole(self, row: Row) -> str | None:
        """Write a row's whole conversation, its answer included, as the template gives it.

        Args:
            row: The row.

        Returns:
            The text; None without a template.

        Raises:
            InputError: The template refuses the messages.
        """
        if self.template is None:
            return None
        return rendered(self.template, (*self._messages(row), ("assistant", row.answer)), opened=False)

    def _messages(self, row: Row) -> tuple[tuple[str, str], ...]:
        messages = row.messages or (("user", row.prompt),)
        if self.system is None or _has_system(row):
            return messages
        return (("system", self.system), *messages)


def prompt_form(config: TasksConfig, tokenizer: PreTrainedTokenizerBase) -> PromptForm:
    """Find how prompts are written.

    Args:
        config: The configuration's `tasks`.
        tokenizer: The base model's tokenizer.

    Returns:
        The form.

    Raises:
        InputError: The chat template cannot be used.
    """
    if config.chat == "off":
        return PromptForm(config.system_prompt)
    # The plain reader of tokenizer.json takes no folder with a chat template.
    if not getattr(tokenizer, "chat_template", None):
        remark = (
            "the model's tokenizer has no chat template (`tasks.chat: auto`), so that prompts are plain text"
        )
        return PromptForm(config.system_prompt, remark=remark)
    asked = (("user", _ASKED),)
    opened = rendered(tokenizer, asked, opened=True)
    whole = rendered(tokenizer, (*asked, ("assistant", _ANSWERED)), opened=False)
    if not whole.startswith(opened) or _ANSWERED not in whole[len(opened) :]:
        raise InputError(
            "The tokenizer's chat template gives an answer another place than its generation prompt",
            expected="a template whose text with an answer begins with the text that asks for it",
            change="Set tasks.chat=off.",
        )
    spaced, _, end = whole[len(opened) :].partition(_ANSWERED)
    silent = _applied(tokenizer, asked, True, enable_thinking=False)
    served = len(silent) - len(opened) if whole.startswith(silent) and len(silent) > len(opened) else 0
    lead = spaced[:served] + spaced[served:].rstrip()
    before = opened.rpartition(_ASKED)[2] + lead
    return PromptForm(config.system_prompt, tokenizer, lead, spaced[len(lead) :], before, end)


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[tuple[str, str]], *, opened: bool) -> str:
    """Write messages by a tokenizer's chat template.

    A template that takes no system message, whether it refuses or leaves it out, has it put before the first message
    of the user, with an empty line between.

    Args:
        tokenizer: The tokenizer.
        messages: (role, content) of each message.
        opened: Whether the assistant's turn is opened behind them.

    Returns:
        The text.

    Raises:
        InputError: The template refuses the messages, or has no place for a system message.
    """
    reason = ""
    marks = {k: f"\u2042{k}\u2042" for k, (role, _) in enumerate(messages) if role == "system"}
    marked = [(role, marks.get(k, content)) for k, (role, content) in enumerate(messages)]
    for form in (tuple, _without_system):
        try:
            text = _applied(tokenizer, form(messages), opened)
            shown = _applied(tokenizer, form(marked), opened) if marks else ""
        except Exception as error:  # the template itself raises what it likes, through jinja2
            reason = reason or str(error) or type(error).__name__
            continue
        if all(mark in shown for mark in marks.values()):
            return text
        reason = reason or "it leaves out a system message"
    raise InputError(
        "The tokenizer's chat template refuses a conversation",
        got=reason,
        expected="roles " + ", ".join(role for role, _ in messages) + " in this order",
        change="Mend the row, or set tasks.chat=off.",
    )


def _applied(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[tuple[str, str]], opened: bool, **variables: Any
) -> str:
    turns: list[Mapping[str, Any]] = [{"role": role, "content": content} for role, content in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened, **variables)  # type: ignore[arg-type]
    return str(text)


def _has_system(row: Row) -> bool:
    return any(role == "system" for role, _ in row.messages)


def _without_system(messages: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    system = [content for role, content in messages if role == "system"]
    turns = [(role, content) for role, content in messages if role != "system"]
    first = next((k for k, (role, _) in enumerate(turns) if role == "user"), None)
    if system and first is not None:
        turns[first] = ("user", "\n\n".join([*system, turns[first][1]]))
    return tuple(turns)
