"""The base model's tokenizer, needed by the driver alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub id.

    Raises:
        InputError: There is none, or it can't be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(
            f"The tokenizer of `{path}` can't be loaded",
            got=reason,
            expected="tokenizer files that AutoTokenizer.from_pretrained reads",
            change="Check `model.name`.",
        ) from error
