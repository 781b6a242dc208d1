"""What an actor needs in memory, from the sizes of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.models.published_shapes import published_model
from dfl_ray.packing.needs import ActorNeeds, Asks


def test_all_rows_need_as_much_as_many():
    shape = published_model("Qwen/Qwen2.5-1.5B").shape  # type: ignore[union-attr]

    def needs(asked: str) -> float:
        words = ["method=dlora", "method.batch_rows=1", "method.rank=2", "devices.count=3", "model.dtype=float32",
                 "devices.partition.min_holders=1", f"evaluate.rows_per_task={asked}"]  # fmt: skip
        config = load_config(None, words)
        return ActorNeeds(config, shape, 1000, adapters=1, tasks=3, row=8.0, asked_row=8.0, longest=9,
                          adapted_values=0, neighbours=0.0).working_mb  # fmt: skip

    assert needs("null") == needs("100000") > needs("1")


def test_logits_of_an_evaluation_decide_where_the_vocabulary_is_large():
    """Width 256 with 128,256 tokens: three float32 copies of the logits at all predicted tokens of a pass."""
    config = load_config(None, ["method=sparse_orthogonal", "model.dtype=float32"])
    shape = replace(
        published_model("HuggingFaceTB/SmolLM2-135M").shape,  # type: ignore[union-attr]
        hidden_size=256, intermediate_size=512, layers=2, heads=4, kv_heads=2, vocab_size=128_256,
    )  # fmt: skip

    def work(total: float, *, apart: bool) -> float:
        found = ActorNeeds(
            config, shape, 1000, adapters=1, tasks=2, row=8.0, asked_row=8.0, longest=9, adapted_values=0,
            neighbours=0.0, predicted=(total, 0.5), asks=Asks(apart=apart),
        )  # fmt: skip
        return 2**20 * (found.working_mb + found.merged_mb(2))

    each = 3 * 4 * 128_256
    assert work(432, apart=True) - work(332, apart=True) == pytest.approx(100 * each)
    # Of one rule that asks all rows of every device's adapter both are in one pass, of 2,048 tokens at most.
    assert work(432, apart=False) - work(432, apart=True) == pytest.approx(432 * each)
    assert work(1e9, apart=True) - work(432, apart=True) == pytest.approx((1024 - 432) * each)


def test_the_copies_of_dp_sgd_are_counted_and_bounded():
    """Five arrays of an adapter a row with its A and B; of more than 2^22 values no more are held than one row's."""
    shape = published_model("Qwen/Qwen2.5-1.5B").shape  # type: ignore[union-attr]
    both = sum(layer.in_features + layer.out_features for layer in shape.linear_layers())

    def more(rank: int, rows: int, devices: int = 2) -> float:
        values = rank * both
        needs = [
            ActorNeeds(
                load_config(None, ["method=dlora", f"privacy.mechanism={mechanism}", f"method.rank={rank}",
                                   f"method.batch_rows={rows}"]),
                shape, values, adapters=1, tasks=3, row=8.0, asked_row=8.0, longest=9, adapted_values=0,
                neighbours=0.0,
            ).merged_mb(devices)
            for mechanism in ("examples", "none")
        ]  # fmt: skip
        return needs[0] - needs[1] - 4 * devices * values / 2**20

    one = 5 * 4 * 3 * both / 2**20
    assert more(1, 1) == more(1, 64) == max(one, 5 * 4 * 4)
    assert abs(more(8, 1) - 8 * one) < 1e-6 * one


def test_what_is_heard_is_counted_once_in_a_run_at_a_server_and_in_every_actor_elsewhere():
    shape = published_model("Qwen/Qwen2.5-1.5B").shape  # type: ignore[union-attr]

    def needs(method: str, neighbours: int) -> ActorNeeds:
        config = load_config(None, [f"method={method}", "devices.count=4000", "method.batch_rows=1"])
        return ActorNeeds(config, shape, 2**20, adapters=1, tasks=3, row=8.0, asked_row=8.0, longest=9,
                          adapted_values=0, neighbours=4.0, most_neighbours=neighbours)  # fmt: skip

    for devices in (1000, 4000):
        fedsrd = needs("fedsrd", 3)
        assert fedsrd.working_mb + fedsrd.merged_mb(devices) == 4 * 2 * devices
        dlora = needs("dlora", 3999)
        assert dlora.working_mb + dlora.merged_mb(devices) == 4 * 3999
    assert needs("dlora", 4).merged_mb(1000) == 0.0
