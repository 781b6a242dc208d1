"""Every causal architecture of the installed `transformers` agrees with it and with PEFT, or is refused by name.

The names come from the registry itself. A representative few are always tried, all others by
`pytest -m exhaustive`.
"""

from __future__ import annotations

import pytest

from tests.oracle.architectures.agreement import judge
from tests.oracle.architectures.table import documented
from tests.oracle.architectures.tiny import causal_types

FEW = (
    "bert", "deepseek_v3", "gemma3_text", "gpt2", "gpt_neo", "llama4_text", "mamba", "mistral", "mixtral", "opt",
)  # fmt: skip
"""Bidirectional; latent attention with buffers; layers of two kinds; Conv1D and learnt positions; local attention;
chunks and routers; state space; a window; a mixture; positions with an offset."""


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(n, marks=() if n in FEW else pytest.mark.exhaustive) for n in causal_types()],
)
def test_agrees_or_is_refused(model_type, tmp_path):
    """`judge` compares base and adapted label scores, loss and gradients; what comes of it stands in docs/models.md."""
    verdict = judge(model_type, tmp_path)
    assert verdict.outcome in ("supported", "refused", "not tried")
    assert documented().get(model_type, ("",))[0] == verdict.outcome, verdict


def test_the_table_is_complete():
    assert sorted(documented()) == causal_types()


def test_most_architectures_are_tried():
    outcomes = [outcome for outcome, _ in documented().values()]
    assert outcomes.count("not tried") < 0.2 * len(outcomes)
    assert outcomes.count("supported") > 0.5 * len(outcomes)
    assert set(FEW) <= set(causal_types())
