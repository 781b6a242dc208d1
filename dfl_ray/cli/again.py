"""`dfl-ray run --resume`: one command line that a batch queue can give again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError


class Begun(NamedTuple):
    """A run that has begun: its folder, and with what it is gone on with; `overrides` None where it is done."""

    folder: Path
    overrides: list[str] | None


def begun(config: Config, words: Sequence[str]) -> Begun | None:
    """Find out how far the run of a configuration's name has come.

    Args:
        config: The configuration; `name` must be set.
        words: The words it was made of, a file among them. What the configuration says of how a run is run (`runtime`,
            `track` and the like) holds from now on; where the words name no file or preset and say no more than that,
            the run's name and its rounds, the run is taken as it is, and they alone hold.

    Returns:
        None if it has not begun. More rounds than it has lengthen it; fewer leave it as long as it is.

    Raises:
        InputError: The configuration has no name, or the run of that name is another experiment.
    """
    from dfl_ray.records.remote import fetched, is_remote, runs_at

    if config.name is None:
        raise InputError(
            "`--resume` needs a `name`",
            got="none, which gives every run another folder",
            change="Add name=NAME.",
        )
    if is_remote(config.runtime.runs_dir):
        if config.name not in runs_at(config.runtime.runs_dir):
            return None
        folder = fetched(f"{config.runtime.runs_dir.rstrip('/')}/{config.name}", whole=True)
    else:
        folder = Path(config.runtime.runs_dir) / config.name
    if not (folder / "run.json").is_file():
        return None
    from dfl_ray.config.changeable import MAY_CHANGE
    from dfl_ray.records.folder_checks import check_run_folder
    from dfl_ray.simulation.lengthen import as_given
    from dfl_ray.simulation.resuming import done_already, own_config

    own = own_config(folder)
    named = {_section(word) for word in words}
    # Words that say nothing of the experiment name the run that is there; one without `=` is a file or preset.
    alone = all("=" in word for word in words) and named <= {"name", *MAY_CHANGE}
    if alone:
        now = [word for word in words if _section(word) not in ("name", "rounds")]
    else:
        now = as_given(own, config, folder)
    longer = config.rounds > own.rounds and ("rounds" in named or not alone)
    now = [word for word in now if not word.startswith("runtime.runs_dir=")]
    if check_run_folder(folder).get("state") == "done" and not longer:
        print(done_already(folder, now))
        return Begun(folder, None)
    return Begun(folder, [*([f"rounds={config.rounds}"] if longer else []), *now])


def _section(word: str) -> str:
    """The section, or the key at the top, that an override `section.key=value` sets."""
    return word.partition("=")[0].partition(".")[0]
