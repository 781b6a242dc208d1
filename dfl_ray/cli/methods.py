"""`dfl-ray methods`: what there is, where it comes from, and what each would send."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dfl_ray.cli.common import Options, add_json
from dfl_ray.tracking.terminal import broken, columns

if TYPE_CHECKING:
    from dfl_ray.config.training import TrainingConfig
    from dfl_ray.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration whose bytes are counted, and the page of the documentation."""
    parser.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="CONFIG key=value",
        help="a preset's name or a YAML file (default: preset `default`), then overrides",
    )
    parser.add_argument("--page", action="store_true", help="print docs/methods.md instead")
    add_json(parser)


def execute(options: Options) -> int:
    """Print the methods with the bytes of a round of the configuration, or the page."""
    from dfl_ray.methods.page import about, methods_page

    if options.page:
        print(methods_page(), end="")
        return 0
    from dfl_ray.cli.commands import silence, split_words

    silence(options.verbose)
    from dfl_ray.config.check import check_inputs
    from dfl_ray.config.load import load_config
    from dfl_ray.methods.table import METHODS
    from dfl_ray.simulation.method_bytes import bytes_of_methods
    from dfl_ray.tracking.progress import make_progress

    source, overrides = split_words(options.words)
    config = load_config(source, overrides, say=lambda text: print(f"dfl-ray: {text}", file=sys.stderr))
    check_inputs(config)
    sections = {name: _section(source, name, overrides) for name in METHODS}
    progress = make_progress(quiet=options.json or options.quiet)
    rows, width = [], columns()
    for found in bytes_of_methods(config, sections, progress.step):
        a = about(found.name)
        own = {"method": found.name, "bytes_a_round": found.round_bytes, "problem": found.problem}
        rows.append({**own, **vars(a)})
        if not options.json:
            cost = found.problem if found.round_bytes is None else f"{found.round_bytes / 1e6:.3f} MB a round"
            made = f"trained: {a.trained}; sent: {a.sent}; mixed: {a.mixed}" if a.sent else ""
            lines = broken(f"{found.name}: {a.line}", width, rest="    ")
            for text in filter(None, (f"{cost}; {a.source}", made, a.note)):
                lines += broken(text, width, first="  ", rest="    ")
            print("\n".join(lines))
    if options.json:
        from dfl_ray.cli.commands import print_json

        print_json({"methods": rows})
    return 0


def _section(source: str | None, method: str, overrides: Sequence[str]) -> TrainingConfig | InputError:
    """A method's section, or why the configuration cannot be with that method, or its package not be used."""
    from dfl_ray.config.load import load_config
    from dfl_ray.errors import InputError

    try:
        return load_config(source, words_for(method, overrides)).method
    except ValueError as error:
        return error if isinstance(error, InputError) else InputError(str(error))


def words_for(method: str, overrides: Sequence[str]) -> list[str]:
    """Overrides that give another method what a configuration says of its own: its shared keys, and no others.

    Args:
        method: Name of the method.
        overrides: Texts `key=value`.

    Returns:
        The overrides without keys of `method` that the method's section does not have, and the method's name.
    """
    from dfl_ray.methods.entries import method_section

    known = method_section(method).model_fields
    kept = [
        text
        for text in overrides
        if not (key := text.partition("=")[0]).startswith("method")
        or (key.startswith("method.") and key.split(".")[1] in known and key != "method.type")
    ]
    return [*kept, f"method={method}"]
