"""A console whose reader may go away while work goes on."""

from __future__ import annotations

import os
from contextlib import suppress

from rich.console import Console


class LastingConsole(Console):
    """Falls silent when the reader of its output has gone (`dfl-ray run | head`); rich's own ends the process then."""

    def on_broken_pipe(self) -> None:
        """Write nothing more; what the stream still holds goes nowhere, so that a flush at exit does not complain."""
        self.quiet = True
        with suppress(OSError, ValueError):  # a stream without a file below it has nothing to complain about
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self.file.fileno())
            finally:
                os.close(nowhere)
