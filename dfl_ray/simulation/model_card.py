"""The model card of an exported adapter: what it is, whose, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence, Set

import pandas as pd

from dfl_ray.records import Run
from dfl_ray.records.results import method_rule
from dfl_ray.records.words import share

LOADER = '''"""Load the experts of this folder: `load(base)`, then `set_adapter("task")` before an answer."""

from pathlib import Path

from peft import PeftModel


def load(base, folder=Path(__file__).parent):
    """The base model with one adapter a task."""
    found = sorted(path.parent for path in Path(folder).glob("*/adapter_config.json"))
    model = PeftModel.from_pretrained(base, str(found[0]), adapter_name=found[0].name)
    for path in found[1:]:
        model.load_adapter(str(path), adapter_name=path.name)
    return model
'''


def accuracies_at(run: Run, round_index: int) -> pd.DataFrame:
    """Read what model cards say of an evaluation, for all devices at once.

    Args:
        run: The run.
        round_index: The round.

    Returns:
        Columns of `evaluation` for that round alone; no rows where it was not evaluated.
    """
    columns = ["device", "task", "rule", "accuracy", "chance"]
    return run.table("evaluation", columns=columns, rounds=(round_index, round_index))


def model_card(
    run: Run,
    device: int,
    held: Sequence[str],
    round_index: int,
    evaluated: pd.DataFrame,
    *,
    merged: bool = False,
    experts: bool = False,
) -> str:
    """Write a model card in the form of the Hugging Face hub.

    Args:
        run: The run.
        device: Whose model it is.
        held: Names of the tasks whose data the device had.
        round_index: The round after which it was saved.
        evaluated: `accuracies_at` of that round: figures of another round are another model's.
        merged: Whether the adapter is part of the weights.
        experts: Whether it is one adapter a task.

    Returns:
        The card, Markdown with a YAML head.
    """
    config, versions, git = run.config, run.info.get("versions", {}), run.info.get("git") or {}
    base = config["model"]["name"]
    kind = (
        "Model with the adapter merged into its weights"
        if merged
        else "LoRA adapters, one a task" if experts else "LoRA adapter"
    )  # fmt: skip
    rows = evaluated[evaluated["device"] == device]
    table = [
        f"| {r['task']} | {r['rule']} | {share(r['accuracy'])} | {share(r['chance'])} |"
        for r in rows.to_dict("records")
    ]
    head = f"| task | rule | accuracy on held-out rows after round {round_index} | chance |"
    library = "transformers" if merged else "peft"
    return "\n".join(
        [
            "---", f"library_name: {library}", f"base_model: {base.rsplit('/', 2)[-1] if base[0] in '/~.' else base}",
            "tags: [lora, decentralized, federated, dfl-ray]", "---", "",
            f"# {kind} of device {device}, run {run.name}", "",
            f"Trained by `{config['method']['type']}` for {round_index} rounds over {config['devices']['count']} "
            f"devices without a server, simulated by dfl-ray {versions.get('dfl-ray')}. The device held data of "
            f"{', '.join(held)}; {_came(run, round_index)}.", "",
            f"- seed {config['seed']}, rank {config['method']['rank']}, alpha {config['method']['alpha']:g}, "
            f"rule reported: {method_rule(run)}",
            f"- {_own_rows(set(rows['rule']), experts) if len(evaluated) else _not_evaluated(run, round_index)}",
            f"- code: commit {git.get('commit', 'unknown')}{' (with local changes)' if git.get('dirty') else ''}; "
            f"torch {versions.get('torch')}, transformers {versions.get('transformers')}, peft {versions.get('peft')}",
            *(["", head, "|---|---|---|---|"] if table else []), *table, "",
        ]
    )  # fmt: skip


def _came(run: Run, round_index: int) -> str:
    rounds = run.rounds
    if rounds["payload_bytes"][rounds["round"] <= round_index].sum():
        return "what it can do of other tasks came to it over the air"
    return "nothing was sent over the air"


def _not_evaluated(run: Run, round_index: int) -> str:
    """That there are no figures of the exported state, and which round the run's own are of."""
    last = run.last_evaluated
    return (
        f"nothing was evaluated after round {round_index}, so no accuracies are given"
        + (f" (the run's last are of another state, after round {last})" if last else "")
        + "; `dfl-ray evaluate` measures the state that is exported here"
    )


def _own_rows(rules: Set[str], experts: bool) -> str:
    """Which accuracies are those of what was exported."""
    if not rules:
        return "the device was not asked in the last evaluation, since it was faulty, off or without energy"
    if "single" in rules:
        return "the accuracies below are this adapter's"
    if experts:
        return "with the adapter of a prompt's own task set the accuracies are those of rule `oracle`; others choose"
    own = (
        "those by rule `filter` are its own"
        if "filter" in rules
        else "its own (rule `filter`) were not measured"
    )
    return f"all experts are merged into one adapter here: of the accuracies below {own}, others choose an expert"
