"""From a YAML file, a preset or nothing, plus overrides, to a checked `Config`, and back to YAML."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dfl_ray.config import problems
from dfl_ray.config.check import check_values
from dfl_ray.config.describe import describe
from dfl_ray.config.overrides import apply_overrides, parse_override
from dfl_ray.config.presets import DEFAULT_PRESET, preset_names, preset_text
from dfl_ray.config.schema import Config
from dfl_ray.config.switching import switch_types
from dfl_ray.config.yamlio import Document, Lines, YAMLError, dump, place_and_reason, read
from dfl_ray.errors import InputError, nearest

LONGEST_NAME = 255
"""Most characters of a file's name on usual file systems."""


def load_config(
    source: str | Path | None = None,
    overrides: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    say: Callable[[str], None] = lambda _text: None,
) -> Config:
    """Load a configuration: source -> overrides -> schema -> checks across sections.

    An override that gives `method`, `topology`, `devices.placement` or `devices.partition` another type drops the keys
    of the source's section that belong to the old type; see `dfl_ray.config.switching`.

    Args:
        source: A preset's name, the path of a YAML file, or None for the preset `default`. A preset's name
            wins over a file of the same name; write `./name` for the file.
        overrides: Texts `a.b=c`, the value read as YAML (`5e-3`, `[a, b]`, `null`, `true`), one text, or a mapping of
            keys to values (`{"method.rank": 4}`).
        say: Is told, in a sentence, which keys a switched type has dropped.

    Returns:
        The frozen configuration. Whether the files it names exist is asked by `check.check_inputs`.

    Raises:
        InputError: Missing or broken file, unknown key, wrong type or range; all problems in one message.

    Example:
        >>> load_config(None, ["method=dlora", "method.rank=4"]).method.rank
        4
    """
    document, label = _read_source(source)
    overrides = override_texts(overrides)
    if overrides:
        label += (
            " with "
            + ", ".join(f"`{text}`" for text in overrides[:4])
            + (", …" if len(overrides) > 4 else "")
        )
    # A key that an override has set does not stand in the file with that value.
    replaced = [parse_override(text)[0] for text in overrides]
    lines = {
        key: line
        for key, line in document.lines.items()
        if not any(key[: len(path)] == path or path[: len(key)] == key for path in replaced)
    }
    data, notes = switch_types(document.data, overrides)
    for note in notes:
        say(note)
    return from_data(apply_overrides(data, overrides), label, lines)


