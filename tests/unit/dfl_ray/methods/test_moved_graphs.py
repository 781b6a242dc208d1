"""What methods do when the graph changes under them: authors of parts, masks after parts have met again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dfl_ray.config.load import load_config
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.methods.expert_law import AnnouncedMask, ExpertLaw
from dfl_ray.methods.laws import LawContext
from dfl_ray.network.comm_graph import comm_graph, succeed
from topology import build

HELD = np.ones((4, 1), bool)


def graph(pairs):
    pairs = np.array(pairs)
    made = build(
        "complete", positions_m=np.arange(8.0).reshape(4, 2), mixture=np.ones((4, 1)), candidate_pairs=pairs,
        airtime_s_per_mb=np.ones(len(pairs)), mean_snr_db=np.full(len(pairs), 20.0), rng=np.random.default_rng(0),
    )  # fmt: skip
    return comm_graph(made, mixing="metropolis_hastings")


WHOLE, HALVES = [(0, 1), (1, 2), (2, 3)], [(0, 1), (2, 3)]


def test_each_part_has_its_author_and_those_of_the_past_are_known():
    start = graph(WHOLE)
    apart = succeed(start, graph(HALVES), HELD, 5)
    assert (apart.authority[0, 3], apart.authority[0, 1]) == (2, 0)
    assert apart.grown == {} and apart.since == 5
    together = succeed(apart, graph(WHOLE), HELD, 9)
    assert together.grown == {(0, 0): 9}
    # An update that device 2 authored while apart is taken by all; one that device 3 claims by nobody.
    assert together.authored_by(2, 0, 1) and together.authored_by(0, 0, 3)
    assert not together.authored_by(3, 0, 1)
    assert not start.authored_by(2, 0, 1)
    assert succeed(together, graph(WHOLE), HELD, 12).grown == {(0, 0): 9}


def test_after_parts_have_met_the_author_announces_its_mask_again_once():
    config = load_config(None, ["method.density=0.5", "method.prune_start=0.1", "method.prune_end=0.3"])
    layout = Layout((LayerShape("w", 8, 8),), config.method.rank, ("b",))
    start = graph(WHOLE)
    context = LawContext(config.method, 20, 1, {d: (0,) for d in range(4)}, start, layout, 1)
    law = ExpertLaw(context)
    last = max(law.schedule)
    state = law.start(0)
    state.masks[0].known[last] = AnnouncedMask(10, last + 1)
    state.masks[0].announced = last
    assert law.density_due(0, state, 0, 15) is None
    met = succeed(succeed(start, graph(HALVES), HELD, 10), graph(WHOLE), HELD, 15)
    law = ExpertLaw(replace(context, graph=met))
    assert law.density_due(0, state, 0, 15) == law.schedule[last] == 0.5
    (mask,) = [m for m in law.publications(0, state, 15) if m.kind.name == "MASK"]
    assert mask.version == 15
    law.publish(state, mask)
    assert law.density_due(0, state, 0, 16) is None
