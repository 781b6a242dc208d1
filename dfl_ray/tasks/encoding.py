"""Texts as tokens: prompts and answers apart, each by one rule that looks at nothing else.

A row is `start + T(prompt) + C(answer) + end`. T(prompt) is the prompt's own tokenisation, so it is the same whatever
the answer is. C(answer) are the tokens of a blank and the answer behind other text: `T(anchor + " " + answer)`
without the leading `T(anchor)`, for an anchor whose tokens stay whole. So every candidate answer follows exactly the
same prompt, and an answer has the same tokens behind every prompt, in training as in evaluation. Where no token of
the vocabulary spans the blank, T(prompt) + C(answer) is the tokenisation of `prompt + " " + answer`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dfl_ray.models.tokenizer import marked_special
from dfl_ray.tasks.chat import PromptForm
from dfl_ray.tasks.data import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = tuple[int, ...]

PLAIN = PromptForm()
"""Prompts as they are."""

_ANCHORS = (":", "a", ".", "?", "0", "\n", "the")
"""Texts tried in turn; all give the same tokens of an answer unless one of them merges with what follows."""


@dataclass(frozen=True)
class Unread:
    """What of some texts a tokenizer cannot represent.

    Attributes:
        tokens: Tokens of the texts.
        unknown: Tokens among them that are the unknown token.
        characters: Characters of the texts, white space left out.
        dropped: Characters among them that give no token at all.
    """

    tokens: int
    unknown: int
    characters: int
    dropped: int

    @property
    def share(self) -> float:
        """The larger of the shares of unknown tokens and of dropped characters, in [0, 1]."""
        unknown = self.unknown / self.tokens if self.tokens else float(self.characters > 0)
        return max(unknown, self.dropped / self.characters if self.characters else 0.0)

    def __str__(self) -> str:
        """The counts in words."""
        said = [f"{self.unknown} of {self.tokens} tokens are the unknown token"] if self.unknown else []
        if self.dropped:
            said.append(f"{self.dropped} of {self.characters} characters give no token")
        return " and ".join(said) or "nothing"


class TextEncoder:
    """A tokenizer asked for prompts and answers.

    Args:
        tokenizer: The base model's tokenizer.
        form: How prompts are written. With a chat template, start and end of a text are the template's: no start is
            set before prompts, an answer stands behind them with the white space that the template sets before it, or
            none, and its end is what the template sets behind it up to the first special token, or all of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, form: PromptForm = PLAIN) -> None:
        self._tokenizer = tokenizer
        self._form = form
        (bare,), (dressed,) = self._ids(["a"]), self._ids(["a"], special=True)
        at = next((k for k in range(len(dressed)) if dressed[k : k + len(bare)] == bare), 0)
        self.start: Tokens = () if form.template is not None else tuple(dressed[:at])
        self.trailing: Tokens = tuple(dressed[at + len(bare) :])

    @property
    def unknown(self) -> int | None:
        """Id of the unknown token, or None."""
        return self._tokenizer.unk_token_id  # type: ignore[return-value]

    @cached_property
    def end(self) -> Tokens:
        """What ends an answer: the end token; else what the tokenizer itself sets behind a text; else a line break.

        Empty if the tokenizer has none of them.
        """
        if self._form.template is not None:
            return self._end_of_turn()
        if self._tokenizer.eos_token_id is not None:
            return (self._tokenizer.eos_token_id,)  # type: ignore[return-value]
        if self.trailing:
            return self.trailing
        tokens = self._behind(["\n"], "").get("\n", ())
        return () if self.unknown in tokens else tokens

    @property
    def end_in_words(self) -> str:
        """What ends an answer, in words."""
        if self._tokenizer.eos_token_id is not None or self._form.template is not None:
            return "the end token"
        if self.trailing:
            return "what the tokenizer sets behind a text"
        return "a line break" if self.end else "nothing"

    def _end_of_turn(self) -> Tokens:
        """What the chat template sets behind an answer, up to its first special token."""
        if not self._form.end:
            return ()
        ids = self._behind([self._form.end], "")[self._form.end]
        marked = marked_special(self._tokenizer.added_tokens_decoder)
        special = {*self._tokenizer.all_special_ids, *marked.values()}
        first = next((k for k, token in enumerate(ids) if token in special), len(ids) - 1)
        return ids[: first + 1]

    def write(self, rows: Sequence[Row]) -> list[str]:
        """Write the prompts of rows as the model gets them.

        Args:
            rows: The rows.

        Returns:
            The text of each.
        """
        return [self._form.text(row) for row in rows]

    def conversations(self, rows: Sequence[Row]) -> list[list[int]]:
        """Tokenise the whole conversations that the chat template gives of rows, answers and ends of turns included.

        Args:
            rows: The rows.

        Returns:
            Token ids of each; none at all without a chat template.
        """
        wholes = [self._form.whole(row) for row in rows]
        return self.prompts([whole for whole in wholes if whole is not None])

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise prompts, T(text), without the start.

        Args:
            texts: The prompts.

        Returns:
            Token ids of each.
        """
        return self._ids(texts) if texts else []

    def answers(self, texts: Iterable[str]) -> dict[str, Tokens]:
        """Tokenise answers as they stand behind a prompt, C(text), without the end.

        Args:
            texts: The answers; repeats are tokenised once.

        Returns:
            Answer -> token ids.
        """
        return self._behind(sorted(set(texts)), self._form.blank, self._form.before)

    def unread(self, texts: Mapping[str, int], tokens: Iterable[tuple[Sequence[int], int]]) -> Unread:
        """Count what the tokenizer cannot represent.

        Args:
            texts: How often each text stands in the rows.
            tokens: The texts' tokens, with the same counts.

        Returns:
            The counts, each text and its tokens counted as often as it stands in the rows.
        """
        counts = Counter[str]()
        for text, count in texts.items():
            counts.update(text * count)
        letters = [letter for letter in counts if not letter.isspace()]
        gone = [x for x, ids in zip(letters, self.prompts(letters), strict=True) if not ids]
        total = unknown = 0
        missing = self.unknown  # asked of the tokenizer once: it answers slowly, and there are many tokens
        for ids, count in tokens:
            total += count * len(ids)
            unknown += count * ids.count(missing)
        return Unread(
            total, unknown, sum(counts[letter] for letter in letters), sum(counts[letter] for letter in gone)
        )

    def _behind(self, texts: Sequence[str], blank: str, before: str = "") -> dict[str, Tokens]:
        """Tokens of texts behind other text: by the first anchor that stays whole before all, else before each."""
        left, found = list(texts), dict[str, Tokens]()
        best: dict[str, Tokens] = {}
        for anchor in (before, *_ANCHORS) if before else _ANCHORS:
            found = self._behind_anchor(anchor, left, blank)
            if len(found) == len(left):
                return found
            best = found | best
        alone = [text for text in left if text not in best]
        own = zip(alone, self._ids([blank + text for text in alone]) if alone else [], strict=True)
        return best | {text: tuple(ids) for text, ids in own}

    def _behind_anchor(self, anchor: str, texts: Sequence[str], blank: str) -> dict[str, Tokens]:
        head, *wholes = self._ids([anchor, *(f"{anchor}{blank}{text}" for text in texts)])
        return {
            text: tuple(whole[len(head) :])
            for text, whole in zip(texts, wholes, strict=True)
            if len(whole) > len(head) and whole[: len(head)] == head
        }

    def _ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        called: Any = self._tokenizer(
            list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False
        )
        return called["input_ids"]
