"""`dfl-ray completion SHELL`: a script by which the shell completes commands, options, presets and keys."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from dfl_ray.cli.common import Command, add_common

SHELLS = ("bash", "zsh")
_FOLDERS = ("run", "runs", "folder", "out")
_FILES = ("output",)

_BASH = """
_dfl_ray_words() { compgen -W "%(words)s" -- "$1"; compgen -f -- "$1"; }
"""
_BASH_END = """
# A key that is complete but for its value is not followed by a blank.
_dfl_ray_complete() {
  _shtab_dfl_ray "$@"
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o filenames -F _dfl_ray_complete dfl-ray
"""
_ZSH = """
_dfl_ray_words() { compadd -S '' -- %(words)s; _files }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash or zsh")


def execute(options: argparse.Namespace, commands: Sequence[Command]) -> int:
    """Print the script; nothing of dfl-ray runs while the shell completes."""
    print(script(options.shell, commands))
    return 0


def script(shell: str, commands: Sequence[Command]) -> str:
    """The completion script of a shell.

    Args:
        shell: One of `SHELLS`.
        commands: All commands.

    Returns:
        Text to be evaluated by that shell.
    """
    import shtab

    words = " ".join(_words())
    # The annotation of shtab's argument is narrower than what it takes: a text for each shell.
    preamble: Any = {"bash": _BASH % {"words": words}, "zsh": _ZSH % {"words": words}}
    text = shtab.complete(_tree(commands), shell, root_prefix="dfl_ray", preamble=preamble)
    return text + _BASH_END if shell == "bash" else text


def _words() -> list[str]:
    """Presets, and every key of the default configuration with `=` behind it."""
    from dfl_ray.config import fields
    from dfl_ray.config.load import load_config
    from dfl_ray.config.presets import preset_names
    from dfl_ray.config.schema import Config

    data = load_config(None, []).model_dump(mode="python")
    found = [".".join(key.path) for key in fields.keys(Config, data) if not key.section]
    choosable = [path.removesuffix(".type") for path in found if path.endswith(".type")]
    return [*preset_names(), *(f"{path}=" for path in [*found, *choosable])]


def _tree(every: Sequence[Command]) -> argparse.ArgumentParser:
    """All commands as one parser, with what stands for files, folders and keys marked for shtab."""
    import shtab

    top = argparse.ArgumentParser(prog="dfl-ray", allow_abbrev=False)
    add_common(top)
    commands = top.add_subparsers()
    for command in every:
        parser = commands.add_parser(command.name, help=command.summary, allow_abbrev=False)
        command.add_arguments(parser)
        add_common(parser)
        for action in parser._actions:
            marked: Any = action
            if action.dest in _FOLDERS:
                marked.complete = shtab.DIRECTORY
            elif action.dest in _FILES:
                marked.complete = shtab.FILE
            elif action.dest in ("words", "overrides"):
                marked.complete = {shell: "_dfl_ray_words" for shell in SHELLS}
    return top
