"""`dfl-ray completion SHELL`: a script by which the shell completes commands, options, presets and keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from dfl_ray.cli.common import Command, add_common

SHELLS = ("bash", "zsh")
_FOLDERS = ("run", "runs", "folder", "out")
_FILES = ("output",)
_WORDS = ("words", "overrides")

_BASH = """
_dfl_ray_presets="%(presets)s"
_dfl_ray_keys="%(keys)s"
_dfl_ray_values="%(values)s"
_dfl_ray_places=" %(places)s "
# $1=keys that may be set, $2=word: keys, or behind `=` the values or files that the key takes
_dfl_ray_offer() {
  local key="${2%%%%=*}="
  if [[ $2 != *=* ]]; then
    compgen -W "$1" -- "$2"
  elif [[ " $1 " == *" $key "* ]]; then
    compgen -W "$_dfl_ray_values" -- "$2"
    if [[ $_dfl_ray_places == *" $key "* ]]; then compgen -P "$key" -f -- "${2#*=}"; fi
  fi
}
"""
_BASH_CONFIG = """
_dfl_ray_words_%(name)s() {
  _dfl_ray_offer "$_dfl_ray_presets $_dfl_ray_keys %(keys)s" "$1"
  if [[ $1 != *=* ]]; then compgen -f -- "$1"; fi
}
"""
_BASH_KEYS = """
_dfl_ray_words_%(name)s() { _dfl_ray_offer "%(keys)s" "$1"; }
"""
_BASH_PLOT = """
_dfl_ray_words_%(name)s() { compgen -W "%(figures)s" -- "$1"; compgen -d -- "$1"; }
"""
_BASH_END = """
# readline parts words at `=` and `:`: they are joined, and what stands before the last one is taken off the answers.
_dfl_ray_complete() {
  local -a words=()
  local rest=$COMP_LINE word last=-1 at=0 i
  for i in "${!COMP_WORDS[@]}"; do
    word=${COMP_WORDS[i]}
    if (( last >= 0 )) && [[ $rest != [[:space:]]* && ( $word == [=:]* || ${words[last]} == *[=:] ) ]]; then
      words[last]+=$word
    else
      words+=("$word")
      last=$(( ${#words[@]} - 1 ))
    fi
    rest=${rest#"${rest%%[![:space:]]*}"}
    rest=${rest#"$word"}
    if (( i == COMP_CWORD )); then at=$last; fi
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$at
  _shtab_dfl_ray "$@"
  local current=${words[at]} sign before="" found
  for sign in "=" ":"; do
    if [[ $current == *"$sign"* && $COMP_WORDBREAKS == *"$sign"* ]]; then
      found=${current%"${current##*"$sign"}"}
      if (( ${#found} > ${#before} )); then before=$found; fi
    fi
  done
  _dfl_ray_finish "$before" "$at"
}
# $1=what readline has already, $2=place of the word: a key waits for its value, and files are quoted and folders go on
_dfl_ray_finish() {
  local i answer path keys=0 paths=0
  for i in "${!COMPREPLY[@]}"; do
    answer=${COMPREPLY[i]#"$1"}
    path=$answer
    if [[ $path == "~"* ]]; then path=$HOME${path#"~"}; fi
    if [[ $answer == *= ]]; then keys=1; elif (( $2 > 1 )) && [[ -e $path ]]; then paths=1; fi
    COMPREPLY[i]=$answer
  done
  compopt +o filenames
  if (( paths && ! keys )); then compopt -o filenames; fi
  if (( keys && ${#COMPREPLY[@]} == 1 )); then compopt -o nospace; fi
}
complete -F _dfl_ray_complete dfl-ray
"""
_ZSH = """
_dfl_ray_presets=(%(presets)s)
_dfl_ray_keys=(%(keys)s)
_dfl_ray_values=(%(values)s)
_dfl_ray_places=(%(places)s)
# all arguments are keys that may be set
_dfl_ray_offer() {
  if [[ $PREFIX != *=* ]]; then compadd -S '' -- "$@"; return; fi
  local key="${PREFIX%%%%=*}="
  (( ${@[(Ie)$key]} )) || return 1
  compadd -- $_dfl_ray_values
  if (( ${_dfl_ray_places[(Ie)$key]} )); then compset -P 1 '*='; _files; fi
}
"""
_ZSH_CONFIG = """
_dfl_ray_words_%(name)s() {
  _dfl_ray_offer $_dfl_ray_keys %(keys)s
  if [[ $PREFIX != *=* ]]; then compadd -- $_dfl_ray_presets; _files; fi
}
"""
_ZSH_KEYS = """
_dfl_ray_words_%(name)s() { _dfl_ray_offer %(keys)s }
"""
_ZSH_PLOT = """
_dfl_ray_words_%(name)s() { compadd -- %(figures)s; _files -/ }
"""
_PARTS = {
    "bash": (_BASH, _BASH_CONFIG, _BASH_KEYS, _BASH_PLOT),
    "zsh": (_ZSH, _ZSH_CONFIG, _ZSH_KEYS, _ZSH_PLOT),
}


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

    # The annotation of shtab's argument is narrower than what it takes: a text for each shell.
    preamble: Any = {shell: _preamble(shell, commands) for shell in SHELLS}
    text = shtab.complete(_tree(commands), shell, root_prefix="dfl_ray", preamble=preamble)
    return text + _BASH_END if shell == "bash" else text


def _preamble(shell: str, commands: Sequence[Command]) -> str:
    """Functions that offer a configuration's words, keys or figures, one for each command that takes them."""
    from dfl_ray.cli.completion_words import TAKES, all_words

    words = all_words()
    first, of_config, of_keys, of_plot = _PARTS[shell]

    def told(keys: Iterable[str]) -> str:
        return " ".join(f"{key}=" for key in keys)

    lists = {name: " ".join(getattr(words, name)) for name in ("presets", "values", "figures")}
    parts = [first % {**lists, "places": told(words.places), "keys": told(words.keys)}]
    for command in commands:
        own = TAKES.get(command.name)
        form = of_plot if command.name == "plot" else of_config if own is None else of_keys
        of_sweep = ["seeds", "samples"] if command.name == "sweep" else []
        keys = of_sweep if own is None else filter(own, words.keys)
        if _takes_words(command):
            parts.append(form % {**lists, "name": command.name, "keys": told(keys)})
    return "".join(parts)


def _takes_words(command: Command) -> bool:
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    return any(action.dest in _WORDS for action in parser._actions)


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
            elif action.dest in _WORDS:
                marked.complete = {shell: f"_dfl_ray_words_{command.name}" for shell in SHELLS}
    return top
