"""Where the shipped model lies."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def embedded_path() -> Path:
    """Folder of the embedded base model, a plain `transformers` folder shipped inside the package.

    Returns:
        The folder, with model.safetensors in it.

    Raises:
        FileNotFoundError: The folder is not there, e.g. in a partial checkout.
    """
    folder = Path(str(files("dfl_ray.models"))) / "embedded"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"The embedded model is missing: expected model.safetensors in {folder}. Restore it from the "
            f"repository or make it again: python -m dfl_ray.models.make_embedded {folder} --seed 0"
        )
    return folder
