"""Where a base model lies: the shipped one, a package's, a folder, a GGUF file, or a hub."""

from __future__ import annotations

from dfl_ray.models.gguf_folder import gguf_folder
from dfl_ray.models.gguf_header import is_gguf
from dfl_ray.models.paths import SMOLLM2, SMOLLM2_HUB, local_path


def base_path(name: str) -> str:
    """Folder or hub id of a base model.

    Args:
        name: `model.name`: `embedded`, `smollm2-135m`, a folder, a GGUF file, or a hub id.

    Returns:
        The folder, into which a GGUF file is dequantised first if it is not in the cache; else the hub id, which for
        `smollm2-135m` without its package is that of the same model.

    Raises:
        InputError: The GGUF file can't be used.
    """
    path = local_path(name)
    if is_gguf(path):
        return str(gguf_folder(path))
    if name == SMOLLM2:
        return SMOLLM2_HUB
    return str(path) if path.exists() else name
