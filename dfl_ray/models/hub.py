"""Asks whether a hub can be had before a library does, which without a network tries for a minute and says so often."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from dfl_ray.errors import InputError

TIMEOUT_S = 5.0
"""Longest wait for the hub to take a connection."""


def check_hub(name: str | Path, *, asked_by: str, kind: str = "model", prepared: Path | None = None) -> None:
    """Refuse a hub id that is neither in the cache nor can be fetched; says nothing of what is a path here.

    Nothing is tried where the hub's own offline mode is on, where a proxy stands between, or where the cache knows the
    id: then the library knows better.

    Args:
        name: Folder or hub id.
        asked_by: The key of the configuration that names it.
        kind: "model" or "dataset", as the hub calls them.
        prepared: Folder of another cache that may hold it.

    Raises:
        InputError: The hub takes no connection.
    """
    path = str(name)
    if Path(name).exists() or path.startswith(("/", ".", "~")) or path.count("/") > 1:
        return
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    cached = Path(constants.HF_HUB_CACHE) / f"{kind}s--{path.replace('/', '--')}"
    there = cached.is_dir() or (prepared is not None and prepared.is_dir())
    if there or constants.HF_HUB_OFFLINE or address.scheme in urllib.request.getproxies():
        return
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        raise InputError(
            f"`{asked_by}`: the {kind} `{name}` is no folder here and its hub can't be reached",
            got=f"{host}:{port}: {error.strerror or error}",
            expected=f"a local folder, or a {kind} that is in the cache ({constants.HF_HUB_CACHE})",
            change=f"Check `{asked_by}`, or fetch it where there is a network: hf download {name}"
            + ("" if kind == "model" else f" --repo-type {kind}"),
        ) from error
