"""The `tasks` section: where rows come from, how they become prompt and answer, and how they are scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dfl_ray.config.choices import Choice
from dfl_ray.config.section import Section
from dfl_ray.tasks.rows import template_fields
from dfl_ray.tasks.sources import TASK_SOURCES

Score = Literal["auto", "exact_match", "choice", "generated_match", "f1", "rouge_l"]


class PromptTemplate(Section):
    """How the rows of one `hub` task become prompt and answer."""

    dataset: str = Field(description="datasets id or local folder")
    subset: str | None = Field(default=None, description="configuration name of the dataset")
    prompt: str = Field(description="format string over the row's fields")
    answer: str = Field(description="format string over the row's fields")
    labels: tuple[str, ...] | None = Field(default=None, description="names for numbered labels, in order")
    train_split: str = Field(default="train", description="split to train on")
    test_split: str | None = Field(
        default="test",
        description="split held out; none = the data set has one split, see `tasks.test_share`",
    )


class TaskFields(Section):
    """Where the rows of one `files` task have their prompt and answer, if not where the other tasks have them."""

    prompt: str | None = Field(default=None, description="name of the field with the model's input")
    answer: str | None = Field(default=None, description="name of the field with the answer")
    template: str | None = Field(
        default=None, description="format string that joins fields into the prompt, in place of `prompt`"
    )

    @model_validator(mode="after")
    def _one_way(self) -> TaskFields:
        if self.template is not None:
            if self.prompt is not None:
                raise ValueError("set either `template` or `prompt`, not both")
            check_template(self.template)
        return self


def check_template(template: str) -> None:
    """Refuse a format string that is none, or that names no field.

    Args:
        template: The format string.

    Raises:
        ValueError: It cannot be read, or a part in braces is no field's name with a format that is known.
    """
    try:
        names = template_fields(template)
    except ValueError as error:
        raise ValueError(f"`template` {error}") from None
    if not names:
        raise ValueError(f"`template` must name fields in braces, e.g. {{instruction}}, got {template!r}")


class TasksConfig(Section):
    """What the devices learn and are asked."""

    source: Annotated[str, Choice(TASK_SOURCES)] = Field(
        default="synthetic", description="where rows come from"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of a source of an installed package, by name"
    )
    path: str | None = Field(
        default=None, description="`files`: folder with <task>/train.* and <task>/test.*"
    )
    names: tuple[str, ...] | None = Field(
        default=None, description="tasks to use, in order; none = all found"
    )
    cue: Literal["strong", "weak", "none"] = Field(
        default="strong", description="`synthetic`: how far a prompt betrays its task"
    )
    train_rows: int | None = Field(
        default=None, ge=1, description="at most so many training rows a task, the first"
    )
    test_rows: int | None = Field(
        default=None, ge=1, description="at most so many test rows a task, the first"
    )
    validation_rows: int | None = Field(
        default=None,
        ge=1,
        description="for tuning: ask so many rows, cut from the end of each task's training rows, in place of the "
        "test rows",
    )
    prompt_field: str = Field(
        default="prompt", description="`files`: name of the field with the model's input"
    )
    answer_field: str = Field(default="answer", description="`files`: name of the field with the answer")
    template: str | None = Field(
        default=None,
        description='`files`: format string that joins fields into the prompt, e.g. "{instruction}\\n{input}"; none '
        "= the prompt field alone",
    )
    fields: dict[str, TaskFields] = Field(
        default_factory=dict,
        description="`files`: field names of single tasks, {dolly: {template: '{instruction}', answer: response}}",
    )
    system_prompt: str | None = Field(
        default=None, description="text before every prompt; with a chat template, its system message"
    )
    chat: Literal["off", "auto"] = Field(
        default="off",
        description="`auto`: prompts go through the tokenizer's own chat template where it has one; the loss stays on "
        "the answer",
    )
    test_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="`files` and `hub`: a task without test rows holds out this share of its training rows, drawn by "
        "the seed; none = refuse it",
    )
    score: dict[str, Score] = Field(
        default_factory=dict,
        description="how single tasks are scored, {trec: choice, gsm8k: exact_match}; the others, and `auto`, follow "
        "`evaluate.score`",
    )
    max_choices: int = Field(
        default=32, ge=1, description="a task with at most so many distinct answers may be a closed label set"
    )
    on_bad_rows: Literal["refuse", "skip"] = Field(
        default="refuse", description="refuse the file, or count and skip"
    )
    templates: dict[str, PromptTemplate] = Field(
        default_factory=dict, description="`hub`: prompt template of each task that has no ready one"
    )

    @field_validator("score", mode="before")
    @classmethod
    def _by_task(cls, value: object) -> object:
        if value == "auto":
            return {}
        if isinstance(value, str):
            raise ValueError(
                f"name the tasks, {{trec: {value}}}, or set `evaluate.score: {value}` for all of them"
            )
        return value

    @model_validator(mode="after")
    def _template_is_read(self) -> TasksConfig:
        if self.template is None:
            return self
        if self.source != "files":
            raise ValueError(f"`template` is read with `source: files` only, got `source: {self.source}`")
        if self.prompt_field != "prompt":
            raise ValueError("set either `template` or `prompt_field`, not both")
        check_template(self.template)
        return self
