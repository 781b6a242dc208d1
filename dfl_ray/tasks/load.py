"""The run's tasks from whichever source the configuration names."""

from __future__ import annotations

from dfl_ray.config.schema import Config, TasksConfig
from dfl_ray.errors import InputError, first_line
from dfl_ray.tasks.assemble import LoadedTasks
from dfl_ray.tasks.checked import check_names, check_splits, checked_tasks, with_names
from dfl_ray.tasks.cuts import with_used_rows
from dfl_ray.tasks.data import Task
from dfl_ray.tasks.scoring import check_score_names
from dfl_ray.tasks.sources import TASK_SOURCES


def load_tasks(config: Config) -> list[Task]:
    """The tasks of a run, in the order of `tasks.names`; see `read_tasks` for what was left out.

    Raises:
        InputError: See `read_tasks`.
    """
    return list(read_tasks(config).tasks)


def read_tasks(config: Config) -> LoadedTasks:
    """Read or generate the tasks of a run.

    Args:
        config: The whole configuration; `tasks` and, for generated tasks, `seed` are used.

    Returns:
        The tasks with the counts of rows left out; `.notes` says them in words.

    Raises:
        InputError: The data are not there or not usable, the source gives something else than tasks, or the devices
            hold more tasks than there are.
    """
    loaded = checked_tasks(_made(config), config.tasks.source)
    check_names(tuple(task.name for task in loaded.tasks))
    loaded = with_used_rows(with_names(loaded, config.tasks), config.tasks)
    check_splits(loaded.tasks)
    check_score_names(config.tasks, tuple(task.name for task in loaded.tasks))
    _check_places(config, loaded.tasks)
    return loaded


def _made(config: Config) -> object:
    """What the source gives; whatever a foreign package does is told with its name."""
    name = config.tasks.source
    try:
        return TASK_SOURCES[name](config.tasks, seed=config.seed, **config.tasks.options)
    except Exception as error:
        if isinstance(error, InputError) or name in TASK_SOURCES.own:
            raise
        raise InputError(
            f"The source of tasks `{name}` failed",
            got=f"{type(error).__name__}: {first_line(error)}",
            change=f"Change tasks.source or tasks.options, or mend the package that has `{name}`.",
        ) from error


def synthetic(tasks: TasksConfig, *, seed: int) -> LoadedTasks:
    """Generate the tasks from the seed.

    Args:
        tasks: The configuration's `tasks`; without names the default tasks are made.
        seed: The run's seed.

    Returns:
        The tasks; nothing is left out.
    """
    from dfl_ray.tasks.synthetic import DEFAULT_TASKS, make_tasks

    names = tasks.names or DEFAULT_TASKS
    made = make_tasks(names, seed=seed, train_rows=tasks.train_rows, test_rows=tasks.test_rows, cue=tasks.cue)
    return LoadedTasks(tuple(made))


def files(tasks: TasksConfig, *, seed: int) -> LoadedTasks:
    """Read the tasks of a folder of the user's. See `files.load_file_tasks`."""
    from dfl_ray.tasks.files import load_file_tasks

    return load_file_tasks(tasks, seed=seed)


def hub(tasks: TasksConfig, *, seed: int) -> LoadedTasks:
    """Read tasks of the Hugging Face hub. See `hub.load_hub_tasks`."""
    from dfl_ray.tasks.hub import load_hub_tasks

    return load_hub_tasks(tasks, seed=seed)


def _check_places(config: Config, tasks: tuple[Task, ...]) -> None:
    """Repeat the check of places against tasks, now that the tasks of a folder are known."""
    from dfl_ray.config.check import check_places
    from dfl_ray.config.problems import as_error

    found = list(check_places(config, tuple(task.name for task in tasks)))
    if found:
        raise as_error(found, f"tasks read from `{config.tasks.source}`")
