"""Where a run is written, and the copy of it that a URL in `runtime.runs_dir` asks for (`records.remote`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, resume_line
from dfl_ray.records import RunFolder
from dfl_ray.records.remote import is_remote, known_copy, runs_at, working_copy, working_folder


def local_runs(config: Config) -> str | Path:
    """Find the folder in which a new run is written.

    Args:
        config: The experiment.

    Returns:
        `runtime.runs_dir`, or where that is a URL the folder in which its runs are worked on.

    Raises:
        InputError: The URL cannot be asked, or a run of that name is there.
    """
    url = config.runtime.runs_dir
    if not is_remote(url):
        return url
    there = runs_at(url)
    if config.name in there:
        found = f"{url.rstrip('/')}/{config.name}"
        raise InputError(
            f"The run {found} exists",
            expected="a name that no run there has",
            change=f"Go on with it by `{resume_line(found)}`, or give another `name=...`.",
        )
    return working_folder(url)


def mirrored(folder: RunFolder) -> RunFolder:
    """Give a run folder its copy, if it is the working folder of a URL.

    Args:
        folder: The run folder.

    Returns:
        The folder with its copy, or itself.
    """
    url = working_copy(folder.path)
    return folder if url is None else replace(folder, mirror=known_copy(folder.path, url))


def copy_out(folder: RunFolder, say: Callable[[str], None] = lambda _text: None) -> None:
    """Bring the copy of a run folder up to date; nothing for one without.

    Args:
        folder: The run folder.
        say: Told where the copy is.

    Raises:
        RunError: It cannot be written.
    """
    if folder.mirror is not None:
        folder.mirror.push()
        say(f"Copy: {folder.mirror.url}")
