"""Tensors of GGUF files as the `gguf` package reads them: the rotary factors, and split files made one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dfl_ray.models.gguf_config import FACTORS
from dfl_ray.models.gguf_header import GgufHeader


def rope_factors(path: Path, header: GgufHeader) -> dict[str, np.ndarray]:
    """Read the factors of the rotary frequencies that a file keeps as tensors.

    Args:
        path: The file.
        header: Its header.

    Returns:
        Those of `FACTORS` that are there -> (head_dim / 2,) float32.
    """
    if not set(FACTORS) & set(header.names):
        return {}  # the reader takes seconds
    import gguf

    found: Any = gguf.GGUFReader(path).tensors
    return {
        t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32).reshape(-1)
        for t in found
        if t.name in FACTORS
    }


def merge_gguf(header: GgufHeader, out: Path) -> None:
    """Write the files that llama.cpp split a model into as one.

    Args:
        header: The model's header, which names the files.
        out: The file to write; its tensors stay in their types.
    """
    import gguf

    readers: list[Any] = [gguf.GGUFReader(file) for file in header.files]
    writer: Any = gguf.GGUFWriter(out, header.architecture)
    for item in readers[0].fields.values():
        written_by_itself = item.name in ("general.architecture", "general.alignment")
        if written_by_itself or item.name.startswith(("GGUF.", "split.")) or len(item.data) == 0:
            continue
        kind, inner = item.types[0], item.types[-1]
        is_array = kind == gguf.GGUFValueType.ARRAY
        writer.add_key_value(item.name, item.contents(), kind, sub_type=inner if is_array else None)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    for t in tensors:
        writer.add_tensor_info(t.name, t.data.shape, t.data.dtype, t.data.nbytes, t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for t in tensors:
        writer.write_tensor_data(t.data)
    writer.close()
