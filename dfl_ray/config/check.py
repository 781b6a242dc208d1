"""Checks across sections, which one field's type cannot hold.

`check_values` needs nothing but the configuration and runs with every load. `check_inputs` asks the file
system for what the configuration names, and runs before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from channels.registry import check_options
from dfl_ray.config.asynchronous import asynchronous_problems
from dfl_ray.config.class_table import class_problems
from dfl_ray.config.faults import fault_problems, mixing_problems
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.option_files import option_files
from dfl_ray.config.privacy import privacy_problems
from dfl_ray.config.problems import Problem, as_error
from dfl_ray.config.radio import radio_problems
from dfl_ray.config.schema import Config
from dfl_ray.config.settings import hub_problems, skew_problems, task_problems
from dfl_ray.config.variates import variates_problems
from dfl_ray.config.warm_start import missing_warm_start, warm_start_problems
from dfl_ray.errors import InputError, nearest
from dfl_ray.experts.table import RULES
from dfl_ray.methods.spec import method_spec
from dfl_ray.tasks.sources import TASK_SOURCES
from dfl_ray.tracking.table import TRACKERS

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")

LONGEST_M = 1e7
"""Longest side of the area; half of the Earth's circumference is 2e7 m."""

Choice = tuple[str, str, str, str]
_FILES: tuple[Choice, ...] = (
    # key that chooses, the value that reads the path, key of the path, what the file holds
    ("tasks.source", "files", "tasks.path", "the folder with <task>/train.jsonl and <task>/test.jsonl"),
)


def check_values(config: Config) -> list[Problem]:
    """Find contradictions between keys.

    Args:
        config: A configuration whose types and ranges are right.

    Returns:
        One problem for each; empty for a sound configuration.
    """
    checks: tuple[Callable[[Config], Iterable[Problem]], ...] = (
        _name,
        _area,
        lambda c: radio_problems(c.radio, c.devices.count),
        lambda c: class_problems(c.devices.classes, c.devices.class_figures),
        _options,
        _unread_paths,
        task_problems,
        _names,
        _pruning,
        hub_problems,
        skew_problems,
        _rules,
        _templates,
        lambda c: warm_start_problems(c.model, c.method),
        lambda c: fault_problems(c.devices.faults, c.method),
        lambda c: mixing_problems(c.method),
        asynchronous_problems,
        variates_problems,
        lambda c: privacy_problems(c.privacy, c.method, c.topology),
    )
    return [problem for check in checks for problem in check(config)]


def check_inputs(config: Config, *, planned: bool = False) -> None:
    """Refuse a configuration whose files are missing: tasks, placement, traces, graph, model, adapter.

    Args:
        config: The whole configuration.
        planned: Only a plan is asked for, which needs of a model no more than its configuration.

    Raises:
        InputError: All that is missing, in one message.
    """
    found = [problem for row in _FILES for problem in _missing_path(config, row)]
    found += _missing_option_files(config)
    found += _unnamed_model(config)
    found += missing_warm_start(config.model)
    try:
        _check_model(config, planned)
    except InputError as error:
        found.append(Problem(error.what, error.got, error.expected, error.change))
    if found:
        raise as_error(found, "checked before anything is started")


def value_at(config: Config, dotted: str) -> object:
    """The value of one key, e.g. `value_at(config, "devices.count")`."""
    value: object = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _name(config: Config) -> Iterable[Problem]:
    if config.name is not None and not _FOLDER_NAME.fullmatch(config.name):
        yield Problem(
            "`name` cannot be a folder's name",
            got=config.name,
            expected="letters, digits and . _ = + - only, a letter or digit first",
        )


def _area(config: Config) -> Iterable[Problem]:
    if not all(0 < side <= LONGEST_M for side in config.devices.area_m):
        yield Problem(
            "`devices.area_m` is no area",
            got=str(list(config.devices.area_m)),
            expected=f"width and height above 0 and at most {LONGEST_M:g} m",
        )


