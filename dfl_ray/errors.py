"""Typed errors: each says what, what was got, what was expected and what to change.

`InputError` means that the user's input is wrong (exit code 2, no run has begun); `RunError` means that a
run failed after it started, `LostError` that it lost what it ran on (exit code 1); `Interrupted` means that the user
stopped a run that has been saved (exit code 130). All are picklable, so that they cross process borders whole.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path


class InputError(ValueError):
    """Wrong input, found before a run begins.

    Args:
        what: The thing that is wrong, for example a config key or a file.
        got: What was found there.
        expected: What would have been right.
        change: What the user can change, and how.
    """

    exit_code = 2

    def __init__(self, what: str, *, got: str = "", expected: str = "", change: str = "") -> None:
        self.what, self.got, self.expected, self.change = what, got, expected, change
        super().__init__(paragraph(what, got=got, expected=expected, change=change))

    def __reduce__(self):
        """Pickle by parts, since the exception's own args hold only the joined text."""
        return _rebuild, (type(self), self.what, self.got, self.expected, self.change)


class RunError(RuntimeError):
    """A run that failed after it had started; what it had saved stays on disk."""

    exit_code = 1


class LostError(RunError):
    """Processes or machines were lost and could not be replaced; the run goes on later from its last checkpoint."""


class Interrupted(RunError):
    """A run stopped by the user at a round boundary and saved."""

    exit_code = 130


def _rebuild(kind: type[InputError], what: str, got: str, expected: str, change: str) -> InputError:
    return kind(what, got=got, expected=expected, change=change)


def paragraph(what: str, *, got: str = "", expected: str = "", change: str = "") -> str:
    """Join the four parts of an error into one paragraph, leaving out the empty ones.

    Args:
        what: What is wrong.
        got: What was found.
        expected: What would be right.
        change: What the user is to change.

    Returns:
        Sentences with a full stop each, separated by blanks.
    """
    parts = [_sentence(what)]
    if got:
        parts.append(f"Got: {_sentence(got)}")
    if expected:
        parts.append(f"Expected: {_sentence(expected)}")
    if change:
        parts.append(change if change.endswith(("`", ")")) else _sentence(change))
    return " ".join(parts)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word is meant: "did you mean `x`?" if one contains it or is close, else the list of all.

    Words are close if at least three fifths of their letters match in order (`difflib`'s ratio), whatever their case.
    """
    names = sorted(known)
    close = close_words(word, names)
    if not close:
        return "known: " + ", ".join(names)
    return f"did you mean {' or '.join(f'`{name}`' for name in close)}?"


def close_words(word: str, names: Iterable[str]) -> list[str]:
    """The word that is all but the same, else all that contain it (from four letters on), else the nearest."""
    by_case = {name.casefold(): name for name in names}
    said = word.casefold()
    same, near = (get_close_matches(said, by_case, n=1, cutoff=cutoff) for cutoff in (0.8, 0.6))
    containing = [name for name in by_case if len(said) > 3 and said in name]
    return [by_case[name] for name in same or containing or near]


def first_line(error: BaseException, most: int | None = None) -> str:
    """The first line of an error's text; the name of its kind where it has none.

    Args:
        error: The error.
        most: Characters that are kept of it; None keeps all.
    """
    text = str(error).strip()
    return text.splitlines()[0][:most].rstrip() if text else type(error).__name__


def resume_line(run: str | Path) -> str:
    """The command that goes on with a run, as a shell reads it.

    Args:
        run: Its folder or URL.
    """
    return f"dfl-ray resume {shlex.quote(str(run))}"


@contextlib.contextmanager
def way_on_told(how: str) -> Iterator[None]:
    """Have what interrupts the block say how to go on; the command line prints it.

    Args:
        how: One sentence or more.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(how)
        raise


def tell(text: str) -> None:
    """Say something on standard error, which may be gone."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
