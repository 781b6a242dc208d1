"""What a run should be told of its method's settings."""

from __future__ import annotations

from collections.abc import Sequence

from dfl_ray.config.baselines import CentralizedConfig, ChocoConfig, LocalConfig
from dfl_ray.config.literature import FedSbConfig, RandomWalkConfig
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.config.section import named_keys
from dfl_ray.config.training import GossipConfig, TrainingConfig
from dfl_ray.lora.layout import LayerShape
from dfl_ray.methods.aggregation_table import AGGREGATIONS, TRIMMING
from dfl_ray.methods.expert_law import update_rounds
from dfl_ray.methods.walk_law import FIRST
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.network.parts import Root

CHOCO_STEP_PER_SHARE = 4.0
"""Largest `consensus_step` over `keep_share` without a warning. Ten devices on a ring that only average hold together
at 4 and diverge at 6 (tests/unit/dfl_ray/methods/test_methods_listed.py); denser graphs bear less."""

REFERENCE_RULES = {
    "oracle": "it is told which task each prompt is of",
    "filter_full": "it goes by the full correlations of all tasks' inputs, which no device has received",
}
"""Inference rules that use what a device cannot know, and what that is."""


def method_notes(config: Config) -> tuple[str, ...]:
    """Say what is odd about the settings of a method, though each is allowed.

    Args:
        config: The experiment.

    Returns:
        One sentence each.
    """
    method = config.method
    notes = [f"`method.{key}` without effect: {why}." for key, why in _idle_keys(config).items()]
    if isinstance(method, ChocoConfig):
        share, step = method.keep_share, method.consensus_step
        if step > CHOCO_STEP_PER_SHARE * share * (1 + 1e-9):
            notes.append(
                f"`method.consensus_step` {step:g} is large for `method.keep_share` {share:g}: CHOCO may diverge above "
                f"{CHOCO_STEP_PER_SHARE:g} times the share, on dense graphs even below."
            )
    rule = method.reported_rule
    if rule in REFERENCE_RULES:
        notes.append(
            f"`method.rule` {rule} is a reference and no way for devices to answer: {REFERENCE_RULES[rule]}, and "
            "nothing is charged for it. `likelihood` and `filter` go by what devices have received."
        )
    if isinstance(method, FedSbConfig) and method.bases == "gradient":
        notes.append(
            f"The bases come from the gradient of {method.bases_rows} training rows of the devices, computed before "
            "the run: how it is formed and how the bases reach every device is not simulated and costs nothing here."
        )
    if method.hub is not None and config.rounds % (method.exchange_every + 1):
        cycle = method.exchange_every + 1
        notes.append(
            f"`{method.name}` takes cycles of {cycle} rounds, and `rounds` {config.rounds} is no multiple of that: the "
            "run ends with adapters that the server has not averaged."
        )
    return tuple(notes)


def _idle_keys(config: Config) -> dict[str, str]:
    """Keys of the section `method` that its author has set and nothing reads, and why."""
    method, named = config.method, named_keys(config.method)
    reasons: dict[str, str] = {}
    if isinstance(method, LocalConfig | CentralizedConfig):
        sending = ("precision", "error_feedback", "exchange_every", "fresh_optimizer")
        reasons = dict.fromkeys(sending, f"{method.name} exchanges nothing")
    elif not isinstance(method, GossipConfig):
        reasons["error_feedback"] = f"{method.name} does not carry rounding errors by it"
    elif not method.mixes:
        reasons["error_feedback"] = f"{method.name} averages nothing"
    elif not AGGREGATIONS[method.aggregation].feedback:
        reasons["error_feedback"] = f"`method.aggregation` {method.aggregation} needs none"
    elif method.precision != "int8":
        reasons["error_feedback"] = f"`method.precision` is {method.precision}, not int8"
    if isinstance(method, GossipConfig) and method.aggregation in set(AGGREGATIONS.own) - set(TRIMMING):
        trimming = " or ".join(TRIMMING)
        reasons["faulty_share"] = f"`method.aggregation` is {method.aggregation}, not {trimming}"
    if config.privacy.mechanism == "examples":
        reasons["clip_norm"] = "DP-SGD clips each row's gradient to `privacy.clip_norm` instead"
    if method.optimizer == "sgd" and method.fresh_optimizer:
        reasons["fresh_optimizer"] = "`method.optimizer` sgd has no moments"
    return {key: why for key, why in reasons.items() if key in named}


def root_of(method: TrainingConfig) -> Root | None:
    """The device that all must reach under a method: its server, or that at which its walk begins; else None.

    Args:
        method: The section `method`.

    Returns:
        The device, and what devices do that it does not reach.
    """
    if method.hub is not None:
        cycle = method.exchange_every + 1
        alone = f"the others train alone, and rest for nothing in the server's turn, one round of {cycle}"
        return Root(method.hub, f"The server, device {method.hub},", alone, "method.server")
    if isinstance(method, RandomWalkConfig):
        return Root(FIRST, f"The walk begins at device {FIRST}, which", "the others never train")
    return None


def mask_notes(config: Config, graph: CommGraph) -> tuple[str, ...]:
    """Say that masks come too late for the experts to become as sparse as they are asked to be.

    A mask announced in round r holds from round r + depth + 1 on, when all holders have it.

    Args:
        config: The experiment.
        graph: The communication graph, with the trees to the holders.

    Returns:
        At most one sentence.
    """
    method, rounds = config.method, config.rounds
    if not isinstance(method, SparseOrthogonalConfig) or not (schedule := update_rounds(method, rounds)):
        return ()
    delays = [tree.depth + 1 for tree in graph.holders.values()]
    ends = [
        min((density for r, density in schedule.items() if r + delay <= rounds), default=1.0)
        for delay in delays
    ]
    late = sum(end > min(schedule.values()) for end in ends)
    if not late:
        return ()
    return (
        f"{late} of {len(ends)} groups of holders end with a density of up to {max(ends):.3g} and not "
        f"`method.density` {method.density:g}: the last mask is announced in round {max(schedule)} of {rounds}, and "
        f"holds once it has reached all holders, up to {max(delays)} rounds later. Raise `rounds`, or lower "
        "`method.prune_end`.",
    )


def density_notes(method: TrainingConfig, layers: Sequence[LayerShape]) -> tuple[str, ...]:
    """Say that a density is less than the one entry, or row, that a mask keeps of every layer.

    Args:
        method: The section `method`.
        layers: The adapted layers.

    Returns:
        At most one sentence; none for methods without masks.
    """
    if not isinstance(method, SparseOrthogonalConfig):
        return ()
    by_row = method.mask == "row"
    sizes = [layer.out_features * (1 if by_row else method.rank) for layer in layers]
    if method.budget == "global":
        short = len(layers) if round(method.density * sum(sizes)) < len(layers) else 0
    else:
        short = sum(round(method.density * size) < 1 for size in sizes)
    if not short:
        return ()
    unit = "row" if by_row else "entry"
    return (
        f"`method.density` {method.density:g} is less than one {unit} of B in {short} of {len(layers)} layers: a mask "
        "keeps one of each, which is more.",
    )
