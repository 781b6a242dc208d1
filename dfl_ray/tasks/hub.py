"""Tasks from the Hugging Face `datasets` library: ready templates, or the user's own in `tasks.templates`.

The tests read local folders through the same `load_dataset` call; the ready templates are tested on records
written by hand after the datasets' cards, not against the hub itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from dfl_ray.config.tasks import PromptTemplate, TasksConfig
from dfl_ray.errors import InputError, nearest
from dfl_ray.models.hub import check_hub
from dfl_ray.tasks.assemble import LoadedTasks, assemble_all
from dfl_ray.tasks.data import Row
from dfl_ray.tasks.ready import READY
from dfl_ray.tasks.rows import BadRow, RowTable, is_missing, refuse_bad_rows, row_of, template_fields
from dfl_ray.tasks.splitting import split_rows
from dfl_ray.tasks.templates import Fields, Template, pick


def load_hub_tasks(config: TasksConfig, *, seed: int = 0) -> LoadedTasks:
    """Load the tasks of `config.names` (none = all of `config.templates`).

    A template of the user's wins over the ready one of the same name.

    Args:
        config: The configuration's `tasks` with `source: hub`.
        seed: The run's seed, for rows held out of a data set that has one split only.

    Returns:
        The tasks in the order of their names, with what was skipped.

    Raises:
        InputError: No tasks named, no template, `datasets` not installed, a dataset or field that is not
            there, or bad rows unless `config.on_bad_rows` is `skip`.
    """
    names = config.names or tuple(config.templates)
    if not names:
        raise InputError(
            "`tasks.names` is empty", expected="ready ones: " + ", ".join(READY), change="Add tasks.names."
        )
    templates = {name: template_of(name, config) for name in names}
    tables: dict[str, tuple[RowTable, RowTable]] = {}
    remarks: list[str] = []
    for name, t in templates.items():
        train = _table(name, t, t.train_split)
        if t.test_split is None:
            made = split_rows(name, train, _share(name, config), seed)
            tables[name], remarks = (made.train, made.test), [*remarks, made.remark]
        else:
            tables[name] = (train, _table(name, t, t.test_split))
    if config.on_bad_rows == "refuse":
        refuse_bad_rows([table for pair in tables.values() for table in pair])
    return assemble_all(tables, config, remarks)


def _share(name: str, config: TasksConfig) -> float:
    if config.test_share is None:
        raise InputError(
            f"The dataset of task `{name}` has no test split",
            expected="a share of its training rows to hold out",
            change="Set tasks.test_share=0.1.",
        )
    return config.test_share


def template_of(name: str, config: TasksConfig) -> Template:
    """The user's template of a task, else the ready one.

    Args:
        name: The task's name.
        config: The configuration's `tasks`.

    Returns:
        The template.

    Raises:
        InputError: There is neither, or the user's names a field in a way that is not understood.
    """
    if name in config.templates:
        return own_template(name, config.templates[name])
    if name not in READY:
        raise InputError(
            f"The task `{name}` has no prompt template",
            expected=nearest(name, [*READY, *config.templates]),
            change=f"Add tasks.templates.{name} with dataset, prompt and answer.",
        )
    return READY[name]


def own_template(name: str, own: PromptTemplate) -> Template:
    r"""Turn the user's format strings into a template.

    The format strings name fields in braces, `"Question: {question}\nAnswer:"`. With `labels`, a whole number
    (or true and false) in `answer` stands for the label of that number; see `_labelled`.

    Args:
        name: The task's name, for messages.
        own: The configuration's entry.

    Returns:
        The template.

    Raises:
        InputError: A format string that is not understood.
    """
    read: dict[str, tuple[str, ...]] = {}
    for key in ("prompt", "answer"):
        try:
            read[key] = template_fields(getattr(own, key))
        except ValueError as error:
            raise InputError(f"`tasks.templates.{name}.{key}` {error}") from None
    fields = tuple(dict.fromkeys((*read["prompt"], *read["answer"])))
    make = _maker(own, read["answer"])
    return Template(own.dataset, own.subset, own.train_split, own.test_split, make, fields)


def _maker(own: PromptTemplate, answer_fields: Sequence[str]) -> Callable[[Fields], Row]:
    def make(record: Fields) -> Row:
        named: Mapping[str, Any] = record
        if own.labels is not None:
            alone = len(answer_fields) == 1
            named = {
                **record,
                **{k: _labelled(own.labels, k, record[k], alone=alone) for k in answer_fields},
            }
        return Row(own.prompt.format_map(record), own.answer.format_map(named))

    return make


def _labelled(labels: tuple[str, ...], field: str, value: Any, *, alone: bool) -> Any:
    """The label that a value of an answer stands for: of its number, whole or as text, or the label itself.

    Beside other fields of an answer (`alone` is false) only numbers stand for labels, since others may be free text.

    Raises:
        ValueError: It stands for none.
    """
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return pick(labels, int(value))
    if not alone:
        return value
    if isinstance(value, str):
        text = value.strip()
        if text in labels:
            return text
        if text.isdecimal():
            return pick(labels, int(text))
    raise ValueError(
        f"field `{field}` is {value!r}, neither a number of 0 to {len(labels) - 1} nor one of `labels`"
    )


def _table(name: str, template: Template, split: str) -> RowTable:
    records = _records(name, template, split)
    rows, bad = [], []
    for number, record in enumerate(records, 1):
        row = _row(template, record)
        if isinstance(row, Row):
            rows.append(row)
        else:
            bad.append(BadRow(f"row {number}", row))
    return RowTable(f"{template.dataset} ({split})", tuple(rows), tuple(bad))


def _row(template: Template, record: Fields) -> Row | str:
    empty = [name for name in template.fields if is_missing(record.get(name))]
    if empty:
        return f"field `{empty[0]}` is empty"
    try:
        made = template.row(record)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        return str(error) or type(error).__name__
    return row_of({"prompt": made.prompt, "answer": made.answer}, "prompt", "answer")


def _records(name: str, template: Template, split: str) -> Iterable[Fields]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            "tasks.source is `hub` but the library `datasets` is not installed",
            change="Install it: `pip install 'dfl-ray[hub]'`",
        ) from None
    prepared = Path(cast(Any, datasets).config.HF_DATASETS_CACHE) / template.dataset.replace("/", "___")
    check_hub(template.dataset, asked_by=f"tasks.templates.{name}.dataset", kind="dataset", prepared=prepared)
    try:
        table = datasets.load_dataset(template.dataset, template.subset, split=split)
    except Exception as error:
        # The library raises many unrelated classes: its own, the hub client's, of HTTP, of pyarrow.
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise InputError(
            f"The dataset `{template.dataset}` of task `{name}` cannot be loaded (split `{split}`)",
            got=f"{type(error).__name__}: {reason}",
            expected="a datasets id that can be reached from here, or a local folder",
        ) from None
    missing = [field for field in template.fields if field not in table.column_names]
    if missing:
        raise InputError(
            f"The dataset `{template.dataset}` of task `{name}` has no field `{missing[0]}`",
            expected=nearest(missing[0], table.column_names),
        )
    return cast("Iterable[Fields]", table)