def override_texts(overrides: str | Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Overrides in whatever form as texts `key=value`.

    Args:
        overrides: One text, several, or a mapping of dotted keys to values, which are quoted where YAML would read
            them otherwise, such as the folder `x #1`.

    Returns:
        The texts.

    Raises:
        InputError: They are neither texts nor a mapping, or a value is no plain data.
    """
    if isinstance(overrides, Mapping):
        return [f"{key}={_value_text(str(key), value)}" for key, value in overrides.items()]
    texts = [overrides] if isinstance(overrides, str) else overrides
    texts = list(texts) if isinstance(texts, Iterable) else [texts]
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise InputError(
            "An override is no text",
            got=f"{type(wrong[0]).__name__} {str(wrong[0])[:60]}",
            expected='texts such as "method.rank=4", or a mapping of keys to values',
            change='Give load_config(SOURCE, ["key=value"]).',
        )
    return texts


def _value_text(key: str, value: Any) -> str:
    try:
        return dump(_plain(value), flow=True, width=10_000)
    except YAMLError:
        raise InputError(
            f"The value of the override `{key}` is no plain data",
            got=f"{type(value).__name__} {str(value)[:60]}",
            expected="a number, text, true, false, None, a path, an array, or lists and mappings of them",
            change="Give it as one of these.",
        ) from None


def _plain(value: Any) -> Any:
    """A value with paths as texts and arrays and numbers of numpy's kind as lists and numbers, all the way down."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value.tolist() if hasattr(value, "tolist") else value


def from_data(
    data: Mapping[str, Any], label: str = "configuration", lines: Lines = types.MappingProxyType({})
) -> Config:
    """Validate plain data, as YAML gives it, into a `Config`.

    Types are strict: text is no number, true is no 1. Missing `type` keys of sections get their default.

    Args:
        data: Plain data.
        label: Where the data comes from, for errors.
        lines: Line of each key in its file, for errors; keys that are not in it are named without a line.

    Returns:
        The configuration, sound in every key and between keys; files are not looked at.

    Raises:
        InputError: See `load_config`.
    """
    data = apply_overrides(data, ())
    for name in ("method", "topology"):
        section = data.get(name)
        if isinstance(section, dict):
            data[name] = {
                "type": Config.model_fields[name].get_default(call_default_factory=True).type,
                **section,
            }
    try:
        # Strict validation takes lists for tuples only from JSON.
        config = Config.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise problems.as_error(problems.of_validation(error, Config, data, lines), label) from None
    found = check_values(config)
    if found:
        raise problems.as_error(found, label)
    return config


def resolved_yaml(config: Config) -> str:
    """Write every key of a configuration as commented YAML that `load_config` reads back to an equal one."""
    return describe(config)


def _read_source(source: str | Path | None) -> tuple[Document, str]:
    """Read a preset or YAML file as a mapping of plain data with the lines of its keys.

    Returns:
        The document, and words that say where it comes from.

    Raises:
        InputError: No such preset or file, not YAML, or its top level is not a mapping.
    """
    if not isinstance(source, str | Path | None):
        raise _no_source(f"{type(source).__name__} {str(source)[:60]}")
    name = str(source) if source is not None else DEFAULT_PRESET
    if name in preset_names():
        return _mapping(preset_text(name), f"preset `{name}`"), f"preset `{name}`"
    path = Path(name).expanduser()
    if len(path.name) > LONGEST_NAME or "\n" in name:
        raise _no_source(f"the text {name[:60]!r}…")
    if path.is_dir():
        raise InputError(f"The configuration `{name}` is a folder", expected="a preset's name or a YAML file")
    if not path.is_file():
        _refuse_missing(name, path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"The configuration file `{name}` is not UTF-8",
            got=f"byte 0x{error.object[error.start]:02x} in line {line}",
            expected="text in UTF-8",
            change="Save it as UTF-8, or convert it with iconv.",
        ) from None
    except OSError as error:
        raise InputError(
            f"The configuration file `{name}` cannot be read",
            got=str(error),
            expected="a readable text file in UTF-8",
        ) from None
    return _mapping(text, f"file `{name}`"), f"file `{name}`"


def _no_source(got: str) -> InputError:
    """Make the error for what is neither a preset's name nor a path; the caller raises it."""
    return InputError(
        "A configuration is loaded from a preset or a file",
        got=got,
        expected="a preset's name, the path of a YAML file, or None",
        change="Write YAML into a file. Keys and values come second: load_config(None, {...}). A Config is loaded.",
    )


def _refuse_missing(name: str, path: Path) -> None:
    if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
        here = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = f" In that folder: {', '.join(sorted(here)[:5])}." if here else ""
        raise InputError(
            f"There is no configuration file `{name}`",
            expected="a YAML file or a preset's name",
            change=hint.strip(),
        )
    raise InputError(
        f"There is no preset and no file `{name}`",
        expected=nearest(name, preset_names()),
        change="`dfl-ray presets` lists the presets.",
    )


def _mapping(text: str, label: str) -> Document:
    try:
        document = read(text)
    except YAMLError as error:
        place, reason = place_and_reason(error)
        raise InputError(
            f"The {label} is not YAML{place}", got=reason, expected="a mapping of keys"
        ) from None
    data = document.data
    if data is None:
        return Document({})
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        kind = {list: "a list", str: "text"}.get(type(data), type(data).__name__)
        raise InputError(
            f"The {label} is not a configuration",
            got=f"{kind} at the top level",
            expected="a mapping of keys",
        )
    return document
