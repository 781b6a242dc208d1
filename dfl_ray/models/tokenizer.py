"""The base model's tokenizer, needed by the driver alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dfl_ray.errors import InputError, first_line
from dfl_ray.models.hub import check_hub

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_PLAIN_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
_WITHOUT_EFFECT = frozenset(
    {
        "backend", "bos_token", "clean_up_tokenization_spaces", "eos_token", "is_local", "local_files_only",
        "model_max_length", "pad_token", "padding_side", "tokenizer_class", "unk_token",
    }
)  # fmt: skip
"""Keys of tokenizer_config.json that change no token of an untruncated, unpadded text."""

_TAKES_GENERIC = (None, "llama")
"""Model types for which `AutoTokenizer` takes a generic class at its word. For others it may choose the model type's
own class, which normalises and splits as that class says and not as tokenizer.json does."""

_LARGEST = 100_000
"""Above so many tokens `transformers` may replace the way a text is split."""


@dataclass(frozen=True)
class PlainTokenizer:
    """A tokenizer that is its tokenizer.json and nothing more, as `tokenizers` reads it.

    Attributes:
        backend: What encodes.
        bos_token_id: Begin token, or None.
        eos_token_id: End token, or None.
        unk_token_id: What stands for text it does not know, or None.
    """

    backend: Tokenizer
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None = None

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, **_: object
    ) -> dict[str, list[list[int]]]:
        """`input_ids` of each text, as `transformers` gives them."""
        found = self.backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return {"input_ids": [e.ids for e in found]}


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub id.

    A folder whose tokenizer is its tokenizer.json alone is read without `transformers`, whose import takes longer
    than everything else the driver does before the first round.

    Args:
        path: Model folder or hub id.
        trust_remote_code: Run code shipped with the model.

    Returns:
        The tokenizer; a `PlainTokenizer` where `plain_tokenizer` can read it.

    Raises:
        InputError: There is none, it can't be read, or it is a hub's that can't be reached.
    """
    plain = plain_tokenizer(Path(path))
    if plain is not None:
        return cast("PreTrainedTokenizerBase", plain)
    check_hub(path, asked_by="model.name")
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
        return found
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"The tokenizer of `{path}` can't be loaded",
            got=first_line(error, 300),
            expected="tokenizer files that AutoTokenizer.from_pretrained reads",
            change="Check `model.name`.",
        ) from error


def plain_tokenizer(folder: Path) -> PlainTokenizer | None:
    """Read a folder's tokenizer with `tokenizers` alone, if it is its tokenizer.json and nothing more.

    Args:
        folder: The model's folder.

    Returns:
        The tokenizer, or None if `transformers` might do more with the folder's files or says better what is wrong.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return None
    others = ("added_tokens.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja")
    if config.get("tokenizer_class") not in _PLAIN_CLASSES or not set(config) <= _WITHOUT_EFFECT:
        return None
    if any((folder / name).exists() for name in others) or not (folder / "tokenizer.json").is_file():
        return None
    special = [config.get(k) for k in ("bos_token", "eos_token", "pad_token", "unk_token")]
    # A token with settings of its own (`AddedToken`) may change what tokenizer.json says of it.
    if any(not isinstance(t, str | None) for t in special) or _model_type(folder) not in _TAKES_GENERIC:
        return None
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises bare Exception; `transformers` then says what is wrong
        return None
    backend.no_truncation()
    backend.no_padding()
    # A special token that tokenizer.json does not mark as one is added by `transformers`, and then cut out of texts.
    marked = marked_special(backend.get_added_tokens_decoder())
    if backend.get_vocab_size() > _LARGEST or any(t is not None and t not in marked for t in special):
        return None
    return PlainTokenizer(
        backend, *(None if t is None else marked[t] for t in (special[0], special[1], special[3]))
    )


def marked_special(added: Mapping[int, Any]) -> dict[str, int]:
    """The special tokens among a tokenizer's added ones, whether its configuration names them or not.

    Phi-3's `<|end|>` and Gemma's `<end_of_turn>` are marked so and named nowhere else.

    Args:
        added: Token id -> `AddedToken`: a backend's `get_added_tokens_decoder()`, or the `added_tokens_decoder` of a
            tokenizer of `transformers`.

    Returns:
        Text -> token id.
    """
    return {token.content: number for number, token in added.items() if token.special}


def _model_type(folder: Path) -> object:
    """The folder's model type; None without a configuration."""
    try:
        return json.loads((folder / "config.json").read_bytes()).get("model_type", "")
    except OSError:
        return None
    except (ValueError, AttributeError):
        return ""
