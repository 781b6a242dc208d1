"""What Ray starts instead of Python: has the fork server make the worker, and lives as long as that.

`python -S -E join.py SOCKET SCRIPT [ARGUMENT ...]`. Without a server it becomes `python SCRIPT [ARGUMENT ...]`. It is
run by its path and imports little, since it is started once for every actor.
"""

import json
import os
import socket
import sys


def order_fork(path: str, arguments: list[str]) -> bool:
    """Hand arguments, environment, folder and standard streams to the server.

    Args:
        path: Its socket.
        arguments: A script and its arguments.

    Returns:
        Whether it has forked. Standard input is then a line whose other end the fork holds until it ends.
    """
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    body = json.dumps(order).encode()
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            socket.send_fds(line, [len(body).to_bytes(8, "big")], [0, 1, 2])
            line.sendall(body)
            if not line.recv(1):
                return False
            os.dup2(line.fileno(), 0)
    except OSError:
        return False
    return True


def wait_for_end() -> None:
    """Wait until standard input ends, in a program smaller than Python where there is one; nothing comes through it."""
    try:
        os.execvp("cat", ["cat"])
    except OSError:
        os.read(0, 1)


def main(path: str, arguments: list[str]) -> None:
    """Become the worker's stand-in, or, without a server, the worker."""
    if order_fork(path, arguments):
        wait_for_end()
    else:
        os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
