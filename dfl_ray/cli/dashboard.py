"""`dfl-ray dashboard`: runs live in the browser."""

from __future__ import annotations

import argparse


def dashboard(options: argparse.Namespace) -> int:
    """`dfl-ray dashboard [RUNS] [--port N]`: serve the pages on 127.0.0.1 until Ctrl-C."""
    from dfl_ray.cli.commands import watched
    from dfl_ray.errors import InputError

    folder = watched(options.folder)
    if not folder.is_dir():
        raise InputError(
            f"There is no folder `{folder}`",
            expected="a folder of runs, or a run folder",
            change="Give one, or start a run first.",
        )
    if not 0 <= options.port <= 65535:
        raise InputError("`--port` cannot be used", got=str(options.port), expected="0 to 65535")
    from dfl_ray.dashboard.server import open_socket, serve

    with open_socket(options.port) as socket:
        port = socket.getsockname()[1]
        print(f"Dashboard of {folder}: http://127.0.0.1:{port}/ (Ctrl-C ends it, runs go on)", flush=True)
        serve(folder, socket)
    return 0
