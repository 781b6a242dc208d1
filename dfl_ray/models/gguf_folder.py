"""A GGUF file as a model folder: dequantised once by `transformers`, kept in the user's cache by the file's content.

What is in the file is what is computed: the values are kept in float32, exactly as they are dequantised, nothing that
the file lacks is drawn at random, and nothing of it is left out.
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
from dfl_ray.models.folder import check_model_folder
from dfl_ray.models.gguf_config import FACTORS, fit_config
from dfl_ray.models.gguf_header import GgufHeader, check_gguf, read_gguf_header
from dfl_ray.models.gguf_tensors import merge_gguf, rope_factors
from dfl_ray.models.pretrained import check_report, no_bars

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_FORM = 2
"""Part of a cached folder's name; to be raised whenever the same file would give another folder."""

_FETCH_OR_ANOTHER = (
    "Fetch the file again, or give `model.name` the model's safetensors folder or hub id: what this file lacks or has "
    "beyond the architecture is not guessed"
)


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
        InputError: The file is refused by `check_gguf`, `transformers` can't read its architecture or tensors, weights
            of the model are missing in it, something of it would not be computed, or the cache can't be written.
    """
    header = check_gguf(path)
    digest = _digest_of(header.files)
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", path.stem)[:60]
    folder = cache_root() / f"{stem}-{digest[:16]}-v{_FORM}"
    if _is_whole(folder):
        return folder
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not _is_whole(folder):
                with TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
                    _dequantise(path, Path(made) / folder.name)
                    if folder.exists():
                        os.replace(folder, Path(made) / "damaged")
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


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the cache can be loaded: programs that clean up take files, a full disk cuts them short."""
    try:
        check_model_folder(folder)
    except (InputError, OSError):
        return False
    return True


def _digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of a file's content, or of those of several files one after the other."""
    stats = [(str(file.absolute()), file.stat()) for file in files]
    each = [_digest(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


@cache
def _digest(path: str, _size: int, _mtime_ns: int) -> str:
    """SHA-256 of a file's content; asked once a process for a file that did not change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dequantise(path: Path, out: Path) -> None:
    """Read a GGUF file with `transformers` and save model and tokenizer."""
    header = read_gguf_header(path)
    whole = path
    if len(header.files) > 1:
        whole = out.with_name("whole.gguf")
        merge_gguf(header, whole)
    try:
        with _no_bars():
            model, report, tokenizer = _read(whole, header, path)
            unused = _unused(model, header, report)
    except InputError:
        raise
    except Exception as error:  # the library raises anything for a file that it can't read
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise InputError(
            f"The GGUF file {path} can't be read by `transformers`",
            got=f"architecture {header.architecture!r}: {type(error).__name__}: {reason}",
            expected="a causal language model of an architecture and tensor types that "
            "AutoModelForCausalLM.from_pretrained(…, gguf_file=…) dequantises",
            change="Choose another file for `model.name`, or the model's safetensors folder or hub id.",
        ) from error
    check_report(path, model, {**report, "unexpected_keys": unused}, _FETCH_OR_ANOTHER)
    model.config.__dict__.pop("quantization_config", None)
    with _no_bars():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _read(whole: Path, header: GgufHeader, path: Path) -> tuple[Any, dict[str, Any], Any]:
    """The model with the report of its loading, and the tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(whole.parent), "gguf_file": whole.name}
    config: Any = AutoConfig.from_pretrained(**source)
    fit_config(config, header, rope_factors(whole, header), path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **source, config=config, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32,
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    return *loaded, AutoTokenizer.from_pretrained(**source)


def _unused(model: Any, header: GgufHeader, report: Mapping[str, Any]) -> list[str]:
    """Names of the file's tensors that the model has no place for.

    Of most architectures `transformers` reads those that it has a name for and says nothing of others; the newer ones
    it reads whole, and reports what is left.
    """
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    if header.architecture in GGUF_ARCHS:
        return [name for name in report["unexpected_keys"] if name not in FACTORS]
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)()
    known = {*get_gguf_hf_weights_map(model, processor), *FACTORS}
    return [n for n in header.names if n not in known and n.removesuffix(".weight") not in known]


@contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bars of `transformers`; the reader of GGUF tensors draws its bar whatever is asked."""
    with no_bars(), redirect_stderr(StringIO()):
        yield
