"""What `benchmarks.growth` varies, and what it holds while it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scaling import place

LIGHT = (
    "seed=0", "rounds=2", "devices.partition.tasks_per_device=1", "devices.partition.min_holders=2",
    "tasks.names=[topic,review,lookup,agree]", "method.rank=2", "method.local_steps=1", "method.batch_rows=2",
    "method.exchange_every=1", "evaluate.rows_per_task=1", "evaluate.every=1000", "checkpoint.every=1",
    "checkpoint.keep=1", "runtime.backend=local", "runtime.report=false", "track.trackers=[]",
)  # fmt: skip
"""Every run: two rounds of one step of two rows, one of four tasks a device, messages, records and a checkpoint in
every round, an evaluation before the first and after the last; one process, one thread."""
EXPERTS = ("method=sparse_orthogonal", "method.replicas_every=1", "evaluate.rules=[likelihood]")
"""The project's own method, an expert a task and replicas of the others, in every round."""
WHOLE = ("method=dlora",)
"""One adapter a device, sent whole over all links."""
HEAD = 16
"""Width of an attention head of the models that are made, as of the embedded one."""


@dataclass(frozen=True)
class Dimension:
    """One figure that is varied.

    Attributes:
        title: What it is, as the title of a chart's horizontal axis.
        values: What it is set to.
        tiny: The same for a run of seconds.
        words: (value, folder for files) -> settings `key=value`.
        small: Settings that make a run small, to load all code before it is measured.
        alone: Whether the network and the radio alone are measured.
        bars: Part or count -> largest slope wanted; `every` holds for all parts that are not named.
        x: What the slope is taken over: the value, or the name of a count.
    """

    title: str
    values: tuple[int, ...]
    tiny: tuple[int, ...]
    words: Callable[[int, Path], Sequence[str]]
    small: tuple[str, ...] = ("rounds=1",)
    alone: bool = False
    bars: tuple[tuple[str, float], ...] = ()
    x: str = "value"

    def bar(self, part: str) -> float | None:
        """The largest slope wanted of a part or count; None where nothing is wanted."""
        bars = dict(self.bars)
        return bars.get(part, bars.get("every"))


def _devices(count: int, _folder: Path) -> list[str]:
    return [*LIGHT, *EXPERTS, *place(count)]


def _radio(count: int, _folder: Path) -> list[str]:
    words = [w for w in (*LIGHT, *WHOLE, *place(count)) if not w.startswith("tasks.train_rows")]
    return [*words, "tasks.train_rows=2000", "topology.type=k_nearest", "topology.degree=3", "rounds=1"]


def _clusters(count: int, _folder: Path) -> list[str]:
    words = [w for w in _devices(count, _folder) if not w.startswith("tasks.train_rows")]
    return [*words, "tasks.train_rows=2000", "rounds=1"]


def _links(degree: int, _folder: Path) -> list[str]:
    return [*LIGHT, *WHOLE, *place(200), "topology.type=k_nearest", f"topology.degree={degree}"]


def _rounds(rounds: int, _folder: Path) -> list[str]:
    return [*LIGHT, *EXPERTS, *place(10), f"rounds={rounds}", "evaluate.every=10"]


def _tasks(tasks: int, folder: Path) -> list[str]:
    names = write_tasks(folder, tasks)
    return [
        *LIGHT,
        *EXPERTS,
        *place(64),
        "tasks.source=files",
        f"tasks.path={folder}",
        f"tasks.names=[{','.join(names)}]",
    ]


def _rank(rank: int, folder: Path) -> list[str]:
    model = write_model(folder, 256)
    return [*LIGHT, *EXPERTS, *place(24), f"model.name={model}", f"method.rank={rank}"]


def _width(width: int, folder: Path) -> list[str]:
    model = write_model(folder, width)
    return [*LIGHT, *EXPERTS, *place(12), f"model.name={model}", "method.rank=4"]


FEW = ("rounds=1", "devices.count=24", "devices.area_m=[465,465]")
DEVICES = (("every", 1.05),)
DIMENSIONS = {
    "devices": Dimension(
        "devices", (10, 32, 100, 316, 1000, 3162, 10000), (8, 12, 16), _devices, FEW, bars=DEVICES,
    ),
    "radio": Dimension(
        "devices, network and radio alone", (1000, 3162, 10000, 31623, 100000), (20, 30, 40), _radio, FEW,
        alone=True, bars=DEVICES,
    ),
    "clusters": Dimension(
        "devices, clustered network and radio alone", (1000, 3162, 10000, 31623, 100000), (20, 30, 40), _clusters, FEW,
        alone=True, bars=DEVICES,
    ),
    "links": Dimension("links of 200 devices", (2, 4, 8, 16, 32), (2, 3, 4), _links, FEW, x="links"),
    "rounds": Dimension(
        "rounds of 10 devices", (10, 100, 316, 1000), (2, 3, 4), _rounds,
        bars=(("every", 1.05), ("checkpoint bytes", 0.05), ("state bytes", 0.05)),
    ),
    "tasks": Dimension("tasks of 64 devices", (2, 4, 8, 16, 32), (2, 3, 4), _tasks),
    "rank": Dimension("rank", (4, 8, 16, 32, 64), (2, 3, 4), _rank),
    "width": Dimension("model width", (64, 128, 256, 512), (32, 48, 64), _width),
}  # fmt: skip
"""Name on the command line -> what is varied."""


def write_tasks(folder: Path, tasks: int) -> list[str]:
    """Write tasks as files: the rows of one generated task, once for each.

    Args:
        folder: Where.
        tasks: How many.

    Returns:
        Their names.
    """
    from dfl_ray.tasks.synthetic.suite import make_tasks

    (made,) = make_tasks(["topic"], seed=0, train_rows=200, test_rows=40)
    names = [f"task{number:02d}" for number in range(tasks)]
    for name in names:
        (folder / name).mkdir(parents=True)
        for split, rows in (("train", made.train), ("test", made.test)):
            lines = (json.dumps({"prompt": row.prompt, "answer": row.answer}) for row in rows)
            (folder / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return names


def write_model(folder: Path, width: int) -> Path:
    """Write a model of random weights: the embedded one's four blocks and tokenizer, of another width.

    Args:
        folder: Where.
        width: Width d, a multiple of `HEAD`; the MLP has 2 d.

    Returns:
        Its folder.
    """
    from dfl_ray.models.make_embedded import Recipe, make_model, make_tokenizer

    out = folder / "model"
    recipe = Recipe(hidden_size=width, intermediate_size=2 * width, heads=width // HEAD)
    make_model(recipe, 0).save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    return out
