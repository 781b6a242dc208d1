"""What Ray starts instead of Python: has the fork server make the worker, and lives as long as that.

`python -S -E join.py SOCKET SCRIPT [ARGUMENT ...]`. Without a server it becomes `python SCRIPT [ARGUMENT ...]`. It is
run by its path and imports little, since it is started once for every actor.
"""

import json
import os
import socket
import sys


def main(path: str, arguments: list[str]) -> None:
    """Hand arguments, environment, folder and standard streams to the server; return when the fork has ended."""
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    body = json.dumps(order).encode()
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            socket.send_fds(line, [len(body).to_bytes(8, "big")], [0, 1, 2])
            line.sendall(body)
            forked = line.recv(1)
            if forked:
                line.recv(1)  # nothing comes: the fork holds the other end until it ends
                return
    except OSError:
        pass
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