def _options(config: Config) -> Iterable[Problem]:
    """Options of task sources and trackers, which only their own signatures know."""
    tasks, track = config.tasks, config.track
    if tasks.options:
        yield from _unknown_options(
            "tasks.options",
            f"source of tasks {tasks.source!r}",
            TASK_SOURCES[tasks.source],
            ("tasks", "seed"),
            tasks.options,
        )
    for name, options in track.options.items():
        if name not in track.trackers:
            yield Problem(
                f"`track.options.{name}` is set but nothing would read it",
                expected=f"`{name}` in track.trackers",
            )
        else:
            given = ("track", "name", "say", "verbose")
            yield from _unknown_options(
                f"track.options.{name}", f"tracker {name!r}", TRACKERS[name], given, options
            )


def _unknown_options(
    key: str, what: str, builder: Callable[..., object], given: tuple[str, ...], options: Mapping[str, object]
) -> Iterable[Problem]:
    try:
        check_options(what, builder, given, options)
    except ValueError as error:
        yield Problem(f"`{key}`: {error}")


def _unread_paths(config: Config) -> Iterable[Problem]:
    for chooser, reads, key, _ in _FILES:
        chosen = value_at(config, chooser)
        if value_at(config, key) is not None and chosen != reads:
            yield Problem(
                f"`{key}` is set but nothing would read it",
                got=f"{chooser}: {chosen}",
                expected=f"{chooser}: {reads}",
                change=f"Add {chooser}={reads}, or leave `{key}` out.",
            )


def _missing_path(config: Config, row: Choice) -> Iterable[Problem]:
    chooser, reads, key, holds = row
    if value_at(config, chooser) != reads:
        return
    path = value_at(config, key)
    if path is None:
        yield Problem(
            f"`{chooser}` is `{reads}` but `{key}` is not set", expected=holds, change=f"Add {key}=PATH."
        )
    elif not Path(str(path)).expanduser().exists():
        yield Problem(
            f"`{key}` does not exist", got=str(path), expected=holds, change=f"Say where it lies: {key}=PATH."
        )


def _missing_option_files(config: Config) -> Iterable[Problem]:
    """Files of placement, partition, mobility, availability, classes and graph that are not there."""
    for key, path in option_files(config).items():
        if not Path(path).expanduser().exists():
            mix = ", or the name of a mix of classes" if key == "devices.classes" else ""
            kind = "CSV or YAML file" if mix else "file"
            yield Problem(f"`{key}` does not exist", got=path, expected=f"an existing {kind}{mix}")


def _unnamed_model(config: Config) -> Iterable[Problem]:
    """Text of the user's own needs a model of the user's choice: the embedded one knows only the generated tasks."""
    if config.tasks.source in ("files", "hub") and "name" not in config.model.model_fields_set:
        yield Problem(
            f"`tasks.source` is `{config.tasks.source}` but `model.name` is not set",
            expected="a local folder or a hub id of a causal language model",
            change="Add model.name=PATH. The embedded model's word list knows only the generated tasks; "
            "model.name=embedded is for rows made of its words.",
        )


def _check_model(config: Config, planned: bool) -> None:
    name = config.model.name
    path = Path(name).expanduser()
    if name == "embedded":
        from dfl_ray.models.paths import embedded_path

        try:
            embedded_path()
        except FileNotFoundError as error:
            raise InputError(str(error)) from None
        return
    from dfl_ray.models.gguf_header import check_gguf, is_gguf
    from dfl_ray.models.paths import packaged_file

    file = packaged_file(name) or path
    if is_gguf(file):
        check_gguf(file)
        return
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_like_path or path.exists():
        from dfl_ray.models.folder import check_model_folder

        check_model_folder(path, planned=planned)


def task_names(config: Config) -> tuple[str, ...] | None:
    """Names of the tasks as far as the configuration alone tells; None where the data must be read.

    Args:
        config: The whole configuration; only `tasks` is used.

    Returns:
        `tasks.names`, else the synthetic tasks or the names of the templates of a `hub` source.
    """
    tasks = config.tasks
    if tasks.names is not None:
        return tasks.names
    if tasks.source == "synthetic":
        from dfl_ray.tasks.synthetic import DEFAULT_TASKS

        return DEFAULT_TASKS
    return tuple(tasks.templates) or None if tasks.source == "hub" else None


