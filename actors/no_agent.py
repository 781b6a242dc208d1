"""Stands in for a helper of Ray's node that a run does not use: says so, and waits for the node's end.

The raylet starts two helpers, one for metrics and the dashboard, one for the settings of workers, and ends when one of
them does. Each is to write the ports that it listens on to files of the session; -1 says that a service is not in use
(Ray's own helper writes that in an installation without a dashboard). This is a script of its own, so that it starts in
a hundredth of a second: `python -I -S no_agent.py SESSION_FOLDER NODE NAME...`.
"""

import os
import sys
import time


def write_ports(folder: str, node: str, names: list[str]) -> None:
    """Say of each service that it is not in use.

    Args:
        folder: Ray's session.
        node: Number of the node, in hexadecimal digits.
        names: Services, as Ray calls their ports.
    """
    for name in names:
        path = os.path.join(folder, f"{name}_{node}")
        with open(f"{path}.new", "w") as file:
            file.write("-1")
        os.replace(f"{path}.new", path)  # whole, for whoever waits for it


def is_raylet(process: int) -> bool:
    """Whether a process is Ray's raylet: one that ended before this script asked has left it to another parent.

    Args:
        process: Its number.
    """
    try:
        with open(f"/proc/{process}/comm") as file:
            return file.read().strip() == "raylet"
    except OSError:  # no such process, or no such folder on this system
        return not os.path.isdir("/proc/self") and process != 1


if __name__ == "__main__":
    raylet = os.getppid()
    write_ports(sys.argv[1], sys.argv[2], sys.argv[3:])
    while is_raylet(raylet) and os.getppid() == raylet:
        time.sleep(1.0)
