"""What an actor needs in memory, from the sizes of a run."""

from __future__ import annotations

from dfl_ray.config.load import load_config
from dfl_ray.models.published_shapes import published_model
from dfl_ray.packing.needs import ActorNeeds


def test_all_rows_need_as_much_as_many():
    shape = published_model("Qwen/Qwen2.5-1.5B").shape  # type: ignore[union-attr]

    def needs(asked: str) -> float:
        words = ["method=dlora", "method.batch_rows=1", "method.rank=2", "devices.count=3", "model.dtype=float32",
                 "devices.partition.min_holders=1", f"evaluate.rows_per_task={asked}"]  # fmt: skip
        config = load_config(None, words)
        return ActorNeeds(config, shape, 1000, adapters=1, tasks=3, row=8.0, asked_row=8.0, longest=9,
                          adapted_values=0, neighbours=0.0).working_mb  # fmt: skip

    assert needs("null") == needs("100000") > needs("1")
