"""Which linear layers of a base model are adapted."""

from __future__ import annotations

from collections.abc import Sequence

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape


def choose_layers(found: Sequence[LayerShape], target_modules: str | Sequence[str]) -> list[LayerShape]:
    """Choose those of a model's linear layers that are to be adapted.

    A name is meant if it is the whole module path or its end, cut at a dot.

    Args:
        found: All of the model's linear layers but its output head.
        target_modules: "all-linear" for all of them (as in PEFT), or name suffixes.

    Returns:
        The chosen layers, in the order of `found`.

    Raises:
        InputError: Nothing matches.
    """
    chosen = list(found)
    if target_modules != "all-linear":
        wanted = _names(target_modules)
        chosen = [s for s in found if any(_is_meant(s, w) for w in wanted)]
    if not chosen:
        suffixes = sorted({s.name.rsplit(".", 1)[-1] for s in found})
        raise InputError(
            f"`model.target_modules` = {target_modules!r} matches no linear layer of the model",
            expected="`all-linear` or some of: "
            + (", ".join(suffixes) or "none, the model has no linear layer"),
            change="Change `model.target_modules`.",
        )
    return chosen


def unmatched_note(found: Sequence[LayerShape], target_modules: str | Sequence[str]) -> tuple[str, ...]:
    """Tell which names of `model.target_modules` match no layer though others do.

    Args:
        found: All of the model's linear layers.
        target_modules: "all-linear" or name suffixes.

    Returns:
        One sentence for the user, or nothing where every name matches.
    """
    if target_modules == "all-linear":
        return ()
    idle = [w for w in _names(target_modules) if not any(_is_meant(s, w) for s in found)]
    if not idle:
        return ()
    there = ", ".join(sorted({s.name.rsplit(".", 1)[-1] for s in found}))
    return (
        f"`model.target_modules`: {', '.join(idle)} match{'es' if len(idle) == 1 else ''} no linear layer of the model "
        f"and adapt{'s' if len(idle) == 1 else ''} nothing; its layers are {there}.",
    )


def _names(target_modules: str | Sequence[str]) -> tuple[str, ...]:
    return (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)


def _is_meant(layer: LayerShape, name: str) -> bool:
    return layer.name == name or layer.name.endswith("." + name)


def other_names(bad: Sequence[str], layers: Sequence[LayerShape]) -> list[str]:
    """Find the shortest suffixes, of one or two name parts, that name layers of a model and none of some bad ones.

    Args:
        bad: Names of layers to leave out.
        layers: All layers.

    Returns:
        The suffixes, sorted, each once; a layer that no such suffix tells from the bad ones is left out.
    """
    out: set[str] = set()
    for name in {s.name for s in layers} - set(bad):
        parts = name.split(".")
        for count in (1, 2):
            suffix = ".".join(parts[-count:])
            if not any(b.endswith("." + suffix) or b == suffix for b in bad):
                out.add(suffix)
                break
    return sorted(out)