def check_places(config: Config, names: tuple[str, ...]) -> Iterable[Problem]:
    """Compare the places for tasks on the devices with the tasks there are.

    Args:
        config: The whole configuration; only `devices` is used.
        names: The tasks' names.

    Yields:
        At most one problem; none for partitions other than `balanced` and `one_each`.
    """
    devices, tasks = config.devices, len(names)
    wanted = devices.partition.options()
    if devices.partition.type not in ("balanced", "one_each"):
        return
    each, holders = int(wanted.get("tasks_per_device", 1)), int(wanted["min_holders"])
    if each > tasks:
        yield Problem(
            "`devices.partition.tasks_per_device` is more than there are tasks",
            got=f"{each} for {tasks} tasks ({', '.join(names)})",
            expected=f"at most {tasks}",
            change=f"Set devices.tasks_per_device={tasks}, or name more tasks.",
        )
    elif devices.count * each < tasks * holders:
        yield Problem(
            "`devices.partition.min_holders` cannot be met",
            got=f"{devices.count} devices with {each} tasks each, for {tasks} tasks of {holders} holders",
            expected=f"at least {tasks * holders} places in all",
            change="Raise devices.count or devices.tasks_per_device, or lower devices.min_holders.",
        )


def _names(config: Config) -> Iterable[Problem]:
    names = task_names(config)
    if names is None:
        return
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        got = "an empty list" if not names else "twice: " + ", ".join(twice)
        yield Problem("`tasks.names` must name each task once", got=got, expected="different names, or null")
        return
    if config.tasks.source == "synthetic":
        from dfl_ray.tasks.synthetic import ALL_TASKS

        for name in names:
            if name not in ALL_TASKS:
                yield Problem(
                    "`tasks.names` names an unknown generated task",
                    got=name,
                    expected=nearest(name, ALL_TASKS),
                    change="For tasks of your own set tasks.source=files and tasks.path=PATH.",
                )
    yield from check_places(config, names)


def _pruning(config: Config) -> Iterable[Problem]:
    method = config.method
    if not isinstance(method, SparseOrthogonalConfig):
        return
    if method.projection == "per_device" and method.a_exchange == "send":
        yield Problem(
            "`method.a_exchange` is `send`, but under `method.projection: per_device` each device has an A of its own",
            got="a_exchange: send",
            expected="a_exchange: seed, by which receivers draw the sender's A",
        )
    if method.prune_start > method.prune_end:
        yield Problem(
            "`method.prune_start` is after `method.prune_end`",
            got=f"{method.prune_start} and {method.prune_end}",
            expected="shares of the rounds with start <= end",
        )
    if method.budget == "effective_rank" and method.budget_min > method.density:
        yield Problem(
            "`method.budget_min` is above `method.density`",
            got=f"{method.budget_min} and {method.density}",
            expected="a least density of one layer that is at most the density of all",
        )


def _rules(config: Config) -> Iterable[Problem]:
    spec, kind = method_spec(config.method), value_at(config, "method.type")
    # Rules of installed packages are for all methods with an expert a task.
    more = tuple(name for name in RULES if name not in RULES.own) if spec.per_task else ()
    known = (*spec.rules, *more)
    for rule in config.evaluate.rules or ():
        if len(known) < 2:
            expected = f"null: `{kind}` has one model and no rules"
            yield Problem("`evaluate.rules` names an unknown inference rule", got=rule, expected=expected)
        elif rule != "all" and rule not in known:
            yield Problem(
                "`evaluate.rules` names an unknown inference rule", got=rule, expected=nearest(rule, known)
            )
        elif rule in more:
            yield from _not_usable("evaluate.rules", rule)


def _not_usable(key: str, rule: str) -> Iterable[Problem]:
    try:
        RULES[rule]
    except ValueError as error:
        yield Problem(f"`{key}`: {error}")


def _templates(config: Config) -> Iterable[Problem]:
    tasks = config.tasks
    if tasks.templates and tasks.source != "hub":
        yield Problem(
            "`tasks.templates` is set but nothing would read it",
            got=f"tasks.source: {tasks.source}",
            expected="tasks.source: hub",
        )
    if tasks.source == "hub":
        from dfl_ray.tasks.ready import READY

        for name in task_names(config) or ():
            if name not in READY and name not in tasks.templates:
                yield Problem(
                    f"The task `{name}` has no prompt template",
                    expected=nearest(name, [*READY, *tasks.templates]),
                    change=f"Name a ready one, or add `tasks.templates.{name}`: dataset, prompt, answer.",
                )
