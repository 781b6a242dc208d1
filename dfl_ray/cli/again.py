"""`dfl-ray run --resume`: one command line that a batch queue can give again and again."""

from __future__ import annotations

from pathlib import Path

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError


def begun(config: Config) -> Path | int | None:
    """Find out how far the run of a configuration's name has come.

    Args:
        config: The configuration; `name` must be set.

    Returns:
        None if it has not begun, its folder if it is to be gone on with, and exit code 0 if it is done.

    Raises:
        InputError: The configuration has no name.
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
    from dfl_ray.records.info import read_info

    if read_info(folder / "run.json").get("state") != "done":
        return folder
    print(f"{folder} is done already")
    return 0
