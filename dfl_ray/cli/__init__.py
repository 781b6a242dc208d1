"""Command line `dfl-ray`: words in, exit code out.

Only `argparse` is imported here, so that `--help` answers at once; each command imports what it needs when it
runs. Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted and saved.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dfl_ray.errors import InputError, RunError
from dfl_ray.garbage import collect_seldom

EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words behind the program's name; None takes those of this process.

    Returns:
        The exit code. Errors are one paragraph on stderr; the traceback is printed with `-v` only.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbose = any(word in ("-v", "--verbose") for word in words)
    if arguments is None:
        # The small matrices of graphs cost several times as much in threads that wait for each other; NumPy and SciPy
        # are loaded later, and a run holds them to `runtime.threads`.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from dfl_ray.cli.parser import parse_words
        from dfl_ray.simulation.stopping import stopped_by_signals

        command, options = parse_words(words)
        if arguments is None:
            collect_seldom()
        with stopped_by_signals():
            return command.execute(options)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_DONE if stop.code is None else EXIT_FAILED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; a flush at exit would complain once more.
        sys.stdout = None
        return EXIT_DONE
    except KeyboardInterrupt as error:
        how = getattr(error, "__notes__", ())  # a run that has begun says how to go on
        return _explain(" ".join(["Interrupted.", *how]), EXIT_INTERRUPTED, error, verbose)
    except (InputError, RunError) as error:
        return _explain(str(error), error.exit_code, error, verbose)
    except Exception as error:
        return _explain(f"{_told(error)} Run again with -v for the traceback.", EXIT_FAILED, error, verbose)


def _told(error: Exception) -> str:
    """What went wrong, of errors that nobody foresaw: a path that cannot be used is named."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        what = f"`{error.filename}` cannot be read or written. Got: {error.strerror}."
        return f"{what} Give another path, or mend this one."
    return f"Unexpected {type(error).__name__}: {error}".rstrip()


def _explain(text: str, code: int, error: BaseException, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exception(error)
    print(f"dfl-ray: {text}", file=sys.stderr)
    return code
