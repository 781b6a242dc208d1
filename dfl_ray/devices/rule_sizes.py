"""Inference rules that form dense updates or correlations of all layers, and up to which size they are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.experts.table import RULES
from dfl_ray.lora.layout import LayerShape, dense_values
from dfl_ray.methods.spec import method_spec

DENSE_LIMIT = 2**28
"""Most values of dense updates or correlations, over all tasks and layers, that a rule may form."""

DENSE_RULES: dict[str, Callable[[Sequence[LayerShape]], int]] = {
    "ties": dense_values,
    "filter_full": lambda layers: sum(layer.in_features**2 for layer in layers),
}
"""Rule -> dense values that it forms of one task's expert."""


def with_rules_in_reach(
    config: Config, layers: Sequence[LayerShape], tasks: int
) -> tuple[Config, tuple[str, ...]]:
    """Leave rules that are too large for the model out of `evaluate.rules: [all]`, and load installed ones.

    Args:
        config: The experiment.
        layers: The adapted layers.
        tasks: Number of tasks.

    Returns:
        The configuration, with its rules by name where one is left out; and a sentence on it.

    Raises:
        InputError: A rule that is too large is named, or one that can answer nothing.
    """
    spec = method_spec(config.method)
    asked = config.evaluate.rules or spec.compared
    _load_installed((spec.rule, *asked))
    formed = {rule: tasks * size(layers) for rule, size in DENSE_RULES.items() if rule in spec.rules}
    large = {rule: values for rule, values in formed.items() if values > DENSE_LIMIT}
    for rule in (spec.rule, *asked):
        if rule in large:
            raise InputError(
                f"The inference rule `{rule}` forms dense values of all layers for each of {tasks} tasks",
                got=f"{large[rule]:,} values",
                expected=f"at most {DENSE_LIMIT:,}",
                change="Leave it out of `evaluate.rules`, adapt fewer layers (`model.target_modules`), or take fewer "
                "tasks.",
            )
    if "all" not in asked or not large:
        return config, ()
    rules = tuple(rule for rule in spec.rules if rule not in large)
    evaluate = config.evaluate.model_copy(update={"rules": rules})
    said = " and ".join(f"`{rule}` ({values:,})" for rule, values in large.items())
    return config.model_copy(update={"evaluate": evaluate}), (
        f"Of all rules {said} {'is' if len(large) == 1 else 'are'} left out, which would form more than "
        f"{DENSE_LIMIT:,} dense values of this model's layers.",
    )


def _load_installed(rules: Sequence[str]) -> None:
    """Have what is wrong with the rules of installed packages told before anything is started."""
    for name in rules:
        if name in RULES and name not in RULES.own:
            from dfl_ray.devices.rules import inference_rule

            inference_rule(name)
