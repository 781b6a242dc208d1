"""A GGUF file as a model folder: dequantised once by `transformers`, kept in the user's cache by the file's content.

What is in the file is what is computed: the values are kept in float32, exactly as they are dequantised.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dfl_ray.errors import InputError
from dfl_ray.models.gguf_header import check_gguf, read_gguf_header
from dfl_ray.models.pretrained import no_bars

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORM = 1
"""Part of a cached folder's name; to be raised whenever the same file would give another folder."""


def gguf_folder(path: Path) -> Path:
    """Folder that a GGUF file is dequantised into; made where it is not in the cache yet.

    The folder's name has the SHA-256 of the file's content, so that two files of one name never meet and a copy is not
    made twice. It is written beside its place and moved there whole, under a lock, so that several processes may ask
    at once and a process that dies leaves no half folder in its place.

    Args:
        path: The file.

    Returns:
        A `transformers` folder with float32 safetensors and the tokenizer.

    Raises:
        InputError: The file is refused by `check_gguf`, `transformers` can't read its architecture or tensors, or the
            cache can't be written.
    """
    check_gguf(path)
    stat = path.stat()
    digest = _digest(str(path.absolute()), stat.st_size, stat.st_mtime_ns)
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", path.stem)[:60]
    folder = cache_root() / f"{stem}-{digest[:16]}-v{_FORM}"
    if (folder / "config.json").is_file():
        return folder
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not (folder / "config.json").is_file():
                with TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
                    _dequantise(path, Path(made) / folder.name)
                    os.replace(Path(made) / folder.name, folder)
    except OSError as error:
        raise InputError(
            f"The dequantised model of {path} can't be kept in {folder.parent}",
            got=f"{type(error).__name__}: {error}",
            expected="a folder that can be written, with room for 4 bytes a parameter",
            change="Free some space, or set XDG_CACHE_HOME to another folder.",
        ) from error
    return folder


def cache_root() -> Path:
    """Folder of the dequantised models: `dfl-ray/models` in XDG_CACHE_HOME, or in `~/.cache` where that is not set."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "dfl-ray" / "models"


@cache
def _digest(path: str, _size: int, _mtime_ns: int) -> str:
    """SHA-256 of a file's content; asked once a process for a file that did not change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dequantise(path: Path, out: Path) -> None:
    """Read a GGUF file with `transformers` and save model and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with _no_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # the library raises anything for a file that it can't read
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise InputError(
            f"The GGUF file {path} can't be read by `transformers`",
            got=f"architecture {read_gguf_header(path).architecture!r}: {type(error).__name__}: {reason}",
            expected="a causal language model of an architecture and tensor types that "
            "AutoModelForCausalLM.from_pretrained(…, gguf_file=…) dequantises",
            change="Choose another file for `model.name`, or the model's safetensors folder or hub id.",
        ) from error
    model.config.__dict__.pop("quantization_config", None)
    with _no_bars():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


@contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bars of `transformers`; the reader of GGUF tensors draws its bar whatever is asked."""
    with no_bars(), redirect_stderr(StringIO()):
        yield
