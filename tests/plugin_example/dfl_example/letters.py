"""`letters`: two generated tasks over a few letters."""

import numpy as np

from dfl_ray.config.schema import TasksConfig
from dfl_ray.tasks.assemble import LoadedTasks, assemble
from dfl_ray.tasks.data import Row


def letters(tasks: TasksConfig, *, seed: int, rows: int = 120) -> LoadedTasks:
    """`first` asks for the first of four letters, `last` for the last one.

    Args:
        tasks: The section `tasks`.
        seed: The run's seed.
        rows: Rows of a task, a quarter of them held out.
    """
    found = []
    for place, name in ((0, "first"), (3, "last")):
        rng = np.random.default_rng([seed, place])
        words = ["".join(rng.permutation(list("abcdef"))[:4]) for _ in range(rows)]
        made = [Row(f"{' '.join(word)} ?", word[place]) for word in dict.fromkeys(words)]
        found.append(assemble(name, made[len(made) // 4 :], made[: len(made) // 4], tasks).task)
    return LoadedTasks(tuple(found))
