"""Which linear layers of a base model are adapted."""

from __future__ import annotations

from collections.abc import Sequence

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape


def choose_layers(found: Sequence[LayerShape], target_modules: str | Sequence[str]) -> list[LayerShape]:
    """Those of a model's linear layers that are to be adapted; see `engines.adapted_layers.targets_of`.

    Raises:
        InputError: Nothing matches.
    """
    chosen = list(found)
    if target_modules != "all-linear":
        wanted = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)
        chosen = [s for s in found if any(s.name == w or s.name.endswith("." + w) for w in wanted)]
    if not chosen:
        suffixes = sorted({s.name.rsplit(".", 1)[-1] for s in found})
        raise InputError(
            f"`model.target_modules` = {target_modules!r} matches no linear layer of the model",
            expected="`all-linear` or some of: "
            + (", ".join(suffixes) or "none, the model has no linear layer"),
            change="Change `model.target_modules`.",
        )
    return chosen
